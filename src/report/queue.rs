//! The mails that wait, on root: `<state>/queue/`, one file a mail, and its short form beside it where it has one.
//!
//! A name begins with the time at which the mail was made, so that sorted names go from old to new. A mail is written whole
//! and synced before anything is sent, and removed only after the server has accepted it. Two runs may end at once, so
//! sending wants a lock. Its holder looks for new mails until there are none; who doesn't get it waits a while, and then
//! leaves its mail to the holder.
//!
//! A mail that is too large for the server goes in its short form, `NAME.short`, and then both leave the queue. One that was
//! taken for some of the recipients waits for those that were refused for now; `NAME.done` names all others, one a line.

mod files;
mod losses;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::Delivery;
use super::limits::{MOST, MOST_BYTES, refused_once_more, stem, surplus, was_refused};
use super::mail::{Failure, Taken};
use crate::durable;
pub use losses::Loss;

/// How long another process is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `.part` this old is left from a power cut; a younger one may still be written by another run.
const LEFTOVER: Duration = Duration::from_hours(1);

/// The end of a mail's short form.
const SHORT: &str = ".short";

/// The end of the list of those whom a mail needn't go to any more.
const DONE: &str = ".done";

/// The end of the list of losses that a mail tells of.
const TELLS: &str = ".tells";

/// What may stand beside a mail, and goes with it.
const BESIDE: [&str; 3] = [SHORT, DONE, TELLS];

/// What sends one mail, to all but these recipients.
pub type Send<'a> = dyn FnMut(&[u8], &[String]) -> Result<Taken, Failure> + 'a;

/// Which of the mails are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that wait.
    All,
    /// Those that no server has refused for good: the others have a turn with each run, so that they aren't refused five
    /// times within hours.
    NotRefused,
}

/// The queue of one appliance.
#[derive(Clone, Debug)]
pub struct Queue {
    folder: PathBuf,
    patience: Duration,
}

impl Queue {
    /// The queue below the state folder, which is made by the first mail.
    pub fn below(state: &Path) -> Self {
        Self { folder: state.join("queue"), patience: PATIENCE }
    }

    /// Keeps a mail: when this returns, a power cut doesn't lose it.
    pub fn put(&self, name: &str, mail: &[u8], short: Option<&[u8]>) -> Result<()> {
        durable::private_folder(&self.folder)?;
        durable::sync_folder_of(&self.folder)?;
        // First, so that whoever finds the mail finds it.
        if let Some(short) = short {
            durable::write(&self.beside(name, SHORT), short, 0o600)?;
        }
        durable::write(&self.folder.join(format!("{name}.eml")), mail, 0o600)
    }

    /// The file names of the mails that wait, oldest first.
    pub fn waiting(&self) -> Result<Vec<String>> {
        self.names(".eml")
    }

    /// Gives each mail of this choice to `send`, the newest and then from the oldest on, those too that come meanwhile, until
    /// one fails for a reason that the next would meet too. What came of each goes to `tell`; when nobody listens any more, it
    /// stops.
    pub fn send(&self, which: Which, send: &mut Send<'_>, tell: &Sender<Delivery>) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let Some(_lock) = self.lock()? else {
            bail!("the mails are being sent by another process; what is left stays in the queue");
        };
        self.remove_leftovers()?;
        let mut tried = BTreeSet::new();
        while let Some(name) = self.next(which, &tried)? {
            tried.insert(stem(&name).to_owned());
            let mut delivery = Delivery::default();
            let alive = self.attempt(&name, send, &mut delivery);
            if tell.send(delivery).is_err() {
                return Ok(());
            }
            if !alive {
                break;
            }
        }
        // Nobody who listens, nothing to tell.
        let _ = tell.send(Delivery { problems: self.bound()?, ..Delivery::default() });
        Ok(())
    }

    /// The next mail to send: tonight's tells most, and then those that wait have their turns.
    fn next(&self, which: Which, tried: &BTreeSet<String>) -> Result<Option<String>> {
        let chosen = |name: &String| which == Which::All || !was_refused(name);
        let mut left = self.waiting()?.into_iter().filter(|name| chosen(name) && !tried.contains(stem(name)));
        Ok(if tried.is_empty() { left.next_back() } else { left.next() })
    }

    /// Tries one mail, tells what came of it in `delivery`, and gives whether the server may take another.
    fn attempt(&self, name: &str, send: &mut Send<'_>, delivery: &mut Delivery) -> bool {
        match self.hand_over(name, &self.folder.join(name), send, delivery) {
            Ok(()) => (),
            Err(Failure::Mail(error)) => delivery.problem(&error),
            Err(Failure::TooLarge(error)) => {
                delivery.problem(&error);
                return self.attempt_short(name, send, delivery);
            }
            Err(Failure::Refused(error)) => {
                delivery.problem(&error);
                self.refused(name, delivery);
            }
            Err(Failure::Server(error)) => {
                delivery.problem(&error);
                return false;
            }
        }
        true
    }

    /// Tries the short form of a mail that was too large. Without one the mail counts as refused.
    fn attempt_short(&self, name: &str, send: &mut Send<'_>, delivery: &mut Delivery) -> bool {
        let path = self.beside(name, SHORT);
        if !path.exists() {
            self.refused(name, delivery);
            return true;
        }
        match self.hand_over(name, &path, send, delivery) {
            Ok(()) => (),
            Err(Failure::Refused(error) | Failure::TooLarge(error)) => {
                delivery.problem(&error);
                self.refused(name, delivery);
            }
            Err(Failure::Mail(error)) => delivery.problem(&error),
            Err(Failure::Server(error)) => {
                delivery.problem(&error);
                return false;
            }
        }
        true
    }

    fn refused(&self, name: &str, delivery: &mut Delivery) {
        match self.count_refusal(name) {
            Ok(dropped) => delivery.problems.extend(dropped),
            Err(error) => delivery.problem(&error),
        }
    }

    /// Counts in a mail's name that it was refused. After the last time the mail is dropped, and that is told.
    fn count_refusal(&self, name: &str) -> Result<Option<String>> {
        let path = self.folder.join(name);
        let Some(next) = refused_once_more(name) else {
            let told = format!(
                "the mail {name} is dropped: the server refused it too often\n\
                 hint: what it told is in the run's log on the appliance"
            );
            self.lose(&told, &[])?;
            self.remove(name)?;
            return Ok(Some(told));
        };
        fs::rename(&path, self.folder.join(&next)).with_context(|| format!("renaming {} to {next}", path.display()))?;
        Ok(None)
    }

    /// Gives one mail to `send`, in the form that stands at `path`, and removes it when it was taken for everybody.
    fn hand_over(&self, name: &str, path: &Path, send: &mut Send<'_>, delivery: &mut Delivery) -> Result<(), Failure> {
        let mail = files::mail(path).map_err(Failure::Mail)?;
        let done = self.lines(name, DONE).map_err(Failure::Mail)?;
        let tells = self.lines(name, TELLS).map_err(Failure::Mail)?;
        let taken = send(&mail, &done)?;
        // The server has it: what goes wrong from here on makes it arrive a second time, no more.
        let lost = taken.refused.iter().try_for_each(|refused| self.lose(refused, &tells));
        let settled = if taken.is_partial {
            self.write_lines(name, DONE, &[done, taken.done].concat())
        } else {
            delivery.sent += 1;
            self.remove(name).and_then(|()| durable::sync_folder_of(path))
        };
        delivery.problems.extend(taken.refused.into_iter().chain(taken.problems));
        for error in [lost, settled, self.forget(&tells)].into_iter().filter_map(Result::err) {
            delivery.problem(&error);
        }
        Ok(())
    }

    /// A list that stands beside a mail; empty where there is none.
    fn lines(&self, name: &str, end: &str) -> Result<Vec<String>> {
        let path = self.beside(name, end);
        let text = files::text(&path)?.unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn write_lines(&self, name: &str, end: &str, lines: &[String]) -> Result<()> {
        durable::write(&self.beside(name, end), format!("{}\n", lines.join("\n")).as_bytes(), 0o600)
    }

    /// Asks for the right to send, for as long as there is patience.
    fn lock(&self) -> Result<Option<Flock<File>>> {
        let path = self.folder.join("lock");
        let locking = || format!("locking {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path)
            .with_context(locking)?;
        let until = Instant::now() + self.patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(lock)),
                Err((same, Errno::EWOULDBLOCK)) if Instant::now() < until => file = same,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno).with_context(locking),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes what a power cut left half written.
    fn remove_leftovers(&self) -> Result<()> {
        let waiting = self.waiting()?;
        let is_left = |name: &String| !waiting.iter().any(|mail| stem(mail) == stem(name));
        let mut beside = Vec::new();
        for end in BESIDE {
            beside.extend(self.names(end)?.into_iter().filter(is_left));
        }
        for name in self.names(".part")?.into_iter().chain(beside) {
            let path = self.folder.join(name);
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Keeps the queue within its bounds: the oldest mails are cut to their short forms, and dropped where that isn't enough.
    /// Gives a line for each. What isn't ours counts for nothing, and stays.
    pub fn bound(&self) -> Result<Vec<String>> {
        let ours = self.waiting()?.into_iter().filter_map(|name| Some((files::size(&self.folder.join(&name))?, name)));
        let (mut sizes, names): (Vec<u64>, Vec<String>) = ours.unzip();
        let too_many = names.len().saturating_sub(MOST);
        let mut told = Vec::new();
        for (at, name) in names.iter().enumerate().skip(too_many) {
            if surplus(&sizes) <= too_many {
                break;
            }
            let (path, short) = (self.folder.join(name), self.beside(name, SHORT));
            if short.exists() {
                fs::rename(&short, &path).with_context(|| format!("renaming {} to {name}", short.display()))?;
                // One that is gone has no size.
                sizes[at] = files::size(&path).unwrap_or(0);
                told.push(format!("more than {} MiB wait: of the mail {name} only the text is kept", MOST_BYTES >> 20));
            }
        }
        for name in &names[..surplus(&sizes)] {
            let dropped = format!("more than {MOST} mails or {} MiB wait: the oldest, {name}, goes unsent", MOST_BYTES >> 20);
            // Where nothing more can be written, room matters most.
            told.extend(self.lose(&dropped, &[]).err().map(|error| format!("{error:#}")));
            self.remove(name)?;
            told.push(dropped);
        }
        Ok(told)
    }

    /// Removes a mail, and what stands beside it after it.
    fn remove(&self, name: &str) -> Result<()> {
        remove(&self.folder.join(name))?;
        let beside = BESIDE.map(|end| self.beside(name, end));
        beside.iter().filter(|path| path.exists()).try_for_each(|path| remove(path))
    }

    /// What belongs to a mail, by its `end`.
    fn beside(&self, name: &str, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", stem(name)))
    }

    /// The sorted names that end in `end`; none without the folder.
    fn names(&self, end: &str) -> Result<Vec<String>> {
        let reading = || format!("reading the folder {}", self.folder.display());
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(reading)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.with_context(reading)?.file_name().into_string();
            names.extend(name.ok().filter(|name| name.ends_with(end)));
        }
        names.sort();
        Ok(names)
    }
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests;
