//! What is mounted where, as the kernel tells it in `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The device that is mounted on exactly this folder; none when the folder isn't a mount point.
///
/// Names in the kernel's list have no symbolic links in them: `folder` must be canonical.
pub fn source_of(folder: &Path) -> Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(find(&table, folder.as_os_str().as_bytes()).map(|source| PathBuf::from(OsString::from_vec(source))))
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
