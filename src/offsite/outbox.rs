//! Sealed files on their way: `outbox/<source>/` on the backup disk.
//!
//! Sealing the same file twice makes different bytes, so what is sent in parts, and again after an error, must lie somewhere
//! as a whole. A sealed file has its name only when it is whole, and goes when the push ends, well or not; what a power
//! cut left goes at the beginning of the next run.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::commit::SEALED_END;
use crate::digest::{Sum, Summing};
use crate::durable::{self, Durable};
use crate::openpgp::Recipients;
use crate::progress::Progress;
use crate::space;
use crate::stop::Stop;

/// What sealing adds at most to a file of some size: headers, a session key for each recipient, a few bytes for each chunk.
/// The rest is left for logs of the same night.
const MARGIN: u64 = 16 << 20;

/// Removes what pushes that were cut short left below the backup folder, of all sources, also of those that are no longer
/// in the configuration. Gives the names. Not while a push is under way.
///
/// # Errors
/// A folder can't be read, or a file not removed.
pub fn clean(backup: &Path) -> Result<Vec<PathBuf>> {
    let folder = backup.join("outbox");
    let cleaning = || format!("looking for leftovers in {}", folder.display());
    let sources = match fs::read_dir(&folder) {
        Ok(sources) => sources,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(cleaning),
    };
    let mut removed = Vec::new();
    for source in sources {
        let source = source.with_context(cleaning)?;
        if source.file_type().with_context(cleaning)?.is_dir() {
            removed.extend(empty(&source.path())?);
        }
    }
    Ok(removed)
}

/// Removes the sealed files in `folder`, whole or not, and gives their names.
fn empty(folder: &Path) -> Result<Vec<PathBuf>> {
    let cleaning = || format!("removing leftovers from {}", folder.display());
    let mut removed = Vec::new();
    for entry in fs::read_dir(folder).with_context(cleaning)? {
        let path = entry.with_context(cleaning)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.strip_suffix(".part").unwrap_or(&name).ends_with(SEALED_END) {
            fs::remove_file(&path).with_context(cleaning)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// The outbox of one source.
#[derive(Debug)]
pub struct Outbox(PathBuf);

/// A sealed file. It is removed when this goes.
#[derive(Debug)]
pub struct Sealed {
    /// Where it is.
    pub path: PathBuf,
    /// What it has to arrive as.
    pub sum: Sum,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // Best effort: the next run removes a leftover.
        let _ = fs::remove_file(&self.path);
    }
}

impl Outbox {
    /// Opens the outbox of `source` below the backup folder, and removes what an earlier push left there.
    ///
    /// # Errors
    /// The folder can't be made or cleaned.
    pub fn open(backup: &Path, source: &str) -> Result<Self> {
        let folder = backup.join("outbox").join(source);
        durable::private_folder(&folder)?;
        for path in empty(&folder)? {
            tracing::info!("removed {}, left by a push that was cut short", path.display());
        }
        Ok(Self(folder))
    }

    /// Makes sure that sealed copies of `files` have room.
    ///
    /// # Errors
    /// They don't.
    pub fn require_space(&self, files: &[&Path]) -> Result<()> {
        let mut needed = MARGIN;
        for file in files {
            let size = fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?.len();
            needed += size + size / 1000;
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

    /// Seals `file` for `recipients`.
    ///
    /// # Errors
    /// Reading, sealing or writing failed, or a stop was asked for. Nothing is left then.
    pub fn seal(&self, file: &Path, recipients: &Recipients, stop: &Stop, progress: &Progress) -> Result<Sealed> {
        let sealing = || format!("sealing {}", file.display());
        let mut name = file.file_name().with_context(sealing)?.to_owned();
        name.push(SEALED_END);
        let path = self.0.join(name);
        let content = File::open(file).with_context(sealing)?;
        let total = content.metadata().with_context(sealing)?.len();
        let mut content = Watched { file: content, done: 0, total, stop, progress };
        let mut durable = Durable::create(&path, 0o600)?;
        let mut out = Summing::new(BufWriter::with_capacity(1 << 20, durable.file()));
        recipients.seal(&mut content, &mut out, false).with_context(sealing)?;
        let sum = out.finish().with_context(sealing)?;
        durable.publish()?;
        Ok(Sealed { path, sum })
    }
}

/// A file that says how far it is read, and ends with an error when a stop is asked for.
struct Watched<'a> {
    file: File,
    done: u64,
    total: u64,
    stop: &'a Stop,
    progress: &'a Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let length = self.file.read(buffer)?;
        self.done += length as u64;
        self.progress.say("sealing", self.done, Some(self.total));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use jiff::Timestamp;

    use super::{Outbox, clean};
    use crate::openpgp::Recipients;
    use crate::progress::Progress;
    use crate::stop::Stop;

    #[test]
    fn opening_removes_what_was_left_and_nothing_else() {
        let backup = tempfile::tempdir().unwrap();
        let folder = backup.path().join("outbox/web");
        fs::create_dir_all(&folder).unwrap();
        for name in ["1.tar.gz.pgp", "2.index.jsonl.zst.pgp.part", "notes", "notes.part"] {
            fs::write(folder.join(name), "").unwrap();
        }
        Outbox::open(backup.path(), "web").unwrap();
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["notes", "notes.part"]);
        Outbox::open(backup.path(), "new").unwrap();
        assert_eq!(fs::metadata(backup.path().join("outbox/new")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn cleaning_removes_the_leftovers_of_all_sources_and_nothing_else() {
        let backup = tempfile::tempdir().unwrap();
        assert_eq!(clean(backup.path()).unwrap(), Vec::<std::path::PathBuf>::new());
        let outbox = backup.path().join("outbox");
        let elsewhere = tempfile::tempdir().unwrap();
        let (gone, kept) =
            (["web/1.tar.gz.pgp", "web/1.index.jsonl.zst.pgp.part", "old/2.tar.gz.pgp.part"], ["web/notes", "3.pgp"]);
        for source in ["web", "old", "empty"] {
            fs::create_dir_all(outbox.join(source)).unwrap();
        }
        for name in gone.iter().chain(&kept) {
            fs::write(outbox.join(name), "").unwrap();
        }
        fs::write(elsewhere.path().join("4.tar.gz.pgp"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), outbox.join("link")).unwrap();
        let mut removed = clean(backup.path()).unwrap();
        removed.sort();
        let mut expected = gone.map(|name| outbox.join(name));
        expected.sort();
        assert_eq!(removed, expected);
        assert!(expected.iter().all(|path| !path.exists()));
        assert!(kept.iter().all(|name| outbox.join(name).exists()) && elsewhere.path().join("4.tar.gz.pgp").exists());
    }

    #[test]
    fn a_stop_and_a_disk_without_room_leave_nothing() {
        let backup = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(backup.path(), "web").unwrap();
        let file = backup.path().join("1.tar.gz");
        fs::write(&file, "content").unwrap();
        let stop = Stop::default();
        stop.request();
        let recipients =
            Recipients::at(&[crate::openpgp::tests::recipient(Timestamp::now().into())], std::time::SystemTime::now());
        let error = outbox.seal(&file, &recipients, &stop, &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").ends_with("interrupted by a signal"), "{error:#}");
        assert_eq!(fs::read_dir(backup.path().join("outbox/web")).unwrap().count(), 0);

        outbox.require_space(&[&file]).unwrap();
        // A file of one EiB, all of it a hole, is more than any disk has room for.
        let huge = fs::File::create(backup.path().join("huge")).unwrap();
        let size = [1 << 60, 8 << 40, 1 << 40].into_iter().find(|size| huge.set_len(*size).is_ok()).unwrap();
        let error = outbox.require_space(&[&file, &backup.path().join("huge")]).unwrap_err().to_string();
        let start = format!("the sealed copy needs {} MiB in ", ((16 << 20) + 7 + size + size / 1000) >> 20);
        assert!(error.starts_with(&start) && error.contains("\nhint: keep fewer snapshots"), "{error}");
    }
}
