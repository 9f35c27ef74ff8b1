//! One thing in a snapshot, as archive and index describe it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use openssl::sha::Sha256;

use crate::snapshot::acl::Acl;

/// What an archive can hold, and sockets, which it can't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link and where it points, whatever is there.
    Symlink(OsString),
    /// Another name of the file that stands earlier in the same archive under this one.
    Hardlink(PathBuf),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A socket: it is worth nothing without the program behind it, and stays out.
    Socket,
}

/// The numbers of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// A time to the nanosecond, before 1970 too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// What is to be added, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What the archive and the index say of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, relative to the server's root.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; 0 otherwise.
    pub size: u64,
    /// When it was last changed.
    pub mtime: Time,
    /// The permission bits, with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// What else there is of it.
    pub extras: Extras,
}

/// Attributes that most files have none of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Extended attributes, by their names' bytes (xattr(7)); without the access control lists.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// The access control list, where it says more than the mode.
    pub acl: Option<Acl>,
    /// What new files in a folder get.
    pub default_acl: Option<Acl>,
}

impl Extras {
    /// A sum over all of it, the same for the same attributes; none when there is nothing.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        let mut sum = Sha256::new();
        let mut parts = 0_usize;
        let mut add = |name: &[u8], value: &[u8]| {
            for part in [name, value] {
                sum.update(&(part.len() as u64).to_le_bytes());
                sum.update(part);
            }
            parts += 1;
        };
        for (name, value) in &self.xattrs {
            add(name.as_bytes(), value);
        }
        for (name, acl) in [("access", &self.acl), ("default", &self.default_acl)] {
            if let Some(acl) = acl {
                add(name.as_bytes(), acl.to_text().as_bytes());
            }
        }
        (parts > 0).then(|| sum.finish())
    }
}

impl Time {
    /// This many whole seconds.
    pub fn seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// The name `bytes` of an entry as a path; none unless it leads downwards only, without a detour, as all names that
/// [`super::archive::write`] gives.
pub fn plain(bytes: &[u8]) -> Option<PathBuf> {
    let proper = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    bytes.split(|&byte| byte == b'/').all(proper).then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::plain;

    #[test]
    fn a_plain_name_leads_downwards_only() {
        for name in ["a", "srv/www/...", " /\n", "-rf"] {
            assert_eq!(plain(name.as_bytes()).unwrap(), Path::new(name));
        }
        for name in ["", "/", "/etc", "a//b", "a/", "./a", "a/../b", "..", "a\0b"] {
            assert_eq!(plain(name.as_bytes()), None, "{name:?}");
        }
    }
}
