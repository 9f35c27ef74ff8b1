//! What the last check found, kept for the report: the nightly run may not ask what the check asks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::check::Rule;
use crate::durable;

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was made.
    pub taken: Timestamp,
    /// What it found.
    pub rules: Vec<Rule>,
}

impl Record {
    fn path(state: &Path) -> PathBuf {
        state.join("harden.json")
    }

    /// Keeps it in the state folder.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep(&self, state: &Path) -> Result<()> {
        let doing = "keeping what the check found";
        durable::write(&Self::path(state), &serde_json::to_vec_pretty(self).context(doing)?, 0o600).context(doing)
    }

    /// The last one; none where there is none that could be read.
    pub fn last(state: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(state)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::Record;
    use crate::harden::check::Rule;

    #[test]
    fn what_is_kept_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::last(folder.path()), None);
        let rules = vec![Rule::new("a", "b", Some("c".to_owned()), "d"), Rule::new("e", "f", None, "g")];
        let record = Record { taken: Timestamp::from_second(1_800_000_000).unwrap(), rules };
        record.keep(folder.path()).unwrap();
        assert_eq!(Record::last(folder.path()), Some(record));
    }
}
