//! Where a build makes what isn't encrypted: a folder of its own inside the secrets folder, for nobody else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use tempfile::Builder;

use super::namespace;
use super::outputs::refuse_full_disk;

const PREFIX: &str = ".build-";

/// A work folder, removed when it goes.
pub struct Workshop {
    path: PathBuf,
    /// Tells a later build that this one is alive.
    _lock: Flock<File>,
}

impl Workshop {
    /// Makes one in the secrets folder, and removes those that dead builds left there.
    pub fn open(secrets: &Path) -> Result<Self> {
        let making = || format!("making a work folder in {}", secrets.display());
        let secrets = secrets.canonicalize().with_context(making)?;
        remove_dead(&secrets)?;
        refuse_full_disk(&secrets)?;
        let path = Builder::new().prefix(PREFIX).permissions(private()).tempdir_in(&secrets).with_context(making)?.keep();
        let lock = try_lock(&path).with_context(making)?.with_context(making)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What stays behind, the next build removes.
        let _ = namespace::remove(&self.path);
    }
}

fn private() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}

fn remove_dead(secrets: &Path) -> Result<()> {
    let reading = || format!("reading the secrets folder {}", secrets.display());
    for entry in fs::read_dir(secrets).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) && try_lock(&entry.path())?.is_some() {
            namespace::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// None when a living build has it.
fn try_lock(path: &Path) -> Result<Option<Flock<File>>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Workshop;

    #[test]
    fn a_living_build_s_folder_stays_and_a_dead_one_s_goes() {
        let secrets = tempfile::tempdir().unwrap();
        fs::create_dir_all(secrets.path().join(".build-dead/tree")).unwrap();
        let living = Workshop::open(secrets.path()).unwrap();
        assert_eq!(fs::metadata(living.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let second = Workshop::open(secrets.path()).unwrap();
        assert!(living.path().exists() && !secrets.path().join(".build-dead").exists());
        drop((living, second));
        assert_eq!(fs::read_dir(secrets.path()).unwrap().count(), 0);
    }
}
