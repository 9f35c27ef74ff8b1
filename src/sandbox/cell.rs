//! A source's user, and the folder in which its programs find what they need.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use tempfile::TempDir;

use super::Sandbox;

/// Numbers that neither Debian nor systemd gives to anyone (Debian policy 9.2.2, systemd's "Users, Groups, UIDs and GIDs").
pub const NUMBERS: std::ops::RangeInclusive<u32> = 60_706..=61_183;

/// What a cell's name begins with.
const PREFIX: &str = "vaultberry-cell-";

/// One that is younger may not be locked yet.
const YOUNG: Duration = Duration::from_secs(2);

/// Unix socket names end at 107 bytes; ssh and openssh add some 60 to the folder's.
const LONGEST_TEMPORARY: usize = 40;

/// The number of a user, and of a group that only it is in. It has no name but in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(pub(super) u32);

impl Account {
    /// The one that owns `folder`, `current/<source>/<name>`, or, where none does yet, one that owns no other source's; none when
    /// this isn't root, and everything belongs to whoever runs. `folder` is made, and belongs to it then.
    ///
    /// # Errors
    /// The folder can't be made or given away.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("making the folder {}", folder.display()))?;
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        if let Some(account) = Self::owner(folder) {
            return Ok(Some(account));
        }
        let taken = taken(folder).with_context(|| format!("looking for a free user for {}", folder.display()))?;
        let Some(number) = NUMBERS.into_iter().find(|number| !taken.contains(number)) else {
            bail!("finding a user for {}: all of {} to {} are taken", folder.display(), NUMBERS.start(), NUMBERS.end());
        };
        let account = Self(number);
        // Files of an earlier owner, as of a disk that was filled by another machine's user.
        give_all(folder, account).with_context(|| format!("giving {} to the user {number}", folder.display()))?;
        Ok(Some(account))
    }

    /// The one that owns `folder`; without one, any; none when this isn't root. Nothing is written.
    pub fn find(folder: &Path) -> Option<Self> {
        Uid::effective().is_root().then(|| Self::owner(folder).unwrap_or(Self(*NUMBERS.start())))
    }

    fn owner(folder: &Path) -> Option<Self> {
        let owner = fs::symlink_metadata(folder).ok()?.uid();
        NUMBERS.contains(&owner).then_some(Self(owner))
    }

    /// Makes `path` the account's.
    pub fn give(self, path: &Path) -> Result<()> {
        lchown(path, Some(self.0), Some(self.0)).with_context(|| format!("giving {} to the user {}", path.display(), self.0))
    }
}

/// The numbers that own something beside `folder`, in its source or in another one.
fn taken(folder: &Path) -> Result<BTreeSet<u32>> {
    let mut taken = BTreeSet::new();
    let sources = folder.parent().and_then(Path::parent).context("it stands in no mirror")?;
    for source in fs::read_dir(sources)? {
        let source = source?;
        if source.file_type()?.is_dir() {
            for entry in fs::read_dir(source.path())? {
                taken.insert(entry?.metadata()?.uid());
            }
        }
    }
    Ok(taken)
}

/// Removes the cells in `base` that killed runs have left: a copy of a key may be in one. Those that somebody is at work in are
/// locked; what can't be looked at belongs to another user.
fn clean(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == Uid::effective().as_raw());
        let old =
            entry.metadata().and_then(|found| found.modified()).is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG));
        let Some(opened) = (ours && old).then(|| fs::File::open(entry.path()).ok()).flatten() else { continue };
        if let Ok(_held) = Flock::lock(opened, FlockArg::LockExclusiveNonblock)
            && fs::remove_dir_all(entry.path()).is_ok()
        {
            tracing::info!("removed {}, left by a run that was cut short", entry.path().display());
        }
    }
}

/// Whether every user gets into `folder`.
fn is_open(folder: &Path) -> bool {
    folder.ancestors().all(|above| fs::metadata(above).is_ok_and(|found| found.mode() & 0o001 != 0))
}

/// The folder last: until then it isn't known as given.
fn give_all(folder: &Path, account: Account) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_all(&entry.path(), account)?;
        } else {
            account.give(&entry.path())?;
        }
    }
    account.give(folder)
}

/// A folder that a source's programs may read, and that nobody else may. Dropped, it is removed.
#[derive(Debug)]
pub struct Cell {
    folder: TempDir,
    account: Option<Account>,
    /// Says that somebody is at work here.
    _held: Flock<fs::File>,
}

impl Cell {
    /// One for `name`'s programs, which run as `account`.
    pub fn new(name: &str, account: Option<Account>) -> Result<Self> {
        let mut base = std::env::temp_dir();
        if base.as_os_str().len() > LONGEST_TEMPORARY || !is_open(&base) {
            base = PathBuf::from("/tmp");
        }
        clean(&base);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&base)
            .with_context(|| format!("making a folder for the ssh connection in {}", base.display()))?;
        let opened = fs::File::open(folder.path()).with_context(|| format!("opening {}", folder.path().display()))?;
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
        let held = held.with_context(|| format!("locking {}", folder.path().display()))?;
        let cell = Self { folder, account, _held: held };
        cell.share(cell.folder(), 0o710)?;
        if let Some(Account(number)) = account {
            let passwd = format!("root:x:0:0::/:/bin/sh\nvaultberry-{name}:x:{number}:{number}::/nonexistent:/bin/sh\n");
            cell.file("passwd", passwd.as_bytes())?;
        }
        Ok(cell)
    }

    /// Who its programs run as, where that isn't whoever runs us.
    pub fn account(&self) -> Option<Account> {
        self.account
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that can be read inside.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let writing = || format!("writing {}", path.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(writing),
            _ => {}
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(content)).with_context(writing)?;
        self.share(&path, 0o640)?;
        Ok(path)
    }

    /// Makes a folder that is the account's own.
    pub fn own_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("making the folder {}", path.display()))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Makes `path` the account's.
    pub fn give(&self, path: &Path) -> Result<()> {
        self.account.map_or(Ok(()), |account| account.give(path))
    }

    /// Lets the account read `path`, which stays ours; with these permission bits.
    pub fn share(&self, path: &Path, mode: u32) -> Result<()> {
        let Some(Account(number)) = self.account else { return Ok(()) };
        let shared = chown(path, None, Some(number)).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
        shared.with_context(|| format!("sharing {} with the user {number}", path.display()))
    }

    /// What each program in it has.
    pub fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::default();
        if let Some(account) = self.account {
            sandbox.account(account, &self.folder().join("passwd"));
        }
        sandbox.read(self.folder());
        sandbox
    }

    /// Where programs of `sandbox` find `real`, a file or folder that belongs to the account or is shared with it, though those
    /// above may be closed to it. What may be done with it there is to be said yet. `name` is free in the cell, or was for the same
    /// before.
    pub fn place(&self, sandbox: &mut Sandbox, real: &Path, name: &str) -> Result<PathBuf> {
        if self.account.is_none() {
            return Ok(real.to_owned());
        }
        let place = self.folder().join(name);
        if real.is_dir() {
            self.own_folder(name)?;
        } else {
            self.file(name, b"")?;
        }
        sandbox.bind(real, &place);
        Ok(place)
    }
}
