//! What must be true before a run touches anything.
//!
//! The dangerous case is a backup disk that isn't there: its mount point is then an ordinary empty folder on root, a run
//! would fill the SD card, and a mirror with `--delete` would start from nothing. So with a `[disk]` in the configuration the
//! folder must be a mount point, and the mount must be the disk that `vaultberry disk open` opens.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::config::Config;
use crate::disk;
use crate::space::{self, Space};

/// A Pi has no clock of its own. Until the network has told the time it lives in 1970 or in the year of its image, and
/// would give snapshots names that sort before all others. 2024-01-01T00:00:00Z.
const CLOCK_FLOOR: i64 = 1_704_067_200;

/// Checks everything, in the order in which a failure would do harm. Nothing is written below a folder that isn't the
/// backup disk. `clean` removes what earlier runs left there, before it is asked how much room there is: leftovers mustn't
/// keep the run from beginning that would remove them.
pub fn check(config: &Config, now: Timestamp, clean: impl FnOnce() -> Result<()>) -> Result<()> {
    clock(now)?;
    let folder = &config.backup.folder;
    if config.disk.is_none() {
        fs::create_dir_all(folder).with_context(|| format!("making the backup folder {}", folder.display()))?;
    }
    usable(config)?;
    clean()?;
    room(folder)
}

/// The same, for a rehearsal: nothing is made or removed. A plain folder that a run would make needn't be there.
pub fn look(config: &Config, now: Timestamp) -> Result<()> {
    clock(now)?;
    let folder = &config.backup.folder;
    if config.disk.is_none() && !folder.exists() {
        return Ok(());
    }
    usable(config)?;
    room(folder)
}

fn usable(config: &Config) -> Result<()> {
    let folder = &config.backup.folder;
    if config.disk.is_some() {
        disk::mounted(folder)?;
    }
    // An unnamed file: it tells a read-only file system from a writable one and leaves nothing.
    tempfile::tempfile_in(folder).map(drop).with_context(|| format!("writing to the backup folder {}", folder.display()))
}

fn clock(now: Timestamp) -> Result<()> {
    if now.as_second() < CLOCK_FLOOR {
        bail!("the clock says {now:.0}, which can't be\nhint: connect the network and look at `timedatectl`");
    }
    Ok(())
}

fn room(folder: &Path) -> Result<()> {
    let Space { free, total } = space::of(folder)?;
    let needed = space::reserve(total);
    if free < needed {
        bail!(
            "the backup folder {} has {} MiB free and a run needs {} MiB\nhint: `vaultberry snapshot prune` applies `keep` now; else keep less, or remove a mirror below {}, which is \
             pulled anew",
            folder.display(),
            free >> 20,
            needed >> 20,
            folder.join("current").display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::clock;

    #[test]
    fn a_clock_before_2024_is_refused() {
        clock("2024-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let early: Timestamp = "2023-12-31T23:59:59Z".parse().unwrap();
        assert_eq!(
            clock(early).unwrap_err().to_string(),
            "the clock says 2023-12-31T23:59:59Z, which can't be\nhint: connect the network and look at `timedatectl`"
        );
    }
}
