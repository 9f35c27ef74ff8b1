//! The mails that wait, on root: `<state>/queue/`, one file a mail.
//!
//! A name begins with the time at which the mail was made, so that sorted names go from old to new. A mail is written whole
//! and synced before anything is sent, and removed only after the server has accepted it. Two runs may end at once, so
//! sending wants a lock; who doesn't get it leaves its mail to the holder or to the next run.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::{Delivery, Failure};
use crate::durable;

/// How many mails wait at most: two months of nights. The oldest beyond go unsent.
const MOST: usize = 60;

/// A `.part` this old is left from a power cut; a younger one may still be written by another run.
const LEFTOVER: Duration = Duration::from_hours(1);

/// What sends one mail, and gives what isn't right although it was sent.
pub type Send<'a> = dyn FnMut(&[u8]) -> Result<Vec<String>, Failure> + 'a;

/// The queue of one appliance.
#[derive(Debug)]
pub struct Queue {
    folder: PathBuf,
}

impl Queue {
    /// The queue below the state folder, which is made by the first mail.
    pub fn below(state: &Path) -> Self {
        Self { folder: state.join("queue") }
    }

    /// Keeps a mail: when this returns, a power cut doesn't lose it.
    pub fn put(&self, name: &str, mail: &[u8]) -> Result<()> {
        durable::private_folder(&self.folder)?;
        durable::sync_folder_of(&self.folder)?;
        durable::write(&self.folder.join(format!("{name}.eml")), mail, 0o600)
    }

    /// The file names of the mails that wait, oldest first.
    pub fn waiting(&self) -> Result<Vec<String>> {
        self.names(".eml")
    }

    /// Gives each mail to `send`, oldest first, until one fails for a reason that the next would meet too.
    pub fn send_all(&self, send: &mut Send<'_>, delivery: &mut Delivery) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let Some(_lock) = self.lock()? else {
            bail!("the mails are being sent by another process; what is left stays in the queue");
        };
        self.remove_leftovers()?;
        for name in self.waiting()? {
            match self.hand_over(&name, send) {
                Ok(problems) => {
                    delivery.sent += 1;
                    delivery.problems.extend(problems);
                }
                Err(Failure::Mail(error)) => delivery.problem(&error),
                Err(Failure::Server(error)) => {
                    delivery.problem(&error);
                    break;
                }
            }
        }
        self.bound()
    }

    /// Gives one mail to `send`, and removes it when it was taken.
    fn hand_over(&self, name: &str, send: &mut Send<'_>) -> Result<Vec<String>, Failure> {
        let path = self.folder.join(name);
        let mail = fs::read(&path).with_context(|| format!("reading the mail {}", path.display())).map_err(Failure::Mail)?;
        let mut problems = send(&mail)?;
        // The server has it: what goes wrong from here on makes it arrive a second time, no more.
        if let Err(error) = remove(&path).and_then(|()| durable::sync_folder_of(&path)) {
            problems.push(format!("{error:#}"));
        }
        Ok(problems)
    }

    /// Asks once, without waiting, for the right to send.
    fn lock(&self) -> Result<Option<Flock<File>>> {
        let path = self.folder.join("lock");
        let locking = || format!("locking {}", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .with_context(locking)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).with_context(locking),
        }
    }

    /// Removes what a power cut left half written.
    fn remove_leftovers(&self) -> Result<()> {
        for name in self.names(".part")? {
            let path = self.folder.join(name);
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Drops the oldest mails beyond the bound.
    fn bound(&self) -> Result<()> {
        let names = self.waiting()?;
        for name in &names[..names.len().saturating_sub(MOST)] {
            tracing::warn!("more than {MOST} mails wait: the oldest, {name}, goes unsent");
            remove(&self.folder.join(name))?;
        }
        Ok(())
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
    use std::time::{Duration, SystemTime};

    use anyhow::anyhow;

    use super::{Delivery, Failure, Queue};

    fn filled(mails: &[&str]) -> (tempfile::TempDir, Queue) {
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::below(state.path());
        for mail in mails {
            queue.put(mail, mail.as_bytes()).unwrap();
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
        if let Err(error) = queue.send_all(&mut send, &mut delivery) {
            delivery.problem(&error);
        }
        (met, delivery.sent, delivery.problems, queue.waiting().unwrap())
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| String::from(*word)).collect()
    }

    #[test]
    fn what_the_server_takes_goes_oldest_first_and_only_then_leaves() {
        let (state, queue) = filled(&["2", "1", "3"]);
        let folder = state.path().join("queue");
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.join("1.eml")).unwrap().permissions().mode() & 0o777, 0o600);
        let mut left = Vec::new();
        let mut send = |_: &[u8]| {
            left.push(queue.waiting().unwrap().len());
            Ok(Vec::new())
        };
        queue.send_all(&mut send, &mut Delivery::default()).unwrap();
        assert_eq!(left, [3, 2, 1], "a mail is there while it is sent");
        assert_eq!(queue.waiting().unwrap(), strings(&[]));
    }

    #[test]
    fn a_refused_mail_stays_and_lets_the_others_pass() {
        let (_state, queue) = filled(&["1", "2", "3"]);
        let refused = attempt(&queue, |mail| (mail == "2").then(|| Failure::Mail(anyhow!("no"))));
        assert_eq!(refused, (strings(&["1", "2", "3"]), 2, strings(&["no"]), strings(&["2.eml"])));
    }

    #[test]
    fn a_dead_server_is_asked_once() {
        let (_state, queue) = filled(&["1", "2", "3"]);
        let stopped = attempt(&queue, |mail| (mail == "2").then(|| Failure::Server(anyhow!("dead"))));
        assert_eq!(stopped, (strings(&["1", "2"]), 1, strings(&["dead"]), strings(&["2.eml", "3.eml"])));
    }

    #[test]
    fn while_another_sends_nothing_is_sent() {
        let (_state, queue) = filled(&["1"]);
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
        let (met, _, _, left) = attempt(&queue, |_| Some(Failure::Server(anyhow!("dead"))));
        assert_eq!((met, left.len(), left[0].as_str()), (strings(&["00"]), 60, "02.eml"));
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
