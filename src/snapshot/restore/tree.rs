//! The folder that a restore fills, and never leaves.
//!
//! Every name is resolved by the kernel below the folder itself with `openat2` (`RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`), and
//! what is made is always new: a link that an archive has put there is never followed, and nothing is ever overwritten.
//!
//! A folder is made for its owner alone, and gets its own mode, owner and time when all that is in it is there: writing into
//! it would change the time, and a mode may forbid writing. An archive has each folder before what is in it, so those that
//! still wait are the ones above the current entry.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat, syncfs};

use crate::durable;
use crate::snapshot::entry::{Entry, Extras, Kind};

/// What is put behind the name of a file that isn't as it was archived.
pub const DAMAGED_END: &str = ".damaged";

/// The longest name that Linux takes, in bytes.
const NAME_MAX: usize = 255;

/// A folder being filled.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    made: bool,
    /// Folders that wait for their attributes, each inside the one before.
    waiting: Vec<Entry>,
    /// What to do with modes and owners.
    rights: Rights,
}

/// Who restores, and what he may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// Root: everything as it was.
    All,
    /// Anybody else: his own files, without set-user-ID bits, and nothing that his umask takes away. GNU tar does the same.
    Own { umask: u32 },
}

impl Rights {
    fn mode(self, mode: u32) -> Mode {
        Mode::from_bits_truncate(match self {
            Self::All => mode,
            Self::Own { umask } => mode & 0o777 & !umask,
        })
    }
}

/// Refuses a folder that has something in it.
pub fn vacant(folder: &Path) -> Result<()> {
    match fs::read_dir(folder).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => bail!(
            "restoring to {}: the folder isn't empty, and nothing in it may be overwritten\nhint: name a new folder",
            folder.display()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("restoring to {}", folder.display())),
    }
}

impl Tree {
    /// Begins with the empty folder `path`; makes it, for its owner alone, when it isn't there. Set-user-ID programs of
    /// another machine come into it.
    pub fn begin(path: &Path) -> Result<Self> {
        vacant(path)?;
        let made = !path.exists();
        durable::private_folder(path)?;
        let root = File::open(path).with_context(|| format!("opening the folder {}", path.display()))?;
        let rights = if Uid::effective().is_root() { Rights::All } else { Rights::Own { umask: umask() } };
        Ok(Self { root: OwnedFd::from(root), path: path.to_owned(), made, waiting: Vec::new(), rights })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty file, for its owner alone.
    pub fn file(&self, path: &Path) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        self.parent(path)?;
        self.open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// Gives a file or folder that is written its owner, mode, attributes and time, in this order: a new owner takes
    /// set-user-ID bits and capabilities away, and an access control list has a part of the mode in it.
    pub fn attributes(&self, place: impl AsFd, entry: &Entry) -> nix::Result<()> {
        if self.rights == Rights::All {
            fchown(&place, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        fchmod(&place, self.rights.mode(entry.mode))?;
        self.extras(&place, &entry.extras)?;
        futimens(&place, &TimeSpec::UTIME_OMIT, &time(entry))
    }

    /// Without root only what anybody may set: `user.` attributes and access control lists.
    fn extras(&self, place: impl AsFd, extras: &Extras) -> nix::Result<()> {
        // This name means the thing itself, a pipe or device too, which isn't opened for that.
        let place = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
        let set = |name: &OsStr, value: &[u8]| {
            let set = xattr::set_deref(&place, name, value);
            set.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        };
        for (name, value) in &extras.xattrs {
            if self.rights == Rights::All || name.as_bytes().starts_with(b"user.") {
                set(name, value)?;
            }
        }
        for (name, acl) in [("system.posix_acl_access", &extras.acl), ("system.posix_acl_default", &extras.default_acl)] {
            if let Some(acl) = acl {
                set(name.as_ref(), &acl.to_xattr())?;
            }
        }
        Ok(())
    }

    /// Makes a folder, which gets its attributes later.
    pub fn folder(&mut self, entry: &Entry) -> nix::Result<()> {
        let (parent, name) = self.parent(&entry.path)?;
        match mkdirat(&parent, name, Mode::S_IRWXU) {
            // Above an entry that came before; or whatever else, which opening it finds out.
            Err(Errno::EEXIST) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
                self.open(&entry.path, flags, Mode::empty())?;
            }
            made => made?,
        }
        self.waiting.push(entry.clone());
        Ok(())
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, path: &Path, target: &OsStr) -> nix::Result<()> {
        let (parent, name) = self.parent(path)?;
        symlinkat(target, &parent, name)
    }

    /// Makes another name of a file that was made already.
    pub fn hardlink(&self, path: &Path, first: &Path) -> nix::Result<()> {
        let (parent, name) = self.parent(path)?;
        let (first_parent, first_name) = self.parent(first)?;
        linkat(&first_parent, first_name, &parent, name, AtFlags::empty())
    }

    /// Makes a pipe or a device.
    pub fn node(&self, entry: &Entry) -> nix::Result<()> {
        let (kind, device) = match &entry.kind {
            Kind::CharDevice(device) => (SFlag::S_IFCHR, Some(device)),
            Kind::BlockDevice(device) => (SFlag::S_IFBLK, Some(device)),
            _ => (SFlag::S_IFIFO, None),
        };
        let device = device.map_or(0, |device| makedev(device.major.into(), device.minor.into()));
        let (parent, name) = self.parent(&entry.path)?;
        mknodat(&parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)
    }

    /// Gives a pipe or device its owner, mode, attributes and time.
    pub fn node_attributes(&self, entry: &Entry) -> nix::Result<()> {
        self.link_owner_and_time(entry, |parent, name| {
            fchmodat(parent, name, self.rights.mode(entry.mode), FchmodatFlags::FollowSymlink)?;
            let place = self.open(&entry.path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
            self.extras(place, &entry.extras)
        })
    }

    /// Gives a link its owner and time; a mode it has none.
    pub fn link_attributes(&self, entry: &Entry) -> nix::Result<()> {
        self.link_owner_and_time(entry, |_, _| Ok(()))
    }

    /// Gives the thing itself its owner, then what `between` gives it, then its time.
    fn link_owner_and_time(&self, entry: &Entry, between: impl FnOnce(&OwnedFd, &OsStr) -> nix::Result<()>) -> nix::Result<()> {
        let (parent, name) = self.parent(&entry.path)?;
        if self.rights == Rights::All {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        between(&parent, name)?;
        utimensat(&parent, name, &TimeSpec::UTIME_OMIT, &time(entry), UtimensatFlags::NoFollowSymlink)
    }

    /// Gives a file that isn't as it was archived a name that says so, and gives that name.
    pub fn damage(&self, path: &Path) -> nix::Result<OsString> {
        let (parent, name) = self.parent(path)?;
        let mut damaged = name.as_bytes()[..name.len().min(NAME_MAX - DAMAGED_END.len())].to_vec();
        damaged.extend(DAMAGED_END.as_bytes());
        let damaged = OsString::from_vec(damaged);
        renameat2(&parent, name, &parent, damaged.as_os_str(), RenameFlags::RENAME_NOREPLACE)?;
        Ok(damaged)
    }

    /// Gives their attributes to the folders that `next` isn't in, all where there is no next. Gives those that didn't
    /// take them.
    pub fn leave(&mut self, next: Option<&Path>) -> Vec<(PathBuf, Errno)> {
        let mut troubled = Vec::new();
        while let Some(folder) = self.waiting.pop_if(|folder| next.is_none_or(|next| !next.starts_with(&folder.path))) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let done = self.open(&folder.path, flags, Mode::empty()).and_then(|place| self.attributes(place, &folder));
            if let Err(errno) = done {
                troubled.push((folder.path, errno));
            }
        }
        troubled
    }

    /// Brings all of it to the disk. A folder that was made and got nothing goes.
    pub fn finish(self) -> Result<()> {
        if self.made && fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        syncfs(&self.root).with_context(|| format!("syncing {}", self.path.display()))
    }

    /// The folder that `path` is in, made where it is missing, and the name in it.
    fn parent<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(parent, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                let mut above = PathBuf::new();
                for component in parent {
                    let place = if above.as_os_str().is_empty() { Path::new(".") } else { &above };
                    let place = self.open(place, flags, Mode::empty())?;
                    // As any new folder: what its mode was, nobody asked for.
                    match mkdirat(&place, component, Mode::from_bits_truncate(0o777)) {
                        Err(Errno::EEXIST) => {}
                        made => made?,
                    }
                    above.push(component);
                }
                Ok((self.open(parent, flags, Mode::empty())?, name))
            }
            opened => Ok((opened?, name)),
        }
    }

    fn open(&self, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
        openat2(&self.root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve))
    }
}

/// What a file system can't say, the kernel rounds.
fn time(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.seconds, entry.mtime.nanoseconds.into())
}

/// This process's umask, from proc(5): umask(2) only tells it to whoever sets another. The strictest if that can't be read.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o077)
}
