//! How much a source may write: a server must not be able to fill the disk, by an endless file or by very many.
//!
//! Two bounds. The disk's floor holds for everyone: below it, nothing more is pulled, so that snapshots, logs and the other
//! sources have room. The quota is the source's own, for all of its mirror. Walking a big mirror takes a while, so it is done at
//! the beginning and whenever the disk's free space has shrunk by as much as the source had left: with other sources at work
//! that comes too early, which costs a walk, and never too late.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::amount::amount;
use crate::space::{self, Space};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What of a mirror counts, and how much of it there may be.
#[derive(Debug)]
pub struct Room<'a> {
    name: &'a str,
    mirror: &'a Path,
    quota: Option<u64>,
    measured: Cell<Measured>,
}

/// What there was at a moment.
#[derive(Clone, Copy, Debug)]
struct Measured {
    looked: Instant,
    /// Bytes that the mirror took when it was last walked.
    used: u64,
    /// Bytes that were free then.
    free: u64,
}

impl<'a> Room<'a> {
    /// That of the source `name`.
    pub fn new(name: &'a str, mirror: &'a Path, quota: Option<u64>) -> Result<Self> {
        let used = if quota.is_some() { used(mirror)? } else { 0 };
        let measured = Measured { looked: Instant::now(), used, free: space::of(mirror)?.free };
        Ok(Self { name, mirror, quota, measured: Cell::new(measured) })
    }

    /// Whether more may be written; called often, looks seldom.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self) -> Result<()> {
        let mut measured = self.measured.get();
        if measured.looked.elapsed() < LOOK {
            return Ok(());
        }
        measured.looked = Instant::now();
        self.measured.set(measured);
        let Space { free, total } = space::of(self.mirror)?;
        let floor = space::reserve(total) / 2;
        if free < floor {
            bail!(
                "the disk of {} has only {} left, and {} are kept free\nhint: see `vaultberry snapshot prune --dry-run`, and what \
                 the source has become; a `quota` bounds it",
                self.mirror.display(),
                amount(free),
                amount(floor)
            );
        }
        self.within_quota(free)
    }

    /// Whether all of it is within the quota, now.
    ///
    /// # Errors
    /// It isn't.
    pub fn check_quota(&self) -> Result<()> {
        let Some(quota) = self.quota else { return Ok(()) };
        let used = used(self.mirror)?;
        self.measured.set(Measured { looked: Instant::now(), used, free: space::of(self.mirror)?.free });
        if used > quota {
            bail!(
                "what {} sends takes {}, which is more than its quota of {}\nhint: if that is right, raise `quota`; else remove {}, \
                 which is pulled anew",
                self.name,
                amount(used),
                amount(quota),
                self.mirror.display()
            );
        }
        Ok(())
    }

    fn within_quota(&self, free: u64) -> Result<()> {
        let measured = self.measured.get();
        let left = self.quota.map_or(u64::MAX, |quota| quota.saturating_sub(measured.used));
        if measured.free.saturating_sub(free) <= left { Ok(()) } else { self.check_quota() }
    }
}

/// The bytes that `folder` takes on its disk, each hard link once. What vanishes meanwhile takes none.
fn used(folder: &Path) -> Result<u64> {
    let measuring = || format!("measuring {}", folder.display());
    let (mut folders, mut linked, mut blocks) = (vec![folder.to_owned()], HashSet::new(), 0);
    while let Some(folder) = folders.pop() {
        let Some(entries) = there(fs::read_dir(&folder)).with_context(measuring)? else { continue };
        for entry in entries {
            let entry = entry.with_context(measuring)?;
            let Some(found) = there(entry.metadata()).with_context(measuring)? else { continue };
            if found.nlink() == 1 || found.is_dir() || linked.insert(found.ino()) {
                blocks += found.blocks();
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(blocks * 512)
}

fn there<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Room, used};

    #[test]
    fn what_a_mirror_takes_counts_links_once_and_holes_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("below")).unwrap();
        let before = used(folder.path()).unwrap();
        fs::write(at("below/file"), vec![7; 1 << 20]).unwrap();
        fs::hard_link(at("below/file"), at("link")).unwrap();
        fs::File::create(at("sparse")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", at("elsewhere")).unwrap();
        let more = used(folder.path()).unwrap() - before;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&more), "{more}");
        assert_eq!(used(&at("none")).unwrap(), 0);
    }

    #[test]
    fn more_than_the_quota_is_refused_and_as_much_as_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new("web", folder.path(), Some(1 << 20)).unwrap();
        fs::write(folder.path().join("half"), vec![7; 1 << 19]).unwrap();
        room.check_quota().unwrap();
        fs::write(folder.path().join("rest"), vec![7; 1 << 20]).unwrap();
        let said = room.check_quota().unwrap_err().to_string();
        assert!(said.starts_with("what web sends takes 1.5 MiB, which is more than its quota of 1.0 MiB\nhint: "), "{said}");
        Room::new("web", folder.path(), None).unwrap().check_quota().unwrap();
    }
}
