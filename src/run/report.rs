//! The word of a run: kept as `last-run.json` for programs, and as a few lines for a person.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use crate::amount::amount;
use crate::outcome::Outcome;
use crate::snapshot::Snapshot;
use crate::warnings::Warnings;

/// How many warnings of a source the summary shows; the log has them all.
const SHOWN: usize = 5;

/// How a run went.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// The run's name: when it began, as `20261123T023000Z`. Its snapshots and its log bear it.
    pub run: String,
    /// The worst of its sources', or `failed` when it got to none.
    pub outcome: Outcome,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it could do nothing, or didn't get to its end.
    pub error: Option<String>,
    /// What went wrong beside the sources.
    pub notes: Vec<String>,
    /// One for each source of the configuration, in its order; none when a guard stopped the run.
    pub sources: Vec<SourceReport>,
}

/// How a source went.
#[derive(Debug, Serialize)]
pub struct SourceReport {
    /// The source's name.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// Its new snapshot's archive, relative to the backup folder.
    pub snapshot: Option<String>,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// What wasn't as it should be.
    pub warnings: Warnings,
    /// Why there is no snapshot.
    pub error: Option<String>,
}

impl RunReport {
    /// A run that has only begun.
    pub fn begun(run: String, started: Timestamp) -> Self {
        Self { run, outcome: Outcome::Failed, started, ended: None, error: None, notes: Vec::new(), sources: Vec::new() }
    }

    /// A run that wasn't: another has the lock, and said of itself what `holder` says.
    pub fn skipped(now: Timestamp, holder: impl AsRef<str>) -> Self {
        let mut report = Self::begun(String::new(), now);
        report.outcome = Outcome::Skipped;
        report.error = Some(format!("another run is at work ({})", holder.as_ref()));
        report
    }

    /// The run as a whole failed.
    pub fn fail(&mut self, error: &anyhow::Error) {
        tracing::error!("{error:#}");
        self.outcome = Outcome::Failed;
        self.error = Some(format!("{error:#}"));
    }

    /// The content of `last-run.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self).context("putting the run's report into JSON")?;
        json.push(b'\n');
        Ok(json)
    }

    /// What a person wants to know, in a few lines.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let name = if self.run.is_empty() { "backup".to_owned() } else { format!("backup {}", self.run) };
        let took = self.ended.map(|ended| format!(" after {}", duration(ended.as_second() - self.started.as_second())));
        line(&mut text, 0, &format!("{name}: {}{}", self.outcome, took.unwrap_or_default()));
        if let Some(error) = &self.error {
            line(&mut text, 2, error);
        }
        let width = self.sources.iter().map(|source| source.name.len()).max().unwrap_or(0);
        for source in &self.sources {
            source.summarise(width, &mut text);
        }
        for note in &self.notes {
            line(&mut text, 2, note);
        }
        text
    }
}

impl SourceReport {
    /// A source with a new snapshot; `backup` is the folder that its name is relative to.
    pub fn made(name: &str, backup: &Path, snapshot: Snapshot) -> Self {
        let archive = snapshot.archive.strip_prefix(backup).unwrap_or(&snapshot.archive);
        Self {
            name: name.to_owned(),
            outcome: snapshot.outcome,
            snapshot: Some(archive.display().to_string()),
            entries: snapshot.entries,
            bytes: snapshot.bytes,
            archive_bytes: snapshot.size,
            warnings: snapshot.warnings,
            error: None,
        }
    }

    /// A source without one.
    pub fn failed(name: &str, error: &anyhow::Error) -> Self {
        Self {
            name: name.to_owned(),
            outcome: Outcome::Failed,
            snapshot: None,
            entries: 0,
            bytes: 0,
            archive_bytes: 0,
            warnings: Warnings::default(),
            error: Some(format!("{error:#}")),
        }
    }

    /// A source that the run didn't get to.
    pub fn skipped(name: &str, error: &anyhow::Error) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::failed(name, error) }
    }

    fn summarise(&self, width: usize, text: &mut String) {
        let what = match &self.snapshot {
            Some(snapshot) => {
                format!("{} entries, {}, in {snapshot} ({})", self.entries, amount(self.bytes), amount(self.archive_bytes))
            }
            None => self.error.clone().unwrap_or_default(),
        };
        line(text, 2, &format!("{:width$}  {:8}  {what}", self.name, self.outcome.to_string()));
        for warning in self.warnings.lines.iter().take(SHOWN) {
            line(text, 6, warning);
        }
        let rest = self.warnings.total().saturating_sub(SHOWN as u64);
        if rest > 0 {
            line(text, 6, &format!("… and {rest} more, in the log"));
        }
    }
}

/// Appends `content` with `indent` spaces before each of its lines; those after the first are set in further.
fn line(text: &mut String, indent: usize, content: &str) {
    for (number, line) in content.lines().enumerate() {
        let indent = if number == 0 { indent } else { indent + 4 };
        writeln!(text, "{:indent$}{}", "", line.trim_end()).expect("writing to a string doesn't fail");
    }
}

fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use anyhow::anyhow;
    use jiff::Timestamp;

    use super::{RunReport, SourceReport, duration};
    use crate::outcome::Outcome;
    use crate::snapshot::Snapshot;
    use crate::warnings::Warnings;

    #[test]
    fn the_summary_is_a_few_lines_a_source() {
        let mut report = RunReport::begun("20261123T023000Z".into(), "2026-11-23T02:30:00Z".parse().unwrap());
        report.ended = Some("2026-11-23T02:31:05Z".parse().unwrap());
        let mut warnings = Warnings::default();
        (1..=7).for_each(|number| warnings.push(format!("warning {number}")));
        let snapshot = Snapshot {
            archive: PathBuf::from("/mnt/backup/snapshots/web/20261123T023000Z.tar.gz"),
            size: 1536,
            entries: 12,
            bytes: 5 << 30,
            outcome: Outcome::Complete,
            warnings,
        };
        report.sources.push(SourceReport::made("web", Path::new("/mnt/backup"), snapshot));
        report.sources.push(SourceReport::failed("mail-1", &anyhow!("connecting to mail-1: no\nhint: look")));
        assert_eq!(
            report.summary(),
            "backup 20261123T023000Z: failed after 1 min 5 s\n  \
             web     complete  12 entries, 5.0 GiB, in snapshots/web/20261123T023000Z.tar.gz (1.5 KiB)\n      \
             warning 1\n      warning 2\n      warning 3\n      warning 4\n      warning 5\n      … and 2 more, in the log\n  \
             mail-1  failed    connecting to mail-1: no\n      hint: look\n"
        );
    }

    #[test]
    fn a_skipped_run_says_who_is_at_work() {
        let report = RunReport::skipped(Timestamp::UNIX_EPOCH, "pid 42, since 2026-11-23T02:30:00Z");
        assert_eq!(report.summary(), "backup: skipped\n  another run is at work (pid 42, since 2026-11-23T02:30:00Z)\n");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([-5, 59, 60, 7325].map(duration), ["0 s", "59 s", "1 min 0 s", "2 h 2 min"]);
    }
}
