//! What the last check found, kept for the report: the nightly run may not ask what the check asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::check::Rule;
use crate::durable;

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was made, as the clock was.
    pub taken: Timestamp,
    /// After which start, and how many seconds after it: the clock may be wrong.
    boot: String,
    uptime: u64,
    /// What it found.
    pub rules: Vec<Rule>,
}

impl Record {
    /// One of now.
    pub fn of(rules: Vec<Rule>, now: Timestamp) -> Self {
        Self { taken: now, boot: boot(), uptime: uptime(), rules }
    }

    /// How old it is, when it is `now`. Since the same start the clock isn't asked. None where it says that it is yet to come.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        if self.boot == boot() {
            return Some(Duration::from_secs(uptime().saturating_sub(self.uptime)));
        }
        now.duration_since(self.taken).try_into().ok()
    }

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

/// Names this start.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Seconds since the kernel's start.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::{SignedDuration, Timestamp};

    use super::Record;
    use crate::harden::check::Rule;

    #[test]
    fn what_is_kept_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::last(folder.path()), None);
        let rules = vec![Rule::new("a", "b", Some("c".to_owned()), "d"), Rule::new("e", "f", None, "g")];
        let record = Record::of(rules, Timestamp::from_second(1_800_000_000).unwrap());
        record.keep(folder.path()).unwrap();
        assert_eq!(Record::last(folder.path()), Some(record));
    }

    #[test]
    fn its_age_is_by_the_clock_only_since_another_start() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let later = now + SignedDuration::from_hours(30);
        let mut record = Record::of(Vec::new(), now);
        assert!(record.age(later).unwrap() < Duration::from_mins(1), "the clock was set meanwhile");
        record.boot.clear();
        assert_eq!(record.age(later), Some(Duration::from_hours(30)));
        assert_eq!(record.age(now - SignedDuration::from_secs(1)), None);
    }
}
