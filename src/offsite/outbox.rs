//! Sealed files on their way: `outbox/<source>/` on the backup disk.
//!
//! Sealing the same file twice makes different bytes, so what is sent in parts, and again after an error, must lie somewhere
//! as a whole. It stays until the store is proven to have it. Beside it lies `push.json` ([`Pending`]): without that, a
//! sealed file is what a run that was cut short has left, and goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::commit::SEALED_END;
use super::pending::Pending;
use super::seal::largest;
use crate::durable;
use crate::space;

/// Left for logs of the same night.
const MARGIN: u64 = 16 << 20;

/// What the record of a push is called.
const RECORD: &str = "push.json";

/// Removes what belongs to no push, below the backup folder, of all sources, also of those that are no longer in the
/// configuration. Gives the names. Not while a push is under way.
///
/// # Errors
/// A folder can't be read, or a file not removed.
pub fn clean(backup: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for source in sources(backup)? {
        let outbox = Outbox::of(backup, &source);
        if !outbox.0.join(RECORD).exists() {
            removed.extend(outbox.empty()?);
        }
    }
    Ok(removed)
}

/// The sources that have a folder in the outbox.
///
/// # Errors
/// A folder can't be read.
pub fn sources(backup: &Path) -> Result<Vec<String>> {
    let folder = backup.join("outbox");
    let looking = || format!("looking into {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(looking),
    };
    let mut sources = Vec::new();
    for entry in entries {
        let entry = entry.with_context(looking)?;
        if entry.file_type().with_context(looking)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            sources.push(name);
        }
    }
    sources.sort();
    Ok(sources)
}

/// The folder of one source.
#[derive(Debug)]
pub struct Outbox(PathBuf);

impl Outbox {
    /// That of `source`, which needn't be there.
    pub fn of(backup: &Path, source: &str) -> Self {
        Self(backup.join("outbox").join(source))
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It can't be made.
    pub fn make(&self) -> Result<()> {
        durable::private_folder(&self.0)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes sure that sealed copies of `files` have room.
    ///
    /// # Errors
    /// They don't.
    pub fn require_space(&self, files: &[&Path]) -> Result<()> {
        let mut needed = MARGIN;
        for file in files {
            needed += largest(fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?.len());
        }
        let free = space::of(&self.0)?.free;
        if free < needed {
            bail!(
                "the sealed copy needs {} MiB in {}, and {} MiB are free\nhint: keep fewer snapshots: [backup] keep",
                needed >> 20,
                self.0.display(),
                free >> 20
            );
        }
        Ok(())
    }

    /// The push that was begun and isn't proven; none when there is none.
    ///
    /// # Errors
    /// Its record can't be read.
    pub fn pending(&self) -> Result<Option<Pending>> {
        let path = self.0.join(RECORD);
        let reading = || format!("reading {}", path.display());
        match fs::read(&path) {
            Ok(json) => Pending::parse(&json).with_context(reading).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(reading),
        }
    }

    /// Writes down how far a push has come.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self, pending: &Pending) -> Result<()> {
        durable::write(&self.0.join(RECORD), &pending.to_json()?, 0o600)
    }

    /// Removes the record and the sealed files: the push is proven, or will never be.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn clear(&self) -> Result<()> {
        let path = self.0.join(RECORD);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
        self.empty().map(drop)
    }

    /// Removes the sealed files, whole or not, and gives their names.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn empty(&self) -> Result<Vec<PathBuf>> {
        let cleaning = || format!("removing leftovers from {}", self.0.display());
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.0).with_context(cleaning)? {
            let path = entry.with_context(cleaning)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(SEALED_END) || name == durable::part_name(Path::new(RECORD)).to_string_lossy() {
                fs::remove_file(&path).with_context(cleaning)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Outbox, clean};

    #[test]
    fn cleaning_removes_what_belongs_to_no_push_and_nothing_else() {
        let backup = tempfile::tempdir().unwrap();
        assert_eq!(clean(backup.path()).unwrap(), Vec::<std::path::PathBuf>::new());
        let outbox = backup.path().join("outbox");
        let elsewhere = tempfile::tempdir().unwrap();
        let gone = ["web/1.tar.gz.pgp", "web/push.json.part", "old/2.index.jsonl.zst.pgp"];
        let kept = ["web/notes", "3.pgp", "mail/4.tar.gz.pgp", "mail/push.json"];
        for source in ["web", "old", "mail", "empty"] {
            fs::create_dir_all(outbox.join(source)).unwrap();
        }
        for name in gone.iter().chain(&kept) {
            fs::write(outbox.join(name), "").unwrap();
        }
        fs::write(elsewhere.path().join("5.tar.gz.pgp"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), outbox.join("link")).unwrap();
        let mut removed = clean(backup.path()).unwrap();
        removed.sort();
        let mut expected = gone.map(|name| outbox.join(name));
        expected.sort();
        assert_eq!(removed, expected);
        assert!(expected.iter().all(|path| !path.exists()));
        assert!(kept.iter().all(|name| outbox.join(name).exists()) && elsewhere.path().join("5.tar.gz.pgp").exists());
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_sealed() {
        let backup = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(backup.path(), "web");
        outbox.make().unwrap();
        let file = backup.path().join("1.tar.gz");
        fs::write(&file, "content").unwrap();
        outbox.require_space(&[&file]).unwrap();
        // A file of one EiB, all of it a hole, is more than any disk has room for.
        let huge = fs::File::create(backup.path().join("huge")).unwrap();
        let size = [1 << 60, 8 << 40, 1 << 40].into_iter().find(|size| huge.set_len(*size).is_ok()).unwrap();
        let error = outbox.require_space(&[&file, &backup.path().join("huge")]).unwrap_err().to_string();
        let needed = (16 << 20) + 7 + size + size / 1000 + (128 << 10);
        let start = format!("the sealed copy needs {} MiB in ", needed >> 20);
        assert!(error.starts_with(&start) && error.contains("\nhint: keep fewer snapshots"), "{error}");
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error_and_none_is_none() {
        let backup = tempfile::tempdir().unwrap();
        let outbox = Outbox::of(backup.path(), "web");
        assert_eq!(outbox.pending().unwrap(), None);
        outbox.make().unwrap();
        fs::write(outbox.folder().join("push.json"), "{").unwrap();
        let error = format!("{:#}", outbox.pending().unwrap_err());
        assert!(error.starts_with(&format!("reading {}: ", outbox.folder().join("push.json").display())), "{error}");
        outbox.clear().unwrap();
        assert_eq!(outbox.pending().unwrap(), None);
    }
}
