//! One thing in a mirror, opened without ever following a symbolic link, and seen as it was on the server.
//!
//! The server decides what the mirror holds, so a name in it may be a link to anywhere. Every name is resolved by the
//! kernel below the mirror's own folder with `openat2` (`RESOLVE_NO_SYMLINKS`, `RESOLVE_BENEATH`), or where that is forbidden one
//! component after the other, and what is stated and read is the thing that was opened, not a name that could mean
//! something else a moment later.
//!
//! What rsync may not or must not set here (owners, some modes, devices, links) it keeps in extended attributes: [`disguise`]
//! knows their form.

pub mod disguise;

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, major, minor};

use crate::snapshot::entry::{Device, Entry, Extras, Kind, Time};
use crate::snapshot::look::disguise::Disguise;

/// The longest target of a symbolic link, Linux's `PATH_MAX` without its zero byte.
const LONGEST_TARGET: u64 = 4095;

/// What was found under a name.
#[derive(Debug)]
pub struct Found {
    /// What it is.
    pub entry: Entry,
    /// Of a file with several names: which file it is.
    pub inode: Option<Inode>,
    /// Whether it may be sparse: it takes less room than it is long.
    pub sparse: bool,
    /// Whether rsync's word on what it really is can't be read.
    pub unclear: bool,
}

/// Which file of which file system.
pub type Inode = (u64, u64);

/// Opens a folder to look below it. A link or a pipe in its place, which whoever owns what is above it could make, is an error.
pub fn folder(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
}

/// Looks at `path` below `root`.
pub fn look(root: &OwnedFd, path: &Path) -> nix::Result<Found> {
    // O_PATH opens anything and wakes no pipe and no device. With O_NOFOLLOW it gives a link that is the last component
    // itself, which RESOLVE_NO_SYMLINKS allows (openat2(2)).
    let place = File::from(open_below(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?);
    let metadata = place.metadata().map_err(|error| errno(&error))?;
    let attributes = if metadata.is_symlink() { Vec::new() } else { attributes(&place)? };
    let entry = plain_entry(&place, &metadata, path)?;
    let (disguise, extras) = disguise::split(attributes, &entry);
    let mut found = Found {
        inode: (metadata.is_file() && metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())),
        sparse: metadata.blocks() * 512 < metadata.size(),
        unclear: false,
        entry,
    };
    found.entry.extras = extras;
    match disguise {
        Disguise::None => {}
        Disguise::Unclear => found.unclear = true,
        Disguise::Stat(stat) => found.unclear = !uncover(&mut found.entry, &stat, root, path)?,
    }
    if !matches!(found.entry.kind, Kind::File) {
        found.entry.size = 0;
        found.sparse = false;
    }
    Ok(found)
}

/// What the file system itself says.
fn plain_entry(place: &File, metadata: &Metadata, path: &Path) -> nix::Result<Entry> {
    let device = || Device {
        major: u32::try_from(major(metadata.rdev())).unwrap_or(u32::MAX),
        minor: u32::try_from(minor(metadata.rdev())).unwrap_or(u32::MAX),
    };
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        // An empty name means the link that the descriptor stands for.
        kind if kind.is_symlink() => Kind::Symlink(readlinkat(place.as_fd(), "")?),
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_char_device() => Kind::CharDevice(device()),
        kind if kind.is_block_device() => Kind::BlockDevice(device()),
        _ => Kind::Socket,
    };
    Ok(Entry {
        path: path.to_owned(),
        kind,
        size: metadata.size(),
        mtime: Time { seconds: metadata.mtime(), nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) },
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        extras: Extras::default(),
    })
}

/// Makes of `entry` what rsync says that it was. False when that can't be: only a file can stand for something else.
fn uncover(entry: &mut Entry, stat: &disguise::Stat, root: &OwnedFd, path: &Path) -> nix::Result<bool> {
    let kind = match (stat.kind, &entry.kind) {
        (disguise::Type::File, Kind::File) => Kind::File,
        (disguise::Type::Folder, Kind::Folder) => Kind::Folder,
        (disguise::Type::Symlink, Kind::File) => match target(root, path)? {
            Some(target) => Kind::Symlink(target),
            None => return Ok(false),
        },
        (disguise::Type::Fifo, Kind::File) => Kind::Fifo,
        (disguise::Type::CharDevice, Kind::File) => Kind::CharDevice(stat.device),
        (disguise::Type::BlockDevice, Kind::File) => Kind::BlockDevice(stat.device),
        (disguise::Type::Socket, Kind::File) => Kind::Socket,
        _ => return Ok(false),
    };
    (entry.kind, entry.mode, entry.uid, entry.gid) = (kind, stat.mode, stat.uid, stat.gid);
    Ok(true)
}

/// The content of a file that stands for a symbolic link; none when no link can point there.
fn target(root: &OwnedFd, path: &Path) -> nix::Result<Option<OsString>> {
    let mut target = Vec::new();
    open(root, path)?.take(LONGEST_TARGET + 1).read_to_end(&mut target).map_err(|error| errno(&error))?;
    let possible = !target.is_empty() && target.len() as u64 <= LONGEST_TARGET && !target.contains(&0);
    Ok(possible.then(|| OsString::from_vec(target)))
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
    names.sort_unstable_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    Ok(names)
}

/// The extended attributes of what was opened, sorted by name.
fn attributes(place: &File) -> nix::Result<Vec<(OsString, Vec<u8>)>> {
    // The descriptor itself only stands for a place; this name means the thing there, whatever has its path by now.
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    let names = match xattr::list_deref(&place) {
        Ok(names) => names,
        Err(error) if errno(&error) == Errno::EOPNOTSUPP => return Ok(Vec::new()),
        Err(error) => return Err(errno(&error)),
    };
    let mut attributes = Vec::new();
    for name in names.filter(|name| disguise::is_kept(name)) {
        if let Some(value) = xattr::get_deref(&place, &name).map_err(|error| errno(&error))? {
            attributes.push((name, value));
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn open_below(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    // systemd's RestrictSUIDSGID= forbids openat2(2), whose flags a filter can't see.
    static FORBIDDEN: AtomicBool = AtomicBool::new(false);
    if !FORBIDDEN.load(Ordering::Relaxed) {
        match open_at_once(root, path, flags) {
            Err(Errno::ENOSYS) => FORBIDDEN.store(true, Ordering::Relaxed),
            opened => return opened,
        }
    }
    open_step_by_step(root, path, flags)
}

fn open_at_once(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how =
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    openat2(root, path, how)
}

/// The same, with the same errors. `flags` have `O_NOFOLLOW`.
fn open_step_by_step(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::EXDEV),
        }
    }
    let last = names.pop().unwrap_or(".".as_ref());
    let mut folder: Option<OwnedFd> = None;
    for name in names {
        let above = folder.as_ref().unwrap_or(root);
        let step = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(above, name, step, Mode::empty()).map_err(|error| {
            let is_link = readlinkat(above.as_fd(), name).is_ok();
            if is_link { Errno::ELOOP } else { error }
        });
        folder = Some(opened?);
    }
    openat(folder.as_ref().unwrap_or(root), last, flags | OFlag::O_CLOEXEC, Mode::empty())
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use nix::errno::Errno;

    use super::{OFlag, look, names, open, open_at_once, open_step_by_step};
    use crate::snapshot::entry::{Device, Kind};

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
        let root = super::folder(&mirror).unwrap();
        assert_eq!(super::folder(&mirror.join("srv/link")).unwrap_err(), Errno::ENOTDIR);

        for (path, target) in [("srv/link", secret.as_os_str()), ("top", "../secret".as_ref())] {
            let entry = look(&root, Path::new(path)).unwrap().entry;
            assert!(matches!(&entry.kind, Kind::Symlink(to) if to == target), "{entry:?}");
        }
        assert_eq!(look(&root, Path::new("srv/link/key")).unwrap_err(), Errno::ELOOP);
        assert_eq!(open(&root, Path::new("srv/link/key")).unwrap_err(), Errno::ELOOP);
        assert_eq!(open(&root, Path::new("srv/link")).unwrap_err(), Errno::ELOOP);
        assert_eq!(names(&root, Path::new("srv/link")).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(look(&root, Path::new("../secret/key")).unwrap_err(), Errno::EXDEV);
        assert_eq!(names(&root, Path::new("srv")).unwrap(), ["link"]);
        // Both ways to open agree.
        fs::write(mirror.join("srv/file"), "").unwrap();
        let kinds = [OFlag::O_PATH, OFlag::O_RDONLY, OFlag::O_RDONLY | OFlag::O_DIRECTORY];
        for path in [".", "srv", "srv/.", "srv/file", "srv/file/x", "srv/link", "srv/link/key", "top/key", "none/x", "..", "/"] {
            for flags in kinds {
                let opened = [open_at_once, open_step_by_step]
                    .map(|open| open(&root, Path::new(path), flags | OFlag::O_NOFOLLOW).map(inode));
                assert_eq!(opened[0], opened[1], "{path} {flags:?}");
            }
        }
    }

    fn inode(fd: OwnedFd) -> u64 {
        fs::File::from(fd).metadata().unwrap().ino()
    }

    #[test]
    fn what_rsync_keeps_beside_a_file_says_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let seen = |name: &str, content: &str, stat: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            xattr::set(&path, "user.rsync.%stat", stat.as_bytes()).unwrap();
            look(&root, Path::new(name)).unwrap()
        };
        let file = seen("file", "hello", "104755 0,0 1000:1001");
        assert_eq!((&file.entry.kind, file.entry.size, file.entry.mode), (&Kind::File, 5, 0o4755));
        assert_eq!((file.entry.uid, file.entry.gid, file.unclear), (1000, 1001, false));
        assert_eq!(seen("link", "/etc/passwd", "120777 0,0 0:0").entry.kind, Kind::Symlink("/etc/passwd".into()));
        assert_eq!(seen("null", "", "20666 1,3 0:0").entry.kind, Kind::CharDevice(Device { major: 1, minor: 3 }));
        assert_eq!(seen("disk", "", "60660 8,1 0:6").entry.kind, Kind::BlockDevice(Device { major: 8, minor: 1 }));
        assert_eq!(seen("pipe", "", "10644 0,0 0:0").entry.kind, Kind::Fifo);
        assert_eq!(seen("sock", "", "140755 0,0 0:0").entry.kind, Kind::Socket);
        // What can't be is left as it stands here, and said.
        for (content, stat) in [("", "120777 0,0 0:0"), ("x", "40755 0,0 0:0"), ("x", "104755"), ("x", "")] {
            let odd = seen("odd", content, stat);
            assert!(odd.unclear && odd.entry.kind == Kind::File, "{stat}: {odd:?}");
        }
    }
}
