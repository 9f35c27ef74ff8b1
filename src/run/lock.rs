//! One run at a time.
//!
//! The lock is `flock` on a file that is never renamed, removed or replaced: a lock on a file that another process may
//! recreate under the same name locks nothing. The kernel lets go of it when the holder ends, however it ends, so there are
//! no stale locks; what stands in the file (pid and start) is for people, and means nothing unless the lock is held.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::stop::Stop;

/// The lock, held until this is dropped. No child program inherits it: std opens files close-on-exec.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it's held, not read")] Flock<File>);

/// What came of asking for the lock.
#[derive(Debug)]
pub enum Attempt {
    /// It's ours.
    Taken(Lock),
    /// Another process has it: what it wrote of itself, as `pid 4242, since 2026-11-23T02:30:00Z`.
    Held(String),
}

/// What stands behind pid and start when packages are upgraded under the lock.
const UPGRADE: &str = ", for an upgrade";

/// How long the lock isn't asked for again while it is waited for.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks once, without waiting, for the lock in the file `path`, and creates the file when there is none.
pub fn acquire(path: &Path, now: Timestamp) -> Result<Attempt> {
    take(path, now, "")
}

/// The same, for an upgrade of packages.
pub fn acquire_for_upgrade(path: &Path, now: Timestamp) -> Result<Attempt> {
    take(path, now, UPGRADE)
}

/// The same, for a run: an upgrade of packages, which lasts minutes, is waited for, unless a stop is asked for.
pub fn acquire_after_upgrade(path: &Path, stop: &Stop) -> Result<Attempt> {
    loop {
        match acquire(path, Timestamp::now())? {
            Attempt::Held(holder) if is_upgrade(&holder) && !stop.requested() => sleep(PAUSE),
            attempt => return Ok(attempt),
        }
    }
}

/// Whether a holder, as [`holder_of`] gives it, is an upgrade of packages.
pub fn is_upgrade(holder: &str) -> bool {
    holder.ends_with(UPGRADE)
}

fn take(path: &Path, now: Timestamp, purpose: &str) -> Result<Attempt> {
    let opening = || format!("opening the lock {}", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        // whoever holds the lock has written there
        .truncate(false)
        // whoever could open it could hold it, and keep every night from running
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .with_context(opening)?;
    // Opened a second time below the lock: Flock lends its file only for reading through `Deref`.
    let mut writer = file.try_clone().with_context(opening)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            writer
                .set_len(0)
                .and_then(|()| writer.rewind())
                .and_then(|()| writeln!(writer, "pid {}, since {now:.0}{purpose}", std::process::id()))
                .with_context(|| format!("writing to the lock {}", path.display()))?;
            Ok(Attempt::Taken(Lock(lock)))
        }
        Err((held, Errno::EWOULDBLOCK)) => {
            file = held;
            Ok(Attempt::Held(holder(&mut file)))
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

/// Who holds the lock in the file `path`, without asking for it: whoever asked, even for a moment, could keep a run from
/// beginning. The kernel lists all locks (proc(5), `/proc/locks`), and the holder's is one on this file by the process whose
/// number stands in it.
pub fn holder_of(path: &Path) -> Option<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).ok()?;
    let inode = file.metadata().ok()?.ino().to_string();
    let holder = holder(&mut file);
    let pid = holder.strip_prefix("pid ")?.split(',').next()?;
    // As `1: FLOCK  ADVISORY  WRITE 4242 00:1a:1034 0 EOF`.
    let is_held = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let on = fields.get(5).and_then(|place| place.rsplit(':').next());
        fields.get(1) == Some(&"FLOCK") && fields.get(4) == Some(&pid) && on == Some(inode.as_str())
    };
    fs::read_to_string("/proc/locks").ok()?.lines().any(is_held).then_some(holder)
}

/// What the holder wrote; it may have the lock and not have written yet.
fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    match file.take(200).read_to_end(&mut text) {
        Ok(_) if !text.trim_ascii().is_empty() => crate::log::printable(text.trim_ascii()),
        _ => "a process that has just begun".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use jiff::Timestamp;

    use super::{Attempt, acquire, acquire_after_upgrade, acquire_for_upgrade, holder_of, is_upgrade};
    use crate::stop::Stop;

    #[test]
    fn the_second_asker_learns_who_holds_it_and_since_when() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let now: Timestamp = "2026-11-23T02:30:00Z".parse().unwrap();
        let Attempt::Taken(lock) = acquire(&path, now).unwrap() else { panic!("nobody holds it") };
        let inode = fs::metadata(&path).unwrap().ino();
        let Attempt::Held(holder) = acquire(&path, now).unwrap() else { panic!("it's held") };
        assert_eq!(holder, format!("pid {}, since 2026-11-23T02:30:00Z", std::process::id()));
        assert_eq!(holder_of(&path), Some(holder), "known without asking");
        drop(lock);
        assert_eq!(holder_of(&path), None);
        assert!(matches!(acquire(&path, now).unwrap(), Attempt::Taken(_)));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the file is never replaced");
    }

    #[test]
    fn a_run_waits_for_an_upgrade_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let stop = Stop::default();
        let Attempt::Taken(upgrade) = acquire_for_upgrade(&path, Timestamp::now()).unwrap() else { panic!("nobody holds it") };
        assert!(is_upgrade(&holder_of(&path).unwrap()));
        let waiting = std::thread::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            move || acquire_after_upgrade(&path, &stop).unwrap()
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!waiting.is_finished());
        drop(upgrade);
        let Attempt::Taken(_run) = waiting.join().unwrap() else { panic!("the upgrade has ended") };
        assert!(matches!(acquire_after_upgrade(&path, &stop).unwrap(), Attempt::Held(holder) if !is_upgrade(&holder)));
    }

    #[test]
    fn who_is_asked_to_stop_waits_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let stop = Stop::default();
        stop.request();
        let Attempt::Taken(_upgrade) = acquire_for_upgrade(&path, Timestamp::now()).unwrap() else { panic!("nobody holds it") };
        assert!(matches!(acquire_after_upgrade(&path, &stop).unwrap(), Attempt::Held(_)));
    }

    #[test]
    fn a_child_that_outlives_the_run_does_not_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let Attempt::Taken(lock) = acquire(&path, Timestamp::now()).unwrap() else { panic!("nobody holds it") };
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        drop(lock);
        let again = acquire(&path, Timestamp::now()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(again, Attempt::Taken(_)));
    }

    #[test]
    fn what_a_longer_text_left_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "x".repeat(300)).unwrap();
        let Attempt::Taken(_lock) = acquire(&path, Timestamp::UNIX_EPOCH).unwrap() else { panic!("nobody holds it") };
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("pid {}, since 1970-01-01T00:00:00Z\n", std::process::id()));
    }
}
