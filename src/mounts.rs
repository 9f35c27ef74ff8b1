//! What is mounted where, as the kernel tells it: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The device that is mounted on exactly this folder; none when the folder isn't a mount point.
pub fn source_of(folder: &Path) -> Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(find(&table, folder))
}

/// The last entry counts: it hides those below it.
fn find(table: &[u8], folder: &Path) -> Option<PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(entry).filter(|(point, _)| point == folder).map(|(_, source)| source).last()
}

/// Mount point and source of a line. The source stands second after the lone `-` that ends the optional fields.
fn entry(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let source = unescape(fields.skip_while(|field| *field != b"-").nth(2)?);
    Some((point, source))
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::find;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n\
        36 22 254:1 / /mnt/backup rw,nosuid - ext4 /dev/mapper/vaultberry-backup rw\n\
        37 22 0:5 / /mnt/a\\040b rw shared:2 master:1 - tmpfs tmpfs rw\n\
        38 22 0:6 / /mnt/twice rw - tmpfs below rw\n\
        39 22 0:7 / /mnt/twice rw - tmpfs above rw\n";

    #[test]
    fn only_the_mount_point_itself_counts() {
        let table: [(&str, Option<&str>); 5] = [
            ("/mnt/backup", Some("/dev/mapper/vaultberry-backup")),
            ("/mnt/backup/current", None),
            ("/mnt", None),
            ("/mnt/a b", Some("tmpfs")),
            ("/mnt/twice", Some("above")),
        ];
        for (folder, source) in table {
            assert_eq!(find(TABLE, Path::new(folder)), source.map(PathBuf::from), "{folder}");
        }
    }
}
