//! The mails that wait, on root: `<state>/queue/`, one file a mail, and its short form beside it where it has one.
//!
//! A name begins with the time at which the mail was made, so that sorted names go from old to new. A mail is written whole
//! and synced before anything is sent, and removed only after the server has accepted it. Two runs may end at once, so
//! sending wants a lock. Its holder looks for new mails until there are none; who doesn't get it waits a while, and then
//! leaves its mail to the holder.
//!
//! A mail that is too large for the server goes in its short form, `NAME.short`, and then both leave the queue.

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
use super::mail::Failure;
use crate::durable;

/// How long another process is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `.part` this old is left from a power cut; a younger one may still be written by another run.
const LEFTOVER: Duration = Duration::from_hours(1);

/// What sends one mail, and gives what isn't right although it was sent.
pub type Send<'a> = dyn FnMut(&[u8]) -> Result<Vec<String>, Failure> + 'a;

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
            durable::write(&self.short_of(name), short, 0o600)?;
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
        match self.hand_over(name, send) {
            Ok(problems) => {
                delivery.sent += 1;
                delivery.problems.extend(problems);
            }
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
        let path = self.short_of(stem(name));
        let Ok(short) = fs::read(&path) else {
            self.refused(name, delivery);
            return true;
        };
        match send(&short) {
            Ok(problems) => {
                delivery.sent += 1;
                delivery.problems.extend(problems);
                if let Err(error) = self.remove(name).and_then(|()| durable::sync_folder_of(&path)) {
                    delivery.problem(&error);
                }
            }
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
            self.remove(name)?;
            return Ok(Some(format!(
                "the mail {name} is dropped: the server refused it too often\n\
                 hint: what it told is in the run's log on the appliance"
            )));
        };
        fs::rename(&path, self.folder.join(&next)).with_context(|| format!("renaming {} to {next}", path.display()))?;
        Ok(None)
    }

    /// Gives one mail to `send`, and removes it when it was taken.
    fn hand_over(&self, name: &str, send: &mut Send<'_>) -> Result<Vec<String>, Failure> {
        let path = self.folder.join(name);
        let mail = fs::read(&path).with_context(|| format!("reading the mail {}", path.display())).map_err(Failure::Mail)?;
        let mut problems = send(&mail)?;
        // The server has it: what goes wrong from here on makes it arrive a second time, no more.
        if let Err(error) = self.remove(name).and_then(|()| durable::sync_folder_of(&path)) {
            problems.push(format!("{error:#}"));
        }
        Ok(problems)
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
            .custom_flags(OFlag::O_NOFOLLOW.bits())
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
        let shorts = self.names(".short")?.into_iter().filter(is_left);
        for name in self.names(".part")?.into_iter().chain(shorts) {
            let path = self.folder.join(name);
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Drops the oldest mails beyond the bounds, and gives a line for each.
    pub fn bound(&self) -> Result<Vec<String>> {
        let names = self.waiting()?;
        // One that is gone has no size.
        let size = |name: &String| fs::metadata(self.folder.join(name)).map_or(0, |metadata| metadata.len());
        let sizes: Vec<u64> = names.iter().map(size).collect();
        let mut dropped = Vec::new();
        for name in &names[..surplus(&sizes)] {
            self.remove(name)?;
            dropped.push(format!("more than {MOST} mails or {} MiB wait: the oldest, {name}, goes unsent", MOST_BYTES >> 20));
        }
        Ok(dropped)
    }

    /// Removes a mail, and its short form after it.
    fn remove(&self, name: &str) -> Result<()> {
        remove(&self.folder.join(name))?;
        let short = self.short_of(stem(name));
        if short.exists() { remove(&short) } else { Ok(()) }
    }

    fn short_of(&self, stem: &str) -> PathBuf {
        self.folder.join(format!("{stem}.short"))
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
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, SystemTime};

    use anyhow::anyhow;

    use super::{Delivery, Failure, Queue, Which};

    fn filled(mails: &[&str]) -> (tempfile::TempDir, Queue) {
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::below(state.path());
        for mail in mails {
            queue.put(mail, mail.as_bytes(), None).unwrap();
        }
        (state, queue)
    }

    /// Sends all with a server that fails at some, and gives what it met, what came of it and what is left.
    fn attempt(queue: &Queue, fails: impl Fn(&str) -> Option<Failure>) -> (Vec<String>, usize, Vec<String>, Vec<String>) {
        let (mut met, mut delivery) = (Vec::new(), Delivery::default());
        let mut send = |mail: &[u8]| {
            let mail = String::from_utf8(mail.to_vec()).unwrap();
            let failure = fails(&mail);
            met.push(mail);
            failure.map_or(Ok(Vec::new()), Err)
        };
        let (tell, told) = mpsc::channel();
        if let Err(error) = queue.send(Which::All, &mut send, &tell) {
            delivery.problem(&error);
        }
        for part in told.try_iter() {
            delivery.add(part);
        }
        (met, delivery.sent, delivery.problems, queue.waiting().unwrap())
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| String::from(*word)).collect()
    }

    #[test]
    fn what_the_server_takes_leaves_and_only_then() {
        let (state, queue) = filled(&["2", "1", "3"]);
        let folder = state.path().join("queue");
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.join("1.eml")).unwrap().permissions().mode() & 0o777, 0o600);
        let mut left = Vec::new();
        let (tell, _told) = mpsc::channel();
        let mut send = |_: &[u8]| {
            left.push(queue.waiting().unwrap().len());
            Ok(Vec::new())
        };
        queue.send(Which::All, &mut send, &tell).unwrap();
        assert_eq!(left, [3, 2, 1], "a mail is there while it is sent");
        assert_eq!(queue.waiting().unwrap(), strings(&[]));
    }

    #[test]
    fn the_newest_goes_first_and_then_from_the_oldest_on() {
        let (_state, queue) = filled(&["2", "4", "1", "3"]);
        assert_eq!(attempt(&queue, |_| None), (strings(&["4", "1", "2", "3"]), 4, strings(&[]), strings(&[])));
    }

    #[test]
    fn a_mail_that_fails_stays_and_lets_the_others_pass() {
        let (_state, queue) = filled(&["1", "2", "3"]);
        let failed = attempt(&queue, |mail| (mail != "2").then(|| Failure::Mail(anyhow!("later"))));
        assert_eq!(failed, (strings(&["3", "1", "2"]), 1, strings(&["later"]), strings(&["1.eml", "3.eml"])));
    }

    #[test]
    fn a_mail_refused_five_times_is_dropped_and_told() {
        let (_state, queue) = filled(&["1", "2"]);
        let never = |mail: &str| (mail == "1").then(|| Failure::Refused(anyhow!("never")));
        assert_eq!(attempt(&queue, never), (strings(&["2", "1"]), 1, strings(&["never"]), strings(&["1.1.eml"])));
        for left in ["1.2.eml", "1.3.eml", "1.4.eml"] {
            assert_eq!(attempt(&queue, never), (strings(&["1"]), 0, strings(&["never"]), strings(&[left])));
        }
        let dropped = "the mail 1.4.eml is dropped: the server refused it too often\n\
                       hint: what it told is in the run's log on the appliance";
        assert_eq!(attempt(&queue, never), (strings(&["1"]), 0, strings(&["never", dropped]), strings(&[])));
    }

    #[test]
    fn a_mail_that_is_too_large_goes_in_its_short_form() {
        let (state, queue) = filled(&["1", "3"]);
        queue.put("2", b"2", Some(b"short 2")).unwrap();
        let failed = attempt(&queue, |mail| (mail == "2").then(|| Failure::TooLarge(anyhow!("too large"))));
        assert_eq!(failed, (strings(&["3", "1", "2", "short 2"]), 3, strings(&["too large"]), strings(&[])));
        assert!(!state.path().join("queue/2.short").exists());
        queue.put("2", b"2", Some(b"short 2")).unwrap();
        assert_eq!(attempt(&queue, |mail| (mail == "2").then(|| Failure::TooLarge(anyhow!("too large")))).1, 1);
    }

    #[test]
    fn what_has_no_short_form_or_one_that_is_refused_counts_as_refused() {
        let (state, queue) = filled(&["1"]);
        queue.put("2", b"2", Some(b"short")).unwrap();
        let failed = attempt(&queue, |_| Some(Failure::TooLarge(anyhow!("too large"))));
        assert_eq!(failed, (strings(&["2", "short", "1"]), 0, strings(&["too large"]), strings(&["1.1.eml", "2.1.eml"])));
        assert!(state.path().join("queue/2.short").exists());
        let later = attempt(&queue, |mail| {
            Some(if mail == "short" { Failure::Mail(anyhow!("later")) } else { Failure::TooLarge(anyhow!("too large")) })
        });
        assert_eq!(later.3, strings(&["1.2.eml", "2.1.eml"]));
        for _ in 0..5 {
            attempt(&queue, |_| Some(Failure::Refused(anyhow!("never"))));
        }
        assert_eq!(fs::read_dir(state.path().join("queue")).unwrap().count(), 1, "only the lock");
    }

    #[test]
    fn between_runs_the_refused_ones_rest() {
        let (_state, queue) = filled(&["1", "2"]);
        attempt(&queue, |mail| (mail == "1").then(|| Failure::Refused(anyhow!("never"))));
        let (tell, _told) = mpsc::channel();
        queue.send(Which::NotRefused, &mut |_| panic!("none is left to try"), &tell).unwrap();
        assert_eq!(queue.waiting().unwrap(), strings(&["1.1.eml"]));
    }

    #[test]
    fn what_comes_while_it_sends_is_sent_too() {
        let (_state, queue) = filled(&["1"]);
        let sent = attempt(&queue, |mail| {
            if mail == "1" {
                queue.put("2", b"2", None).unwrap();
            }
            None
        });
        assert_eq!(sent, (strings(&["1", "2"]), 2, strings(&[]), strings(&[])));
    }

    #[test]
    fn when_nobody_listens_it_stops() {
        let (_state, queue) = filled(&["1", "2"]);
        let (tell, _) = mpsc::channel();
        queue.send(Which::All, &mut |_| Ok(Vec::new()), &tell).unwrap();
        assert_eq!(queue.waiting().unwrap(), strings(&["1.eml"]));
    }

    #[test]
    fn a_dead_server_is_asked_once() {
        let (_state, queue) = filled(&["1", "2", "3"]);
        let stopped = attempt(&queue, |mail| (mail == "2").then(|| Failure::Server(anyhow!("dead"))));
        assert_eq!(stopped, (strings(&["3", "1", "2"]), 2, strings(&["dead"]), strings(&["2.eml"])));
    }

    #[test]
    fn another_that_sends_is_waited_for() {
        let (_state, queue) = filled(&["1"]);
        let lock = queue.lock().unwrap().unwrap();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            drop(lock);
        });
        assert_eq!(attempt(&queue, |_| None), (strings(&["1"]), 1, strings(&[]), strings(&[])));
        other.join().unwrap();
    }

    #[test]
    fn while_another_sends_nothing_is_sent() {
        let (_state, mut queue) = filled(&["1"]);
        assert_eq!(queue.patience, Duration::from_secs(30));
        queue.patience = Duration::from_millis(200);
        let lock = queue.lock().unwrap().unwrap();
        let told = strings(&["the mails are being sent by another process; what is left stays in the queue"]);
        assert_eq!(attempt(&queue, |_| None), (strings(&[]), 0, told, strings(&["1.eml"])));
        drop(lock);
        assert_eq!(attempt(&queue, |_| None).1, 1);
    }

    #[test]
    fn sixty_wait_at_most_and_the_oldest_go() {
        let names: Vec<String> = (0..62).map(|number| format!("{number:02}")).collect();
        let (_state, queue) = filled(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (met, _, problems, left) = attempt(&queue, |_| Some(Failure::Server(anyhow!("dead"))));
        assert_eq!((met, left.len(), left[0].as_str()), (strings(&["61"]), 60, "02.eml"));
        let told = ["00", "01"].map(|name| format!("more than 60 mails or 64 MiB wait: the oldest, {name}.eml, goes unsent"));
        assert_eq!(problems, [&["dead".to_owned()][..], &told].concat());
    }

    #[test]
    fn the_queue_has_a_bound_in_bytes_too() {
        let (state, queue) = filled(&["1", "2", "3"]);
        for (name, mebibytes) in [("1", 10), ("2", 60), ("3", 4)] {
            let mail = File::options().write(true).open(state.path().join(format!("queue/{name}.eml"))).unwrap();
            mail.set_len(mebibytes << 20).unwrap();
        }
        assert_eq!(queue.bound().unwrap(), ["more than 60 mails or 64 MiB wait: the oldest, 1.eml, goes unsent"]);
        assert_eq!(queue.waiting().unwrap(), strings(&["2.eml", "3.eml"]));
    }

    #[test]
    fn an_old_part_is_removed_and_a_young_one_left_to_its_writer() {
        let (state, queue) = filled(&["1"]);
        let folder = state.path().join("queue");
        let old = File::create(folder.join("0.eml.part")).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
        File::create(folder.join("2.eml.part")).unwrap();
        assert_eq!(attempt(&queue, |_| None).1, 1);
        assert_eq!((folder.join("0.eml.part").exists(), folder.join("2.eml.part").exists()), (false, true));
    }

    #[test]
    fn without_a_mail_there_is_no_folder() {
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::below(state.path());
        assert_eq!(attempt(&queue, |_| None), (strings(&[]), 0, strings(&[]), strings(&[])));
        assert!(!state.path().join("queue").exists());
    }
}
