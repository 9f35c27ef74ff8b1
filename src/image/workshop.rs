//! Where a build makes what isn't encrypted: a folder of its own, for nobody else. For root it lies in memory where this machine has
//! room for it there, which takes a tenth of the time and writes nothing plain to a disk; else beside what the build keeps.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;
use tempfile::Builder;

use super::namespace;
use crate::space;

/// Bytes of room that a build takes at least in each folder that it writes to.
pub const ROOM: u64 = 2 << 30;

const PREFIX: &str = ".vaultberry-build-";

/// The file system in memory that everybody may use (`shm_overview(7)`).
const MEMORY: &str = "/dev/shm";

/// A work folder, removed when it goes.
pub struct Workshop {
    path: PathBuf,
    /// Tells a later build that this one is alive.
    _lock: Flock<File>,
}

impl Workshop {
    /// Makes one for `bytes`, in memory or else in the folder `beside`, and removes those that dead builds left in either.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn open(beside: &Path, bytes: u64) -> Result<Self> {
        let finding = || format!("finding the folder {}", beside.display());
        let beside = beside.canonicalize().with_context(finding)?;
        let parent = place(&beside, bytes)?;
        let making = || format!("making a work folder in {}", parent.display());
        loop {
            let path = Builder::new().prefix(PREFIX).permissions(private()).tempdir_in(parent).with_context(making)?.keep();
            // Another build may take it for a dead one's before it has its lock.
            if let Some(lock) = try_lock(&path).with_context(making)?
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
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

/// Where a work folder of `bytes` would lie, once those of dead builds are gone.
///
/// # Errors
/// There is no room for it.
pub fn place(beside: &Path, bytes: u64) -> Result<&Path> {
    remove_dead(beside)?;
    // What can't be removed there is no reason not to build.
    if Path::new(MEMORY).is_dir()
        && let Err(error) = remove_dead(Path::new(MEMORY))
    {
        tracing::warn!("{error:#}");
    }
    if has_memory_for(bytes) {
        return Ok(Path::new(MEMORY));
    }
    refuse_full_disk(beside, bytes)?;
    Ok(beside)
}

/// Refuses a folder whose disk has no room for `bytes` of a build.
pub fn refuse_full_disk(folder: &Path, bytes: u64) -> Result<()> {
    let free = space::of(folder)?.free;
    if free < bytes {
        bail!(
            "{} has {} MiB free, and a build takes up to {} MiB\nhint: free some space, or name a folder on another disk",
            folder.display(),
            free >> 20,
            bytes >> 20
        );
    }
    Ok(())
}

fn private() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}

/// Whether as much again stays free, for the programs that work with it; and whether programs may be run from there. Not for people:
/// with a user's last session, systemd-logind removes what is the user's there (`RemoveIPC`, logind.conf(5)), a build's tree too.
fn has_memory_for(bytes: u64) -> bool {
    let stays = geteuid().is_root() && statfs(MEMORY).is_ok_and(|memory| memory.filesystem_type() == TMPFS_MAGIC);
    let runs = stays && statvfs(MEMORY).is_ok_and(|memory| !memory.flags().contains(FsFlags::ST_NOEXEC));
    let has_room = space::of(Path::new(MEMORY)).is_ok_and(|space| space.free >= bytes);
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    runs && has_room && available.is_some_and(|available| available >= 2 * bytes)
}

/// `MemAvailable` of `/proc/meminfo` (`proc_meminfo(5)`), in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Removes this user's folders that no living build has.
fn remove_dead(parent: &Path) -> Result<()> {
    let reading = || format!("reading the folder {}", parent.display());
    for entry in fs::read_dir(parent).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let is_ours = || entry.metadata().is_ok_and(|entry| entry.is_dir() && entry.uid() == geteuid().as_raw());
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && is_ours()
            && let Some(_lock) = try_lock(&entry.path())?
        {
            namespace::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// None when a living build has it, or when it is gone.
fn try_lock(path: &Path) -> Result<Option<Flock<File>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("opening {}", path.display()))?,
    };
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

    use super::{MEMORY, PREFIX, Workshop, available, remove_dead};

    #[test]
    fn a_living_build_s_folder_stays_and_a_dead_one_s_goes() {
        let beside = tempfile::tempdir().unwrap();
        let dead = beside.path().join(format!("{PREFIX}dead"));
        fs::create_dir_all(dead.join("tree")).unwrap();
        let living = Workshop::open(beside.path(), 1).unwrap();
        assert_eq!(fs::metadata(living.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let second = Workshop::open(beside.path(), 1).unwrap();
        assert!(living.path().exists() && !dead.exists());
        let paths = [living.path().to_owned(), second.path().to_owned()];
        drop((living, second));
        assert!(!paths.iter().any(|path| path.exists()));
    }

    #[test]
    fn what_does_not_fit_into_memory_is_made_beside_or_refused() {
        let beside = tempfile::tempdir().unwrap();
        let more_than_memory = available(&fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        match Workshop::open(beside.path(), more_than_memory) {
            Ok(made) => assert!(made.path().starts_with(beside.path())),
            Err(error) => assert!(error.to_string().contains("hint: free some space"), "{error}"),
        }
        let error = Workshop::open(beside.path(), 1 << 60).err().unwrap().to_string();
        assert!(error.contains("and a build takes up to 1099511627776 MiB"), "{error}");
        let small = Workshop::open(beside.path(), 1).unwrap();
        assert!(small.path().starts_with(MEMORY) || small.path().starts_with(beside.path()));
    }

    #[test]
    fn a_dead_build_s_folder_with_others_beside_it_is_the_only_one_to_go() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["other", "vaultberry-build-x", &format!("{PREFIX}x")] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("other", parent.path().join(format!("{PREFIX}link"))).unwrap();
        remove_dead(parent.path()).unwrap();
        let left = |name: &str| parent.path().join(name).exists();
        assert!(left("other") && left("vaultberry-build-x") && left(&format!("{PREFIX}link")) && !left(&format!("{PREFIX}x")));
    }

    #[test]
    fn memory_is_counted_in_kibibytes() {
        assert_eq!(available("MemTotal:       24 kB\nMemAvailable:    3 kB\n"), Some(3072));
        assert_eq!(available("MemTotal:       24 kB\n"), None);
    }
}
