//! Expensive results, kept in the user's cache folder under a key made of everything that shaped them.
//!
//! An entry is made under a temporary name and renamed when it is whole, so that a build cut short never poisons the cache.
//! A lock for each entry lets two builds share the work.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use openssl::sha::Sha256;
use uuid::Uuid;

use crate::digest::hex;
use crate::durable;

/// What the names of locks end with, and those of what is being made.
const LOCK: &str = ".lock";
const PART: &str = ".part";

/// What is kept. Of each kind some entries stay, enough for a few configs built in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which packages a config needs ([`super::lock`]).
    Lock,
    /// The files of packages ([`super::packages`]).
    Packages,
    /// A Debian tree ([`super::base`]).
    Base,
    /// One with what a config adds.
    Added,
    /// Its initramfs ([`super::boot`]).
    Boot,
    /// The builder's own tools ([`super::tools`]).
    Tools,
}

impl Kind {
    /// What its entries' names begin with, and how many of them stay.
    fn name_and_kept(self) -> (&'static str, usize) {
        match self {
            Self::Lock => ("packages", 8),
            Self::Packages => ("fetched", 8),
            Self::Base => ("base", 4),
            Self::Added => ("added", 4),
            Self::Boot => ("boot", 4),
            Self::Tools => ("tools", 4),
        }
    }

    fn suffix(self) -> &'static str {
        if self == Self::Lock { ".toml" } else { ".tar" }
    }
}

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// What a cached result depends on.
#[derive(Clone, Default)]
pub struct CacheKey {
    hash: Sha256,
}

impl CacheKey {
    /// Adds an input. Each is framed by name and length, so that no two lists of inputs look alike.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        for part in [name.as_bytes(), value] {
            self.hash.update(&(part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self
    }

    /// The key as a file name takes it: 32 hexadecimal digits.
    pub fn digest(self) -> String {
        hex(&self.hash.finish()[..16])
    }
}

impl Cache {
    /// A cache in `folder`, or in the user's cache folder: `$XDG_CACHE_HOME/vaultberry` or `~/.cache/vaultberry`.
    pub fn open(folder: Option<PathBuf>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder,
            None => user_cache()?.join("vaultberry"),
        };
        fs::create_dir_all(&folder).with_context(|| format!("making the cache folder {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("finding the cache folder {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The cache that is there already; none where nothing was ever cached.
    pub fn there(folder: Option<PathBuf>) -> Option<Self> {
        let folder = folder.or_else(|| Some(user_cache().ok()?.join("vaultberry")))?;
        folder.is_dir().then_some(Self { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where an entry is, if it is there.
    pub fn path(&self, kind: Kind, key: &str) -> PathBuf {
        self.folder.join(format!("{}-{key}{}", kind.name_and_kept().0, kind.suffix()))
    }

    /// An entry, made by `make` when it isn't there, or when `refresh` asks for a new one.
    ///
    /// `make` gets the temporary path to write.
    pub fn entry(&self, kind: Kind, key: &str, refresh: bool, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(kind, key);
        // Whoever makes an entry renames it when it is whole: a reader needs no lock, nor the right to make one.
        if path.exists() && !refresh {
            return Ok(path);
        }
        let _lock = self.lock(kind, key)?;
        if path.exists() && !refresh {
            return Ok(path);
        }
        self.tidy(kind)?;
        // A name that nobody else has: a program that outlives a killed build may still write to that one's.
        let part = path.with_extension(format!("{}{PART}", Uuid::new_v4()));
        if let Err(error) = make(&part) {
            // A part of a base tree is big, and no later build goes on with it.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        File::open(&part).and_then(|file| file.sync_all()).with_context(|| format!("syncing {}", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("renaming {} to {}", part.display(), path.display()))?;
        durable::sync_folder_of(&path)?;
        self.forget_old(kind)?;
        Ok(path)
    }

    /// Removes what builds left that were killed while they made entries of this kind.
    fn tidy(&self, kind: Kind) -> Result<()> {
        let reading = || format!("reading the cache folder {}", self.folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(reading)? {
            names.push(entry.with_context(reading)?.file_name().to_string_lossy().into_owned());
        }
        let of_kind = names.iter().filter_map(|name| name.strip_prefix(kind.name_and_kept().0)?.strip_prefix('-'));
        for key in of_kind.filter_map(|rest| rest.strip_suffix(LOCK)) {
            let file = File::open(self.lock_path(kind, key));
            // Whoever makes an entry has its lock.
            let Some(_free) = file.ok().and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()) else {
                continue;
            };
            let front = format!("{}-{key}.", kind.name_and_kept().0);
            for name in names.iter().filter(|name| name.starts_with(&front) && name.ends_with(PART)) {
                match fs::remove_file(self.folder.join(name)) {
                    // Another build tidies, too.
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("removing {name}, which a killed build left"));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes all but the newest entries of a kind: each change of a program or package list makes another.
    fn forget_old(&self, kind: Kind) -> Result<()> {
        let (prefix, kept) = kind.name_and_kept();
        let reading = || format!("reading the cache folder {}", self.folder.display());
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(kind.suffix())) {
                entries.push((entry.metadata().and_then(|entry| entry.modified()).with_context(reading)?, entry.path()));
            }
        }
        entries.sort();
        for (_, path) in entries.iter().rev().skip(kept) {
            fs::remove_file(path).with_context(|| format!("removing the old cache entry {}", path.display()))?;
        }
        Ok(())
    }

    fn lock_path(&self, kind: Kind, key: &str) -> PathBuf {
        self.folder.join(format!("{}-{key}{LOCK}", kind.name_and_kept().0))
    }

    fn lock(&self, kind: Kind, key: &str) -> Result<Flock<File>> {
        let path = self.lock_path(kind, key);
        let file =
            OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("locking {}", path.display()))
    }
}

fn user_cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(".cache")).context("finding the cache folder: neither XDG_CACHE_HOME nor HOME is set")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use anyhow::bail;

    use super::{Cache, CacheKey, Kind};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_killed_builds_left_goes_and_what_a_living_one_makes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        for name in ["base-dead.lock", "base-dead.1.part", "boot-dead.lock", "boot-dead.1.part"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        cache
            .entry(Kind::Base, "living", false, |part| {
                fs::write(part, "half").unwrap();
                // Another build, meanwhile.
                cache.entry(Kind::Base, "other", false, |other| Ok(fs::write(other, "whole")?)).unwrap();
                assert_eq!(fs::read_to_string(part).unwrap(), "half");
                Ok(())
            })
            .unwrap();
        let there = names(folder.path());
        let expected = [
            "base-dead.lock",
            "base-living.lock",
            "base-living.tar",
            "base-other.lock",
            "base-other.tar",
            "boot-dead.1.part",
            "boot-dead.lock",
        ];
        assert_eq!(there, expected);
    }

    #[test]
    fn a_failed_make_leaves_nothing_and_the_next_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        let failed = cache.entry(Kind::Base, "k", false, |part| {
            fs::write(part, "half").unwrap();
            bail!("cut short")
        });
        assert_eq!(failed.unwrap_err().to_string(), "cut short");
        assert_eq!(names(folder.path()), ["base-k.lock"]);
        let path = cache.entry(Kind::Base, "k", false, |part| Ok(fs::write(part, "whole")?)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        cache.entry(Kind::Base, "k", false, |_| bail!("made twice")).unwrap();
        cache.entry(Kind::Base, "k", true, |part| Ok(fs::write(part, "new")?)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn old_entries_of_the_same_kind_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        cache.entry(Kind::Boot, "other", false, |part| Ok(fs::write(part, "")?)).unwrap();
        for key in ["1", "2", "3", "4", "5", "6"] {
            let path = cache.entry(Kind::Base, key, false, |part| Ok(fs::write(part, key)?)).unwrap();
            // Made one after the other, whatever the file system's clock says.
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(key.parse().unwrap());
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        let there = |kind, key: &str| cache.path(kind, key).exists();
        assert!(there(Kind::Boot, "other") && there(Kind::Base, "6") && there(Kind::Base, "4"));
        assert!(!there(Kind::Base, "1"));
    }

    #[test]
    fn inputs_that_concatenate_alike_have_different_keys() {
        let one = CacheKey::default().with("ab", b"c").digest();
        let two = CacheKey::default().with("a", b"bc").digest();
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
    }
}
