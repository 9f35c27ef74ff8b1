//! What snapshots a source has.
//!
//! Each archive is one, whatever is known of it. That comes from its index's last line, so a list of a thousand reads little
//! more than a thousand blocks. An index that is missing, damaged, or of an archive of another size says nothing: such a
//! snapshot is listed with the trouble, and counts as neither good nor bad.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::snapshot::index::read::{self, Trailer};
use crate::snapshot::{ARCHIVE_END, INDEX_END, pin};

/// How a snapshot's name says its time.
const NAME_FORM: &str = "%Y%m%dT%H%M%SZ";

/// A snapshot that is on the disk.
#[derive(Debug)]
pub struct Found {
    /// Its name: the archive's, without its end.
    pub name: String,
    /// When its run began; none when the name is no time.
    pub time: Option<Timestamp>,
    /// Bytes of the archive.
    pub archive_size: u64,
    /// What its index says, or why that can't be told.
    pub index: Result<Trailer, String>,
    /// Why it is pinned, where it is.
    pub pin: Option<String>,
}

/// The snapshots in `folder`, one source's, from the oldest to the newest. None when there is no such folder.
pub fn of(folder: &Path) -> Result<Vec<Found>> {
    let reading = || format!("reading the snapshots in {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(reading),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        // Names are our own; what isn't UTF-8 is no snapshot.
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(ARCHIVE_END)) {
            let size = entry.metadata().with_context(reading)?.len();
            found.push(look(folder, name, size));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The time that a snapshot's name says, none when it's another kind of name.
pub fn time_of(name: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(NAME_FORM, name).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // Only that form sorts by time, and is safe in paths and keys: strptime takes years of fewer digits too.
    (name_of(time) == name).then_some(time)
}

/// The name of a snapshot whose run began at `time`.
pub fn name_of(time: Timestamp) -> String {
    time.strftime(NAME_FORM).to_string()
}

fn look(folder: &Path, name: &str, archive_size: u64) -> Found {
    let path = folder.join(format!("{name}{INDEX_END}"));
    let index = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err("it has no index".to_owned()),
        _ => read::trailer(&path).map_err(|error| format!("{error:#}")).and_then(|trailer| match trailer.archive.size {
            size if size == archive_size => Ok(trailer),
            size => Err(format!("its archive has {archive_size} bytes, and its index says {size}")),
        }),
    };
    let pin = pin::reason(&folder.join(format!("{name}{ARCHIVE_END}")));
    Found { name: name.to_owned(), time: time_of(name), archive_size, index, pin }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use super::{name_of, of, time_of};
    use crate::outcome::Outcome;
    use crate::snapshot::index::tests::pack;

    /// Makes a snapshot that is as good as its index says.
    pub fn plant(folder: &Path, name: &str, outcome: Outcome) {
        fs::write(folder.join(format!("{name}.tar.gz")), "archive").unwrap();
        let trailer = format!(
            "{{\"type\":\"trailer\",\"outcome\":\"{outcome}\",\"entries\":3,\"bytes\":5,\"archive\":{{\"size\":7,\"sha256\":\"{}\"}},\
             \"warnings\":[],\"more_warnings\":0}}\n",
            "0".repeat(64)
        );
        fs::write(folder.join(format!("{name}.index.jsonl.zst")), pack(&trailer)).unwrap();
    }

    #[test]
    fn a_name_is_a_time_only_in_the_one_form() {
        let time = time_of("20261123T023000Z").unwrap();
        assert_eq!((time.to_string(), name_of(time)), ("2026-11-23T02:30:00Z".into(), "20261123T023000Z".into()));
        for name in [
            "",
            "old",
            "20261123",
            "20261123T023000",
            "20261323T023000Z",
            "20261123T023060Z",
            "261123T023000Z",
            "20261123T023000Z.old",
            "20261123T023000Z/",
            "../1123T023000Z",
            "2026112T0023000Z",
        ] {
            assert_eq!(time_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_listed_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["20261123T023000Z", "20261122T023000Z", "20261124T023000Z"] {
            plant(folder.path(), name, Outcome::Partial);
        }
        fs::write(at("20261124T023000Z.tar.gz"), "arch").unwrap();
        fs::write(at("by-hand.tar.gz"), "").unwrap();
        fs::write(at("20261121T023000Z.tar.gz"), "").unwrap();
        fs::write(at("20261121T023000Z.index.jsonl.zst"), pack("{}\n")).unwrap();
        for name in ["20261120T023000Z.tar.gz.part", "20261120T023000Z.index.jsonl.zst", "notes"] {
            fs::write(at(name), "").unwrap();
        }
        let found = of(folder.path()).unwrap();
        let told: Vec<(&str, Result<Outcome, String>)> =
            found.iter().map(|found| (found.name.as_str(), found.index.clone().map(|trailer| trailer.outcome))).collect();
        let damaged = format!(
            "reading the index {}: the last line: it isn't as it should be: missing field `type` at column 2",
            at("20261121T023000Z.index.jsonl.zst").display()
        );
        assert_eq!(
            told,
            [
                ("20261121T023000Z", Err(damaged)),
                ("20261122T023000Z", Ok(Outcome::Partial)),
                ("20261123T023000Z", Ok(Outcome::Partial)),
                ("20261124T023000Z", Err("its archive has 4 bytes, and its index says 7".into())),
                ("by-hand", Err("it has no index".into())),
            ]
        );
        assert_eq!((found[1].archive_size, found[4].time), (7, None));
        assert!(of(&at("none")).unwrap().is_empty());
    }
}
