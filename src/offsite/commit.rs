//! The commit object: what a copy consists of, written last. And the keys of all three objects.
//!
//! Below `<prefix>/<source>/`:
//!
//! ```text
//! 20261123T023000Z.tar.gz.pgp        the archive, sealed
//! 20261123T023000Z.index.jsonl.zst.pgp   the index, sealed
//! 20261123T023000Z.commit.json       the commit object, in clear
//! ```
//!
//! The commit object holds what the keys and sizes in the bucket show anyway, the sums of the sealed objects, and whom they
//! are sealed for: no name of a server or a file.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::store::SMALL;
use crate::config::Recipient;
use crate::digest::Sum;
use crate::digest::hex;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::index::read::Reader;
use crate::snapshot::{ARCHIVE_END, INDEX_END};

/// The version of the format.
const VERSION: u32 = 1;

/// What a sealed file's name has behind that of the file.
pub const SEALED_END: &str = ".pgp";

/// What a commit object's key ends with.
pub const COMMIT_END: &str = ".commit.json";

/// Where the objects of one snapshot are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The sealed archive.
    pub archive: String,
    /// The sealed index.
    pub index: String,
    /// The commit object.
    pub commit: String,
}

impl Keys {
    /// Those of the snapshot `name` of `source`, in a store whose keys begin with `prefix`.
    pub fn of(prefix: &str, source: &str, name: &str) -> Self {
        let start = format!("{prefix}/{source}/{name}");
        Self {
            archive: format!("{start}{ARCHIVE_END}{SEALED_END}"),
            index: format!("{start}{INDEX_END}{SEALED_END}"),
            commit: format!("{start}{COMMIT_END}"),
        }
    }
}

/// The content of a commit object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    version: u32,
    /// The source's name.
    pub source: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// How the snapshot was made: `complete` or `partial`.
    pub outcome: Outcome,
    /// The sealed archive.
    pub archive: Object,
    /// The sealed index.
    pub index: Object,
    /// The fingerprints of the certificates that both are sealed for.
    pub recipients: Vec<String>,
}

/// A sealed object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its key in the bucket.
    pub key: String,
    /// How many bytes it has.
    pub size: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Object {
    /// The object at `key` with these bytes.
    pub fn new(key: &str, sum: &Sum) -> Self {
        Self { key: key.to_owned(), size: sum.size, sha256: hex(&sum.sha256) }
    }

    /// The last part of its key.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

impl Commit {
    /// The commit of a copy of the snapshot `name` of `source`, sealed for `recipients`.
    pub fn new(source: &str, name: &str, outcome: Outcome, archive: Object, index: Object, recipients: Vec<String>) -> Self {
        Self { version: VERSION, source: source.to_owned(), snapshot: name.to_owned(), outcome, archive, index, recipients }
    }

    /// Whether it is sealed for these, and for nobody else.
    pub fn is_for(&self, recipients: &[Recipient]) -> bool {
        let mut wanted: Vec<&str> = recipients.iter().map(|recipient| recipient.fingerprint.as_str()).collect();
        let mut have: Vec<&str> = self.recipients.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        have.sort_unstable();
        wanted == have
    }

    /// Makes sure that the opened index `path` is of this very snapshot. What the commit object says anybody can write who may
    /// write to the bucket; what was sealed nobody can change.
    ///
    /// # Errors
    /// It is another one's.
    pub fn ensure_named(&self, path: &Path) -> Result<()> {
        let index = Reader::open(path)?;
        let named = index.header();
        ensure!(
            (&named.source, &named.snapshot) == (&self.source, &self.snapshot),
            "the copy at {} is one of {}/{}: somebody has put it there\nhint: look who can write to the bucket",
            self.archive.key,
            printable(named.source.as_bytes()),
            printable(named.snapshot.as_bytes())
        );
        Ok(())
    }

    /// The object's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self).context("putting the commit object into JSON")?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads the commit object of the snapshot `name` of `source`, whose objects are at `keys`.
    ///
    /// # Errors
    /// It isn't one, or one of something else.
    pub fn parse(json: &[u8], source: &str, name: &str, keys: &Keys) -> Result<Self> {
        let reading = || format!("reading the commit object of {source}/{name}");
        ensure!(json.len() <= SMALL, "{}: it has more than {SMALL} bytes, so it is none of ours", reading());
        let commit: Self = serde_json::from_slice(json).with_context(reading)?;
        if commit.version != VERSION {
            bail!("{}: its version is {}, and this program knows {VERSION} only", reading(), commit.version);
        }
        let found = (commit.source.as_str(), commit.snapshot.as_str(), &commit.archive.key, &commit.index.key);
        if found != (source, name, &keys.archive, &keys.index) {
            bail!("{}: it speaks of something else", reading());
        }
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::{Commit, Keys, Object};
    use crate::config::Recipient;
    use crate::digest::Sum;
    use crate::outcome::Outcome;

    #[test]
    fn the_format_is_the_documented_one_and_reads_back() {
        let keys = Keys::of("home/pi", "web", "20261123T023000Z");
        let name = "20261123T023000Z";
        let commit = Commit::new(
            "web",
            name,
            Outcome::Partial,
            Object::new(&keys.archive, &Sum { size: 7, sha256: [0xab; 32] }),
            Object::new(&keys.index, &Sum { size: 8, sha256: [0xcd; 32] }),
            vec!["F1".into()],
        );
        let json = commit.to_json().unwrap();
        let (archive, index) = ("ab".repeat(32), "cd".repeat(32));
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            format!(
                "{{\n  \"version\": 1,\n  \"source\": \"web\",\n  \"snapshot\": \"{name}\",\n  \"outcome\": \"partial\",\n  \
                 \"archive\": {{\n    \"key\": \"home/pi/web/{name}.tar.gz.pgp\",\n    \"size\": 7,\n    \"sha256\": \"{archive}\"\n  }},\n  \
                 \"index\": {{\n    \"key\": \"home/pi/web/{name}.index.jsonl.zst.pgp\",\n    \"size\": 8,\n    \"sha256\": \"{index}\"\n  }},\n  \
                 \"recipients\": [\n    \"F1\"\n  ]\n}}\n"
            )
        );
        assert_eq!(Commit::parse(&json, "web", name, &keys).unwrap(), commit);
        let error = Commit::parse(&json, "mail", name, &Keys::of("home/pi", "mail", name)).unwrap_err();
        assert_eq!(error.to_string(), "reading the commit object of mail/20261123T023000Z: it speaks of something else");
        let newer = String::from_utf8(json).unwrap().replace("\"version\": 1", "\"version\": 2");
        assert!(Commit::parse(newer.as_bytes(), "web", name, &keys).unwrap_err().to_string().contains("its version is 2"));
    }
    #[test]
    fn a_copy_is_for_those_it_was_sealed_for() {
        let (keys, sum) = (Keys::of("p", "web", "20261123T023000Z"), Sum { size: 7, sha256: [0xab; 32] });
        let objects = (Object::new(&keys.archive, &sum), Object::new(&keys.index, &sum));
        let owners = vec!["B".into(), "A".into()];
        let commit = Commit::new("web", "20261123T023000Z", Outcome::Complete, objects.0, objects.1, owners);
        let recipients = |names: &[&str]| -> Vec<Recipient> {
            names.iter().map(|name| Recipient { fingerprint: (*name).into(), armored: String::new() }).collect()
        };
        assert!(commit.is_for(&recipients(&["A", "B"])));
        assert!(!commit.is_for(&recipients(&["A"])) && !commit.is_for(&recipients(&["A", "B", "C"])));
    }
}
