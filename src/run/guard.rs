//! What must be true before a run touches anything.
//!
//! The dangerous case is a backup disk that isn't there: its mount point is then an ordinary empty folder on root, a run
//! would fill the SD card, and a mirror with `--delete` would start from nothing. So with a `[disk]` in the configuration the
//! folder must be a mount point, and the mount must be the disk that `vaultberry disk open` opens.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;

use crate::config::Config;

/// The opened backup disk, as `vaultberry disk open` names it.
pub const BACKUP_DEVICE: &str = "/dev/mapper/vaultberry-backup";

/// The least free space that a run begins with, however small the disk.
const LEAST_FREE: u64 = 64 << 20;

/// One per cent of a big disk is more than a night needs; no more than this is asked for.
const MOST_ASKED: u64 = 1 << 30;

/// A Pi has no clock of its own. Until the network has told the time it lives in 1970 or in the year of its image, and
/// would give snapshots names that sort before all others. 2024-01-01T00:00:00Z.
const CLOCK_FLOOR: i64 = 1_704_067_200;

/// Checks everything, in the order in which a failure would do harm. Nothing is written below a folder that isn't the
/// backup disk.
pub fn check(config: &Config, now: Timestamp) -> Result<()> {
    clock(now)?;
    let folder = &config.backup.folder;
    if config.disk.is_some() {
        mounted(folder)?;
    } else {
        fs::create_dir_all(folder).with_context(|| format!("making the backup folder {}", folder.display()))?;
    }
    // An unnamed file: it tells a read-only file system from a writable one and leaves nothing.
    tempfile::tempfile_in(folder).with_context(|| format!("writing to the backup folder {}", folder.display()))?;
    space(folder)
}

fn clock(now: Timestamp) -> Result<()> {
    if now.as_second() < CLOCK_FLOOR {
        bail!("the clock says {now:.0}, which can't be\nhint: connect the network and look at `timedatectl`");
    }
    Ok(())
}

fn mounted(folder: &Path) -> Result<()> {
    const HINT: &str = "hint: plug the disk in and run `vaultberry disk open`";
    // Names in mountinfo have no symbolic links in them.
    let Ok(folder) = fs::canonicalize(folder) else {
        bail!("the backup disk is not mounted: there is no folder {}\n{HINT}", folder.display());
    };
    let mountinfo = fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    match device_at(&mountinfo, folder.as_os_str().as_bytes()) {
        None => bail!("the backup disk is not mounted at {}\n{HINT}", folder.display()),
        Some(device) if device == BACKUP_DEVICE.as_bytes() => Ok(()),
        Some(device) => bail!(
            "the backup disk is not mounted at {}: {} is there instead of {BACKUP_DEVICE}\n{HINT}",
            folder.display(),
            crate::log::printable(&device)
        ),
    }
}

/// What is mounted on `folder` itself, from the text of `/proc/self/mountinfo` (proc(5)): the source of the last line for it,
/// since a later mount hides an earlier one.
fn device_at(mountinfo: &[u8], folder: &[u8]) -> Option<Vec<u8>> {
    mountinfo.split(|&byte| byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        if unescape(fields.nth(4)?) != folder {
            return None;
        }
        // Optional fields, as many as there are, end with a lone hyphen; then come type, source and options.
        fields.find(|field| field == b"-")?;
        fields.nth(1).map(unescape)
    })
}

/// The kernel writes space, tab, newline and backslash in these fields as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after.first_chunk::<3>() {
            Some(&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) if byte == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

fn space(folder: &Path) -> Result<()> {
    let disk = statvfs(folder).with_context(|| format!("asking for the free space of {}", folder.display()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    let needed = needed(disk.blocks() * disk.fragment_size());
    if free < needed {
        bail!(
            "the backup folder {} has {} MiB free and a run needs {} MiB\nhint: remove old snapshots below {}",
            folder.display(),
            free >> 20,
            needed >> 20,
            folder.join("snapshots").display()
        );
    }
    Ok(())
}

/// How many bytes must be free on a disk of `total` bytes.
fn needed(total: u64) -> u64 {
    (total / 100).clamp(LEAST_FREE, MOST_ASKED)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{clock, device_at, needed};

    const MOUNTINFO: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n\
        41 22 8:1 / /mnt/backup rw shared:2 master:3 - ext4 /dev/sda1 rw\n\
        42 22 254:1 / /mnt/backup rw - ext4 /dev/mapper/vaultberry-backup rw\n\
        43 22 254:2 / /mnt/a\\040b\\134c rw - ext4 /dev/sd\\040b rw\n";

    #[test]
    fn the_last_mount_on_the_folder_itself_counts() {
        let at = |folder: &[u8]| device_at(MOUNTINFO, folder).map(|device| String::from_utf8(device).unwrap());
        assert_eq!(at(b"/mnt/backup").as_deref(), Some("/dev/mapper/vaultberry-backup"));
        assert_eq!(at(b"/mnt/a b\\c").as_deref(), Some("/dev/sd b"));
        assert_eq!(at(b"/mnt"), None);
        assert_eq!(at(b"/mnt/backup/current"), None);
        assert_eq!(device_at(b"garbage\n\n", b"/mnt"), None);
    }

    #[test]
    fn the_free_space_asked_for_follows_the_disk_between_two_bounds() {
        assert_eq!(needed(1 << 30), 64 << 20);
        assert_eq!(needed(10 << 30), (10 << 30) / 100);
        assert_eq!(needed(4 << 40), 1 << 30);
    }

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
