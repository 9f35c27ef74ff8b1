//! What is in the store, told apart into what is proven and what isn't.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::commit::{COMMIT_END, Commit, SEALED_END};
use super::store::{self, Store};
use crate::amount::amount;
use crate::config::Offsite;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::list::time_of;
use crate::snapshot::{ARCHIVE_END, INDEX_END};
use crate::stop::Stop;

/// A snapshot of which the store has something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// The source's name.
    pub source: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// Whether all of it is there, as its commit object says.
    pub proven: bool,
    /// How the snapshot was made; none where there is no commit object.
    pub outcome: Option<Outcome>,
    /// Bytes of what is there of archive and index.
    pub size: u64,
    /// When its commit object came, by the store's clock.
    pub stored: Option<Timestamp>,
    /// Why it isn't proven.
    pub problem: Option<String>,
}

/// Lists the copies of `source`, or of all of this appliance, by source and from old to new.
///
/// # Errors
/// The store can't be asked.
pub fn list(offsite: &Offsite, credentials: &Path, source: Option<&str>, stop: &Stop) -> Result<Vec<Copy>> {
    let store = Store::connect(offsite, credentials, stop)?;
    super::runtime()?.block_on(async {
        let mut copies = Vec::new();
        let found = found(&store, source).await.with_context(|| listing(offsite))?;
        for ((source, snapshot), objects) in found {
            copies.push(judge(&store, &source, &snapshot, &objects).await.with_context(|| listing(offsite))?);
        }
        Ok(copies)
    })
}

fn listing(offsite: &Offsite) -> String {
    format!("listing {}", store::place(offsite))
}

/// A table for a person.
pub fn table(copies: &[Copy]) -> String {
    let mut text = String::new();
    let width = copies.iter().map(|copy| copy.source.len()).max().unwrap_or(0);
    for Copy { source, snapshot, outcome, size, problem, .. } in copies {
        let word = outcome.filter(|_| problem.is_none()).map_or_else(|| String::from("unproven"), |outcome| outcome.to_string());
        let problem = problem.as_ref().map_or_else(String::new, |problem| format!("  {problem}"));
        writeln!(text, "{source:width$}  {snapshot}  {word:8}  {:>10}{problem}", amount(*size))
            .expect("writing to a string doesn't fail");
    }
    text
}

/// What the store has of one snapshot, with sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    archive: Option<u64>,
    index: Option<u64>,
    /// Whether there is a commit object.
    pub commit: bool,
    /// When that came, by the store's clock.
    pub stored: Option<Timestamp>,
}

/// The snapshots of `source`, or of all, by source and name.
///
/// # Errors
/// The store can't be asked.
pub async fn found(store: &Store, source: Option<&str>) -> Result<BTreeMap<(String, String), Objects>> {
    let start = format!("{}/", store.prefix);
    let below = source.map_or_else(|| start.clone(), |source| format!("{start}{source}/"));
    let mut found: BTreeMap<(String, String), Objects> = BTreeMap::new();
    for object in store.list(&below).await? {
        // What isn't ours is none of our business.
        let Some((source, name, end)) = object.key.strip_prefix(&start).and_then(parts) else { continue };
        let objects = found.entry((printable(source.as_bytes()), name.to_owned())).or_default();
        match end.strip_suffix(SEALED_END) {
            Some(ARCHIVE_END) => objects.archive = Some(object.size),
            Some(INDEX_END) => objects.index = Some(object.size),
            _ => {
                objects.commit |= end == COMMIT_END;
                objects.stored = object.stored;
            }
        }
    }
    Ok(found)
}

/// Source, snapshot and end of a key of ours.
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let (source, file) = key.split_once('/')?;
    let (name, end) = file.split_at(file.find('.')?);
    let ours = end == COMMIT_END || matches!(end.strip_suffix(SEALED_END), Some(ARCHIVE_END | INDEX_END));
    (ours && time_of(name).is_some()).then_some((source, name, end))
}

async fn judge(store: &Store, source: &str, snapshot: &str, objects: &Objects) -> Result<Copy> {
    let mut outcome = None;
    let problem = if objects.commit {
        let keys = store.keys(source, snapshot);
        let json = store.read(&keys.commit).await?.unwrap_or_default();
        match Commit::parse(&json, source, snapshot, &keys) {
            Ok(commit) => {
                outcome = Some(commit.outcome);
                objects.differ(&commit)
            }
            Err(error) => Some(printable(format!("{error:#}").as_bytes())),
        }
    } else {
        Some(String::from("there is no commit object"))
    };
    let size = objects.archive.unwrap_or(0) + objects.index.unwrap_or(0);
    let (source, snapshot, stored) = (source.to_owned(), snapshot.to_owned(), objects.stored);
    Ok(Copy { source, snapshot, proven: problem.is_none(), outcome, size, stored, problem })
}

impl Objects {
    /// How they aren't what the commit object says.
    pub fn differ(&self, commit: &Commit) -> Option<String> {
        let pairs = [("archive", self.archive, commit.archive.size), ("index", self.index, commit.index.size)];
        pairs.into_iter().find_map(|(what, there, proven)| match there {
            None => Some(format!("the {what} isn't there")),
            Some(size) if size != proven => Some(format!("the {what} has {size} bytes and not {proven}")),
            Some(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Copy, parts, table};
    use crate::outcome::Outcome;

    #[test]
    fn only_keys_of_ours_have_parts() {
        assert_eq!(parts("web/20261123T023000Z.tar.gz.pgp"), Some(("web", "20261123T023000Z", ".tar.gz.pgp")));
        assert_eq!(parts("web/20261123T023000Z.commit.json"), Some(("web", "20261123T023000Z", ".commit.json")));
        for key in
            ["web/20261123T023000Z", "web/x.tar.gz.pgp", "20261123T023000Z.tar.gz.pgp", "web/20261123T023000Z.tar.gz", "a/b/c"]
        {
            assert_eq!(parts(key), None, "{key}");
        }
    }

    #[test]
    fn the_table_tells_proven_from_unproven() {
        let proven = Copy {
            source: "web".into(),
            snapshot: "20261123T023000Z".into(),
            proven: true,
            outcome: Some(Outcome::Complete),
            size: 1234,
            stored: None,
            problem: None,
        };
        let unproven =
            Copy { source: "mail-1".into(), proven: false, problem: Some("the index isn't there".into()), ..proven.clone() };
        assert_eq!(
            table(&[unproven, proven]),
            "mail-1  20261123T023000Z  unproven     1.2 KiB  the index isn't there\n\
             web     20261123T023000Z  complete     1.2 KiB\n"
        );
    }
}
