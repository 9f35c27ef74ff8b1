//! Where the snapshots are that a command names: `SOURCE`, `SOURCE/NAME`, `SOURCE/latest`.
//!
//! Sources are those of the configuration, and those that have a folder: one that was taken out of the configuration still
//! has its snapshots. With a `[disk]` the folder must be the backup disk, as in a run: the folder under it is empty, and to
//! say "no snapshots" of it would be a lie.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use crate::config::Config;
use crate::disk;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::ARCHIVE_END;
use crate::snapshot::list::{self, Found};

/// How many names a hint gives.
const NAMED: usize = 5;

/// A source and its snapshots, from the oldest to the newest.
#[derive(Debug)]
pub struct Listed {
    /// The source's name.
    pub source: String,
    /// Its snapshots.
    pub snapshots: Vec<Found>,
}

/// The snapshots of one source, or of all in the order of their names.
pub fn list(config: &Config, source: Option<&str>) -> Result<Vec<Listed>> {
    let sources = match source {
        Some(source) => vec![known(config, source)?],
        None => sources(config)?.into_iter().collect(),
    };
    let listed = sources.into_iter().map(|source| Ok(Listed { snapshots: list::of(&folder(config).join(&source))?, source }));
    listed.collect()
}

/// The archive that a command means by `snapshot`: the path of one, `SOURCE/NAME`, or `SOURCE/latest` for the newest complete
/// one. Only for the latter two is the configuration wanted.
pub fn archive(snapshot: &Path, config: impl FnOnce() -> Result<Config>) -> Result<PathBuf> {
    if snapshot.as_os_str().as_bytes().ends_with(ARCHIVE_END.as_bytes()) {
        return Ok(snapshot.to_owned());
    }
    let Some((source, name)) = snapshot.to_str().and_then(|text| text.split_once('/')) else {
        bail!(
            "{:?} names no snapshot\nhint: write SOURCE/NAME, SOURCE/latest, or the path of an archive, with {ARCHIVE_END} at its end",
            printable(snapshot.as_os_str().as_bytes())
        );
    };
    let config = config()?;
    let source = known(&config, source)?;
    let folder = folder(&config).join(&source);
    let found = list::of(&folder)?;
    let (chosen, missing) = match name {
        "latest" => (latest(&found, Timestamp::now()), "complete snapshot".to_owned()),
        name => (found.iter().find(|found| found.name == name), format!("snapshot {:?}", printable(name.as_bytes()))),
    };
    let chosen = chosen.with_context(|| format!("there is no {missing} of {source}\n{}", hint(&source, &found)))?;
    Ok(folder.join(format!("{}{ARCHIVE_END}", chosen.name)))
}

/// The archives that a command means by `what`: all of them where there is nothing, those of `SOURCE`, or the one that
/// [`archive`] knows. With the names of their sources and their own.
pub fn archives(what: Option<&Path>, config: impl FnOnce() -> Result<Config>) -> Result<Vec<PathBuf>> {
    let source = match what.map(|what| what.to_str()) {
        None => None,
        Some(Some(text)) if !text.contains('/') && !text.ends_with(ARCHIVE_END) => Some(text),
        Some(_) => return Ok(vec![archive(what.unwrap_or(Path::new("")), config)?]),
    };
    let config = config()?;
    let folder = folder(&config);
    let named = |source: &Listed| {
        let folder = folder.join(&source.source);
        source.snapshots.iter().rev().map(|found| folder.join(format!("{}{ARCHIVE_END}", found.name))).collect::<Vec<_>>()
    };
    Ok(list(&config, source)?.iter().flat_map(named).collect())
}

/// The newest complete one. One whose time hasn't come yet is only taken when there is no other: it was made by a clock that
/// was wrong, and isn't the newest.
fn latest(found: &[Found], now: Timestamp) -> Option<&Found> {
    let complete =
        || found.iter().rev().filter(|found| matches!(&found.index, Ok(trailer) if trailer.outcome == Outcome::Complete));
    complete().find(|found| found.time.is_some_and(|time| time <= now)).or_else(|| complete().next())
}

fn hint(source: &str, found: &[Found]) -> String {
    if found.is_empty() {
        return format!("hint: {source} has no snapshot yet");
    }
    let newest = found.iter().rev().take(NAMED).map(|found| match &found.index {
        Ok(trailer) => format!("{} ({})", printable(found.name.as_bytes()), trailer.outcome),
        Err(_) => format!("{} (unknown)", printable(found.name.as_bytes())),
    });
    let newest = newest.collect::<Vec<_>>().join(", ");
    format!("hint: the newest are {newest}; `vaultberry snapshot list {source}` shows all")
}

fn folder(config: &Config) -> PathBuf {
    config.backup.folder.join("snapshots")
}

/// `source`, if it is one.
fn known(config: &Config, source: &str) -> Result<String> {
    let sources = sources(config)?;
    ensure!(
        sources.contains(source),
        "there is no source {:?}\nhint: there are {}",
        printable(source.as_bytes()),
        sources.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(source.to_owned())
}

fn sources(config: &Config) -> Result<BTreeSet<String>> {
    if config.disk.is_some() {
        disk::mounted(&config.backup.folder)?;
    }
    let mut sources: BTreeSet<String> = config.sources.iter().map(|source| source.name.clone()).collect();
    sources.extend(folders(&folder(config))?);
    Ok(sources)
}

/// The names of the folders in `snapshots`.
fn folders(snapshots: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading the folder {}", snapshots.display());
    let entries = match fs::read_dir(snapshots) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| format!("{}\nhint: only root may read it: use sudo", reading()));
        }
        Err(error) => return Err(error).with_context(reading),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        if entry.file_type().with_context(reading)?.is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{hint, latest};
    use crate::outcome::Outcome;
    use crate::snapshot::list::of;
    use crate::snapshot::list::tests::plant;

    #[test]
    fn the_latest_is_the_newest_complete_one_that_is_not_of_tomorrow() {
        let folder = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let name = || latest(&of(folder.path()).unwrap(), now).map(|found| found.name.clone());
        assert_eq!(name(), None);
        plant(folder.path(), "20261123T023000Z", Outcome::Partial);
        assert_eq!(name(), None);
        plant(folder.path(), "20300101T023000Z", Outcome::Complete);
        assert_eq!(name().as_deref(), Some("20300101T023000Z"));
        plant(folder.path(), "20261121T023000Z", Outcome::Complete);
        plant(folder.path(), "20261122T023000Z", Outcome::Complete);
        assert_eq!(name().as_deref(), Some("20261122T023000Z"));
    }

    #[test]
    fn the_hint_names_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(hint("web", &of(folder.path()).unwrap()), "hint: web has no snapshot yet");
        for day in 1..=6 {
            plant(folder.path(), &format!("2026110{day}T023000Z"), if day == 6 { Outcome::Partial } else { Outcome::Complete });
        }
        assert_eq!(
            hint("web", &of(folder.path()).unwrap()),
            "hint: the newest are 20261106T023000Z (partial), 20261105T023000Z (complete), 20261104T023000Z (complete), \
             20261103T023000Z (complete), 20261102T023000Z (complete); `vaultberry snapshot list web` shows all"
        );
    }
}
