//! The word of a run: kept as `last-run.json` for programs, and as a few lines for a person.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::amount::{amount, duration};
use crate::offsite::Pushed;
use crate::outcome::Outcome;
use crate::snapshot::Snapshot;
use crate::source::Stale;
use crate::warnings::Warnings;

/// How many warnings of a source the summary shows; the log has them all.
const SHOWN: usize = 5;

/// How a run went.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What went wrong with the appliance itself, on which later runs and reports depend. Makes a run no better than `partial`.
    pub troubles: Vec<String>,
    /// One for each source of the configuration, in its order; none when a guard stopped the run.
    pub sources: Vec<SourceReport>,
    /// How the appliance's own copy went off-site; none where nothing was due.
    pub appliance: Option<PushReport>,
    /// How the mail went; none without `[report]`, and while it isn't sent.
    pub mail: Option<MailReport>,
}

/// How the mail of a run went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MailReport {
    /// Mails that the server took, those that had waited included.
    pub sent: usize,
    /// Mails that wait for the next run.
    pub waiting: usize,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// How a source went.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What of the server it doesn't have, though that is no fault.
    pub missed: Missed,
    /// The same of the run before, where there was one.
    pub missed_before: Option<Missed>,
    /// Dumps in the snapshot that aren't new.
    pub stale_dumps: Vec<Stale>,
    /// What wasn't as it should be.
    pub warnings: Warnings,
    /// Older snapshots that went, by name.
    pub pruned: Vec<String>,
    /// How its way off-site went; none without `[offsite]`, or without a snapshot.
    pub push: Option<PushReport>,
    /// Why there is no snapshot.
    pub error: Option<String>,
}

/// How a snapshot's way off-site went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushReport {
    /// `complete` when the store has it, proven; `partial` when it has it, and there is a problem; `skipped` when it isn't due;
    /// `failed`.
    pub outcome: Outcome,
    /// The snapshot that the store has: that of the run, or of an earlier one whose push had been cut short.
    pub snapshot: Option<String>,
    /// Which store has it.
    pub place: Option<String>,
    /// Bytes that were sent.
    pub bytes: u64,
    /// The last complete snapshot that is off-site, where this one wasn't due.
    pub last: Option<String>,
    /// How the copy isn't as the configuration wants it, though it is there.
    pub problem: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What a pull left out and named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Entries that the account on the server can't read.
    pub unreadable: u64,
    /// Files that vanished before they could be pulled.
    pub vanished: u64,
}

impl Missed {
    /// A few words for a person; none when nothing was missed and nothing before.
    pub fn summary(self, before: Option<Self>) -> Option<String> {
        let change = |now: u64, before: Option<u64>| match before {
            Some(before) if now > before => format!(" ({} more than last time)", now - before),
            Some(before) if now < before => format!(" ({} fewer than last time)", before - now),
            _ => String::new(),
        };
        let part = |what, now: u64, before: Option<u64>| {
            (now > 0 || before.is_some_and(|before| before > 0)).then(|| format!("{now} {what}{}", change(now, before)))
        };
        let parts = [
            part("unreadable", self.unreadable, before.map(|before| before.unreadable)),
            part("vanished", self.vanished, before.map(|before| before.vanished)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("not pulled: {}", parts.join(", ")))
    }
}

impl PushReport {
    /// A push that isn't due; `last` is the last complete snapshot that is off-site.
    pub fn not_due(last: Option<String>) -> Self {
        Self { last, ..Self::new(Outcome::Skipped) }
    }

    /// A push that is proven. One with a problem is `partial`.
    pub fn proven(pushed: Pushed) -> Self {
        let Pushed { snapshot, place, bytes, problem } = pushed;
        let outcome = if problem.is_some() { Outcome::Partial } else { Outcome::Complete };
        Self { snapshot: Some(snapshot), place: Some(place), bytes, problem, ..Self::new(outcome) }
    }

    /// A push that didn't happen though it was due.
    pub fn failed(error: &anyhow::Error) -> Self {
        Self { error: Some(format!("{error:#}")), ..Self::new(Outcome::Failed) }
    }

    fn new(outcome: Outcome) -> Self {
        Self { outcome, snapshot: None, place: None, bytes: 0, last: None, problem: None, error: None }
    }

    /// A line or two for a person; `run` is the snapshot that was to be pushed.
    pub fn summary(&self, run: &str) -> String {
        match (&self.place, &self.last, &self.error) {
            (Some(place), ..) => {
                let earlier = self.snapshot.as_deref().filter(|snapshot| *snapshot != run);
                let earlier = earlier.map(|snapshot| format!(", {snapshot} from before")).unwrap_or_default();
                let problem = self.problem.as_ref().map(|problem| format!("\nBUT: {problem}")).unwrap_or_default();
                format!("off-site: {}{earlier} in {place}, proven{problem}", amount(self.bytes))
            }
            (.., Some(error)) => format!("off-site: FAILED: {error}"),
            (_, Some(last), _) => format!("off-site: not due; the last complete one there is {last}"),
            _ => "off-site: not due".to_owned(),
        }
    }
}

impl RunReport {
    /// A run that has only begun.
    pub fn begun(run: String, started: Timestamp) -> Self {
        Self {
            run,
            outcome: Outcome::Failed,
            started,
            ended: None,
            error: None,
            notes: Vec::new(),
            troubles: Vec::new(),
            sources: Vec::new(),
            appliance: None,
            mail: None,
        }
    }

    /// A run that wasn't, and why.
    pub fn skipped(now: Timestamp, why: String) -> Self {
        let mut report = Self::begun(String::new(), now);
        report.outcome = Outcome::Skipped;
        report.error = Some(why);
        report
    }

    /// The run as a whole failed.
    pub fn fail(&mut self, error: &anyhow::Error) {
        tracing::error!("{error:#}");
        self.outcome = Outcome::Failed;
        self.error = Some(format!("{error:#}"));
    }

    /// Draws the outcome from those of the sources. A push that failed makes it no better than `partial`: what was saved is
    /// on the backup disk only.
    pub fn settle(&mut self) {
        let sources = self.sources.iter().map(|source| source.outcome).max().unwrap_or(Outcome::Failed);
        let pushes = self.sources.iter().filter_map(|source| source.push.as_ref()).chain(&self.appliance);
        let wanting = pushes.map(|push| push.outcome).any(|outcome| matches!(outcome, Outcome::Failed | Outcome::Partial));
        self.outcome = if wanting { sources.max(Outcome::Partial) } else { sources };
    }

    /// Says something of the run as a whole that its owner should know.
    pub fn note(&mut self, note: String) {
        tracing::warn!("{note}");
        self.notes.push(note);
    }

    /// Says something that is wrong with the appliance itself, once.
    pub fn trouble(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if !self.troubles.contains(&text) {
            tracing::error!("{text}");
            self.troubles.push(text);
        }
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
            source.summarise(&self.run, width, &mut text);
        }
        if let Some(push) = &self.appliance {
            line(&mut text, 2, &format!("the appliance's own: {}", push.summary(&self.run)));
        }
        for note in self.troubles.iter().chain(&self.notes) {
            line(&mut text, 2, note);
        }
        if let Some(mail) = &self.mail {
            for problem in &mail.problems {
                line(&mut text, 2, problem);
            }
            if mail.waiting > 0 {
                line(&mut text, 2, &format!("reports that wait for the mail server: {}", mail.waiting));
            }
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
            missed: Missed::default(),
            missed_before: None,
            stale_dumps: Vec::new(),
            warnings: snapshot.warnings,
            pruned: Vec::new(),
            push: None,
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
            missed: Missed::default(),
            missed_before: None,
            stale_dumps: Vec::new(),
            warnings: Warnings::default(),
            pruned: Vec::new(),
            push: None,
            error: Some(format!("{error:#}")),
        }
    }

    /// A source that the run didn't get to.
    pub fn skipped(name: &str, error: &anyhow::Error) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::failed(name, error) }
    }

    fn summarise(&self, run: &str, width: usize, text: &mut String) {
        let what = match &self.snapshot {
            Some(snapshot) => {
                format!("{} entries, {}, in {snapshot} ({})", self.entries, amount(self.bytes), amount(self.archive_bytes))
            }
            None => self.error.clone().unwrap_or_default(),
        };
        line(text, 2, &format!("{:width$}  {:8}  {what}", self.name, self.outcome.to_string()));
        for remark in self.said(run) {
            line(text, 6, &remark);
        }
    }

    /// What there is to say of it beside outcome and size, the first warnings included; its error first. `run` is the run's
    /// name.
    pub fn remarks(&self, run: &str) -> Vec<String> {
        self.error.iter().cloned().chain(self.said(run)).collect()
    }

    fn said(&self, run: &str) -> Vec<String> {
        let missed = self.missed.summary(self.missed_before).filter(|_| self.snapshot.is_some());
        let mut said: Vec<String> = self.push.as_ref().map(|push| push.summary(run)).into_iter().chain(missed).collect();
        said.extend(self.warnings.lines.iter().take(SHOWN).cloned());
        let rest = self.warnings.total().saturating_sub(SHOWN as u64);
        said.extend((rest > 0).then(|| format!("… and {rest} more, in the log")));
        said
    }
}

/// Appends `content` with `indent` spaces before each of its lines; those after the first are set in further.
pub fn line(text: &mut String, indent: usize, content: &str) {
    for (number, line) in content.lines().enumerate() {
        let indent = if number == 0 { indent } else { indent + 4 };
        writeln!(text, "{:indent$}{}", "", line.trim_end()).expect("writing to a string doesn't fail");
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use anyhow::anyhow;
    use jiff::Timestamp;

    use super::{RunReport, SourceReport};
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
        let report =
            RunReport::skipped(Timestamp::UNIX_EPOCH, "another run is at work (pid 42, since 2026-11-23T02:30:00Z)".into());
        assert_eq!(report.summary(), "backup: skipped\n  another run is at work (pid 42, since 2026-11-23T02:30:00Z)\n");
    }
}
