//! Dated snapshots: what a source's mirror held one night, as a standard archive with an index beside it.
//!
//! `snapshots/<source>/20261123T023000Z.tar.gz` is what a restore needs, and `20261123T023000Z.index.jsonl.zst` says what is
//! in it, and whether it is to be trusted. The names are UTC and sort by time.
//!
//! A snapshot counts only when both are there. Both are first written whole under temporary names; then the index gets its
//! name, then the archive. So wherever an archive has its final name, its index was there before; a power cut between the
//! two leaves an index that describes nothing, which [`clean`] removes with the `.part` files. Nothing is removed that
//! could be restored from.
//!
//! [`list`] tells what there is, [`prune`] removes what [`retention`] says, [`restore`] brings back. Of a command's `SOURCE`
//! and `SOURCE/NAME`, [`catalog`] knows where they are.

pub mod acl;
pub mod archive;
pub mod catalog;
pub mod diff;
pub mod entry;
pub mod find;
pub mod gzip;
pub mod header;
pub mod index;
pub mod json;
pub mod list;
pub mod look;
pub mod pin;
mod prune;
pub mod restore;
pub mod retention;
pub mod show;
pub mod table;
pub mod verify;

use std::ffi::OsString;
use std::fs;
use std::io::{BufWriter, Write};
use std::num::NonZero;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::digest::Sum;
use crate::durable::{self, Durable};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::archive::Archived;
use crate::snapshot::gzip::Place;
use crate::snapshot::index::{Header, Index, Trailer};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::stop::Stop;
use crate::warnings::Warnings;

pub use prune::{plan, prune};

/// What an archive's name ends with.
pub const ARCHIVE_END: &str = ".tar.gz";

/// What an index's name ends with.
pub const INDEX_END: &str = ".index.jsonl.zst";

/// What the name of a pin ends with.
pub const PIN_END: &str = ".pin";

/// What to make a snapshot of.
#[derive(Debug)]
pub struct Request<'a> {
    /// The source's name.
    pub source: &'a str,
    /// The snapshot's name: the run's, as `20261123T023000Z`.
    pub name: &'a str,
    /// The folder `snapshots/<source>`; made when it isn't there.
    pub folder: &'a Path,
    /// What of the mirror goes in. What an earlier configuration left there stays out.
    pub roots: &'a [Root],
    /// The names of the server's users and groups, as far as they are known.
    pub owners: &'a Owners,
    /// How the pull ended; the snapshot is no better than that.
    pub outcome: Outcome,
    /// What the pull warned of.
    pub warnings: Warnings,
}

/// A snapshot that is on the disk.
#[derive(Debug)]
pub struct Snapshot {
    /// The archive.
    pub archive: PathBuf,
    /// Bytes of the archive.
    pub size: u64,
    /// Files, folders and links in it.
    pub entries: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// [`Outcome::Complete`] or [`Outcome::Partial`], as its index says.
    pub outcome: Outcome,
    /// The warnings in its index: the pull's, then its own.
    pub warnings: Warnings,
}

/// Writes a snapshot, and gives it its name only when it is whole and on the disk.
///
/// # Errors
/// A snapshot of that name is there already (it is left alone), writing failed, or a stop was asked for.
pub fn create(request: Request<'_>, stop: &Stop, progress: &Progress) -> Result<Snapshot> {
    let Request { source, name, folder, roots, owners, outcome, mut warnings } = request;
    durable::private_folder(folder)?;
    let archive_path = folder.join(format!("{name}{ARCHIVE_END}"));
    let index_path = folder.join(format!("{name}{INDEX_END}"));
    for path in [&archive_path, &index_path] {
        if path.symlink_metadata().is_ok() {
            bail!("writing the snapshot {}: it exists already\nhint: look at the clock: was it set back?", path.display());
        }
    }
    let mut archive_file = Durable::create(&archive_path, 0o600)?;
    let mut index_file = Durable::create(&index_path, 0o600)?;

    let mut index = Index::begin(BufWriter::new(index_file.file()), &Header::new(source, name, roots), owners)?;
    let mut done = 0;
    let mut each = |place: Place, archived: &Archived| {
        done += archived.entry.size;
        progress.say("archiving", done, None);
        index.entry(place, archived)
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let written = archive::write(archive_file.file(), roots, owners, threads, stop, &mut each)
        .with_context(|| format!("writing the snapshot {}", archive_path.display()))?;
    let outcome = if written.damaged { outcome.max(Outcome::Partial) } else { outcome };
    warnings.append(written.warnings);
    let Sum { size, sha256 } = written.archive;
    let trailer = Trailer { outcome, entries: written.entries, bytes: written.bytes, size, sha256, warnings: &warnings };
    index.end(&trailer)?.flush().with_context(|| format!("writing the index {}", index_path.display()))?;

    index_file.publish()?;
    archive_file.publish()?;
    Ok(Snapshot { archive: archive_path, size, entries: written.entries, bytes: written.bytes, outcome, warnings })
}

/// Removes what a run that was cut short left in `folder`: `.part` files, and indexes without an archive. Gives the names.
pub fn clean(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("looking for leftovers in {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(reading),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        if is_leftover(folder, entry.file_name().as_bytes()) {
            fs::remove_file(entry.path()).with_context(|| format!("removing the leftover {}", entry.path().display()))?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}

/// The index beside an archive.
pub fn index_of(archive: &Path) -> PathBuf {
    let name = archive.as_os_str().as_bytes();
    let stem = name.strip_suffix(ARCHIVE_END.as_bytes()).unwrap_or(name);
    PathBuf::from(OsString::from_vec([stem, INDEX_END.as_bytes()].concat()))
}

fn is_leftover(folder: &Path, name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let ours = |name: &str| [ARCHIVE_END, INDEX_END, PIN_END].iter().any(|end| name.ends_with(end));
    let beside = name.strip_suffix(INDEX_END).or_else(|| name.strip_suffix(PIN_END));
    match (name.strip_suffix(".part"), beside) {
        (Some(name), _) => ours(name),
        (None, Some(stem)) => folder
            .join(format!("{stem}{ARCHIVE_END}"))
            .symlink_metadata()
            // Any other error may hide an archive that is there.
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{Request, clean, create};
    use crate::outcome::Outcome;
    use crate::progress::Progress;
    use crate::source::Root;
    use crate::source::owners::Owners;
    use crate::stop::Stop;
    use crate::warnings::Warnings;

    #[test]
    fn cleaning_takes_halves_and_leaves_all_that_can_be_restored_from() {
        let folder = tempfile::tempdir().unwrap();
        let kept = ["1.tar.gz", "1.index.jsonl.zst", "1.pin", "2.tar.gz", "notes.part", "README"];
        let gone = ["3.index.jsonl.zst", "3.pin", "4.index.jsonl.zst.part", "4.tar.gz.part"];
        for name in kept.iter().chain(&gone) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let mut removed = clean(folder.path()).unwrap();
        removed.sort();
        assert_eq!(removed, gone.map(|name| folder.path().join(name)));
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
        assert_eq!(clean(&folder.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_stop_leaves_nothing_and_an_existing_snapshot_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = folder.path().join("mirror");
        fs::create_dir_all(mirror.join("srv")).unwrap();
        let snapshots = folder.path().join("snapshots");
        let roots = [Root { base: mirror.clone(), path: PathBuf::from("srv") }];
        let owners = Owners::default();
        let request = || Request {
            source: "web",
            name: "20261123T023000Z",
            folder: &snapshots,
            roots: &roots,
            owners: &owners,
            outcome: Outcome::Complete,
            warnings: Warnings::default(),
        };
        let stop = Stop::default();
        stop.request();
        assert!(
            format!("{:#}", create(request(), &stop, &Progress::default()).unwrap_err()).ends_with("interrupted by a signal")
        );
        assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);

        let snapshot = create(request(), &Stop::default(), &Progress::default()).unwrap();
        let before = fs::read(&snapshot.archive).unwrap();
        fs::write(mirror.join("srv/new"), "new").unwrap();
        let error = create(request(), &Stop::default(), &Progress::default()).unwrap_err().to_string();
        assert!(error.contains("20261123T023000Z.tar.gz: it exists already\nhint: "), "{error}");
        assert_eq!(fs::read(&snapshot.archive).unwrap(), before);
        assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 2);
    }
}
