//! What is mounted where, as the kernel tells it in `/proc/self/mountinfo` (proc(5)); and mounting, for everybody to see.
//!
//! A service of systemd's that sees the system read-only is in a mount namespace of its own, and what it mounts there nobody else
//! sees. So systemd is asked to run mount(8), where there is a systemd.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Is there where systemd manages the system (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// Mounts the ext4 of `device` at `folder`, of which nothing is to be run or trusted.
///
/// # Errors
/// What mount(8) says.
pub fn mount(device: &Path, folder: &Path) -> Result<()> {
    let mut command = for_all("mount");
    command.args(["-t", "ext4", "-o", "nosuid,nodev,noexec,noatime", "--"]).args([device, folder]);
    process::run(&mut command, &format!("mounting {} at {}", device.display(), folder.display()))
}

/// Unmounts what is at `folder`; when it is `lost`, also while it is in use.
///
/// # Errors
/// What umount(8) says.
pub fn unmount(folder: &Path, lost: bool) -> Result<()> {
    let mut command = for_all("umount");
    command.args(lost.then_some("--lazy")).arg("--").arg(folder);
    process::run(&mut command, &format!("unmounting {}", folder.display()))
}

/// `program`, not started, in the mount namespace that everybody sees.
fn for_all(program: &str) -> Command {
    if !Path::new(SYSTEMD).is_dir() {
        return process::tool(program);
    }
    let mut command = process::tool("systemd-run");
    command.args(["--quiet", "--collect", "--wait", "--pipe", program]);
    command
}

/// The device that is mounted on exactly this folder; none when the folder isn't a mount point.
///
/// Names in the kernel's list have no symbolic links in them: `folder` must be canonical.
pub fn source_of(folder: &Path) -> Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(find(&table, folder.as_os_str().as_bytes()).map(|source| PathBuf::from(OsString::from_vec(source))))
}

/// Where the device of this number, as `8:1`, is mounted, as the kernel writes the names.
pub fn places_of(number: &str) -> Result<Vec<Vec<u8>>> {
    let table = fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let place = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        (fields.next() == Some(number.as_bytes())).then(|| fields.nth(1).map(<[u8]>::to_vec)).flatten()
    };
    Ok(table.split(|&byte| byte == b'\n').filter_map(place).collect())
}

/// Whether something is mounted on exactly this folder for the process of this number; not when that can't be told.
pub fn is_mounted_for(process: i32, folder: &Path) -> bool {
    let table = fs::read(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    find(&table, folder.as_os_str().as_bytes()).is_some()
}

/// The source in the last line for `folder`, since a later mount hides an earlier one.
fn find(table: &[u8], folder: &[u8]) -> Option<Vec<u8>> {
    table.split(|&byte| byte == b'\n').rev().find_map(|line| {
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

#[cfg(test)]
mod tests {
    use super::find;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n\
        41 22 8:1 / /mnt/backup rw shared:2 master:3 - ext4 /dev/sda1 rw\n\
        42 22 254:1 / /mnt/backup rw - ext4 /dev/mapper/vaultberry-backup rw\n\
        43 22 254:2 / /mnt/a\\040b\\134c rw - ext4 /dev/sd\\040b rw\n";

    #[test]
    fn the_last_mount_on_the_folder_itself_counts() {
        let at = |folder: &[u8]| find(TABLE, folder).map(|device| String::from_utf8(device).unwrap());
        assert_eq!(at(b"/mnt/backup").as_deref(), Some("/dev/mapper/vaultberry-backup"));
        assert_eq!(at(b"/mnt/a b\\c").as_deref(), Some("/dev/sd b"));
        assert_eq!(at(b"/mnt"), None);
        assert_eq!(at(b"/mnt/backup/current"), None);
        assert_eq!(find(b"garbage\n\n", b"/mnt"), None);
    }
}
