//! The folder in which the programs for a server find what they need.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::unistd::{AccessFlags, Uid, faccessat};
use tempfile::TempDir;

use super::Sandbox;

/// What a cell's name begins with.
const PREFIX: &str = "vaultberry-cell-";

/// One that is younger may not be locked yet.
const YOUNG: Duration = Duration::from_secs(2);

/// Unix socket names end at 107 bytes; ssh and openssh add some 60 to the folder's.
const LONGEST_TEMPORARY: usize = 40;

/// Removes the cells that killed runs have left, of users of whom `ours` says so: a copy of a key may be in one. Those that somebody
/// is at work in are locked; what can't be looked at belongs to another user.
pub fn clean(ours: &dyn Fn(u32) -> bool) {
    let base = base();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|found| found.is_dir() && ours(found.uid()));
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

/// Where they are.
fn base() -> PathBuf {
    let base = std::env::temp_dir();
    if base.as_os_str().len() > LONGEST_TEMPORARY || !takes_folders(&base) { PathBuf::from("/tmp") } else { base }
}

/// Whether this user may make folders in `folder`.
fn takes_folders(folder: &Path) -> bool {
    faccessat(AT_FDCWD, folder, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}

/// A folder for the files that the programs for a server need. Dropped, it is removed.
#[derive(Debug)]
pub struct Cell {
    folder: TempDir,
    /// Says that somebody is at work here.
    _held: Flock<fs::File>,
}

impl Cell {
    /// An empty one.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new() -> Result<Self> {
        clean(&|uid| uid == Uid::effective().as_raw());
        let base = base();
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&base)
            .with_context(|| format!("making a folder for the ssh connection in {}", base.display()))?;
        let opened = fs::File::open(folder.path()).with_context(|| format!("opening {}", folder.path().display()))?;
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
        let held = held.with_context(|| format!("locking {}", folder.path().display()))?;
        Ok(Self { folder, _held: held })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let writing = || format!("writing {}", path.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(writing),
            _ => {}
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(content)).with_context(writing)?;
        Ok(path)
    }

    /// Makes a folder in it, unless it is there.
    ///
    /// # Errors
    /// It can't be made.
    pub fn inner(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("making the folder {}", path.display()))?;
        Ok(path)
    }

    /// What each program in it has.
    pub fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::default();
        sandbox.read(self.folder());
        sandbox
    }
}
