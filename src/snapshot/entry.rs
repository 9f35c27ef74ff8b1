//! One thing in a mirror, opened without ever following a symbolic link.
//!
//! The server decides what the mirror holds, so a name in it may be a link to anywhere. Every name is resolved by the
//! kernel below the mirror's own folder with `openat2` (`RESOLVE_NO_SYMLINKS`, `RESOLVE_BENEATH`), and what is stated
//! and read is the thing that was opened, not a name that could mean something else a moment later.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};

/// What an archive can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, not open yet.
    File,
    /// A folder.
    Folder,
    /// A symbolic link and where it points, whatever is there.
    Symlink(OsString),
    /// A socket, pipe or device.
    Other,
}

/// What the archive and the index say of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, relative to the mirror.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; 0 otherwise.
    pub size: u64,
    /// Seconds since 1970; times before that are 0, which is what a tar header can say.
    pub mtime: u64,
    /// The permission bits, with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// The name `bytes` of an entry as a path; none unless it leads downwards only, without a detour, as all names that
/// [`super::archive::write`] gives.
pub fn plain(bytes: &[u8]) -> Option<PathBuf> {
    let proper = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    bytes.split(|&byte| byte == b'/').all(proper).then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Looks at `path` below `root`.
pub fn look(root: &OwnedFd, path: &Path) -> nix::Result<Entry> {
    // O_PATH opens anything and wakes no pipe and no device. With O_NOFOLLOW it gives a link that is the last component
    // itself, which RESOLVE_NO_SYMLINKS allows (openat2(2)).
    let place = open_below(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    let place = File::from(place);
    let metadata = place.metadata().map_err(|error| errno(&error))?;
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        // An empty name means the link that the descriptor stands for.
        kind if kind.is_symlink() => Kind::Symlink(readlinkat(place.as_fd(), "")?),
        _ => Kind::Other,
    };
    Ok(Entry {
        path: path.to_owned(),
        size: if matches!(kind, Kind::File) { metadata.size() } else { 0 },
        kind,
        mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Opens the file `path` below `root` for reading.
pub fn open(root: &OwnedFd, path: &Path) -> nix::Result<File> {
    // Not blocking: were it a pipe by now, opening it would wait for a writer.
    open_below(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).map(File::from)
}

/// The names in the folder `path` below `root`, sorted by their bytes.
pub fn names(root: &OwnedFd, path: &Path) -> nix::Result<Vec<OsString>> {
    let mut folder = Dir::from_fd(open_below(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?)?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

fn open_below(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how =
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    openat2(root, path, how)
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use nix::errno::Errno;

    use super::{Kind, look, names, open, plain};

    #[test]
    fn a_plain_name_leads_downwards_only() {
        for name in ["a", "srv/www/...", " /\n", "-rf"] {
            assert_eq!(plain(name.as_bytes()).unwrap(), Path::new(name));
        }
        for name in ["", "/", "/etc", "a//b", "a/", "./a", "a/../b", "..", "a\0b"] {
            assert_eq!(plain(name.as_bytes()), None, "{name:?}");
        }
    }

    #[test]
    fn a_link_is_seen_and_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("key"), "secret").unwrap();
        let mirror = folder.path().join("mirror");
        fs::create_dir_all(mirror.join("srv")).unwrap();
        symlink(&secret, mirror.join("srv/link")).unwrap();
        symlink("../secret", mirror.join("top")).unwrap();
        let root = OwnedFd::from(fs::File::open(&mirror).unwrap());

        for (path, target) in [("srv/link", secret.as_os_str()), ("top", "../secret".as_ref())] {
            let entry = look(&root, Path::new(path)).unwrap();
            assert!(matches!(&entry.kind, Kind::Symlink(to) if to == target), "{entry:?}");
        }
        assert_eq!(look(&root, Path::new("srv/link/key")).unwrap_err(), Errno::ELOOP);
        assert_eq!(open(&root, Path::new("srv/link/key")).unwrap_err(), Errno::ELOOP);
        assert_eq!(open(&root, Path::new("srv/link")).unwrap_err(), Errno::ELOOP);
        assert_eq!(names(&root, Path::new("srv/link")).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(look(&root, Path::new("../secret/key")).unwrap_err(), Errno::EXDEV);
        assert_eq!(names(&root, Path::new("srv")).unwrap(), ["link"]);
    }
}
