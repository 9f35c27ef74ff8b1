//! How much room a disk has.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::amount::amount;

/// The room of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// The room of the disk that `folder` is on.
///
/// # Errors
/// The system doesn't say.
pub fn of(folder: &Path) -> Result<Space> {
    let disk = statvfs(folder).with_context(|| format!("asking for the free space of {}", folder.display()))?;
    Ok(Space { free: disk.blocks_available() * disk.fragment_size(), total: disk.blocks() * disk.fragment_size() })
}

/// Sees to it that the disk of `folder` has room for `bytes`, where that folder is there; `else_what` says what happens without.
///
/// # Errors
/// It has less, or the system doesn't say.
pub fn require(folder: &Path, bytes: u64, else_what: &str) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let free = of(folder)?.free;
    ensure!(free >= bytes, "the disk of {} has {} left: {else_what}\nhint: make room there", folder.display(), amount(free));
    Ok(())
}

/// The least free space that a run begins with, however small the disk.
const LEAST_FREE: u64 = 64 << 20;

/// One per cent of a big disk is more than a night needs; no more than this is asked for.
const MOST_ASKED: u64 = 1 << 30;

/// How many bytes are to be free on a disk of `total` bytes when a run begins, whatever it needs.
pub fn reserve(total: u64) -> u64 {
    (total / 100).clamp(LEAST_FREE, MOST_ASKED)
}

#[cfg(test)]
mod tests {
    use super::{of, require, reserve};

    #[test]
    fn the_free_space_asked_for_follows_the_disk_between_two_bounds() {
        assert_eq!(reserve(1 << 30), 64 << 20);
        assert_eq!(reserve(10 << 30), (10 << 30) / 100);
        assert_eq!(reserve(4 << 40), 1 << 30);
    }

    #[test]
    fn a_disk_has_room_and_what_is_not_there_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let space = of(folder.path()).unwrap();
        assert!(0 < space.free && space.free <= space.total, "{space:?}");
        require(folder.path(), 1, "nothing").unwrap();
        let told = require(folder.path(), u64::MAX, "nothing gets there").unwrap_err().to_string();
        assert!(told.contains(" left: nothing gets there\nhint: make room there"), "{told}");
        let none = folder.path().join("none");
        require(&none, u64::MAX, "nothing").unwrap();
        let error = format!("{:#}", of(&none).unwrap_err());
        assert_eq!(error, format!("asking for the free space of {}: ENOENT: No such file or directory", none.display()));
    }
}
