//! After all sources: their new snapshots on their way off-site, where that is due, and the appliance's own.
//!
//! Pushing comes last, so that an upload of hours keeps no other source from its snapshot. One that fails spoils no other.
//! What an earlier run had begun to push goes first: it may be nearly there.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::config::Config;
use crate::offsite::clock::Clock;
use crate::offsite::{self, Candidate};
use crate::outcome::Outcome;
use crate::run::appliance;
use crate::run::events::{Event, Events};
use crate::run::report::{PushReport, RunReport, SourceReport};
use crate::snapshot::{ARCHIVE_END, INDEX_END};
use crate::stop::Stop;

/// Pushes what this run has made and what is due, and writes into `report` how that went; `keep` gets it after each source.
/// Without `[offsite]` it does nothing.
pub fn make(config: &Config, report: &mut RunReport, events: &Events, stop: &Stop, keep: &dyn Fn(&RunReport)) {
    if config.offsite.is_none() {
        return;
    }
    let pushing = Pushing { config, run: &report.run.clone(), events, stop };
    let known: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).chain([appliance::NAME]).collect();
    if let Err(error) = offsite::give_up_others(config, &known, stop) {
        report.note(format!("giving up pushes of sources that are gone: {error:#}"));
    }
    for place in 0..report.sources.len() {
        let source = &mut report.sources[place];
        let made = made(&config.backup.folder, source).map(|archive| (archive, source.outcome));
        source.push = pushing.tell(&source.name, made);
        keep(report);
    }
    if stop.check().is_err() {
        return;
    }
    match appliance::snapshot(config, pushing.run, stop) {
        Ok(archive) => report.appliance = pushing.tell(appliance::NAME, archive.map(|archive| (archive, Outcome::Complete))),
        Err(error) => report.trouble(&error.context("keeping the appliance's own configuration and LUKS headers")),
    }
}

/// Whether the snapshot of `source` with the name `run` would be pushed, and if not, what is there instead.
pub fn not_due(config: &Config, candidate: &Candidate<'_>) -> Option<PushReport> {
    if offsite::due(config, candidate) {
        return None;
    }
    let target = offsite::target(config.offsite.as_ref()?);
    let last = Clock::load(&config.backup.state).of(candidate.source, &target).complete;
    Some(PushReport::not_due(last.map(|push| push.snapshot)))
}

/// The archive that this run has made of a source.
fn made(backup: &Path, source: &SourceReport) -> Option<PathBuf> {
    source.snapshot.as_ref().map(|snapshot| backup.join(snapshot))
}

struct Pushing<'a> {
    config: &'a Config,
    run: &'a str,
    events: &'a Events,
    stop: &'a Stop,
}

impl Pushing<'_> {
    /// Pushes what is to be pushed of `source`, and tells of it.
    fn tell(&self, source: &str, made: Option<(PathBuf, Outcome)>) -> Option<PushReport> {
        let push = self.push(source, made).unwrap_or_else(|error| {
            tracing::error!(source, "{error:#}");
            Some(PushReport::failed(&error))
        })?;
        self.events.tell(&Event::Push { source, report: &push });
        Some(push)
    }

    /// What an earlier run has begun, and then what this one has made.
    fn push(&self, source: &str, made: Option<(PathBuf, Outcome)>) -> Result<Option<PushReport>> {
        if made.is_some() {
            self.stop.check()?;
        }
        let progress = self.events.progress(source);
        let mut report = None;
        if self.stop.check().is_ok()
            && let Some(pushed) = offsite::resume(self.config, source, self.stop, &progress)?
        {
            tracing::info!(source, "pushed {} to {}: {} bytes, proven", pushed.snapshot, pushed.place, pushed.bytes);
            report = Some(PushReport::proven(pushed));
        }
        let Some((archive, outcome)) = made else { return Ok(report) };
        debug_assert!(archive.ends_with(format!("{}{ARCHIVE_END}", self.run)));
        let index = archive.with_file_name(format!("{}{INDEX_END}", self.run));
        let candidate = Candidate { source, name: self.run, archive: &archive, index: &index, outcome };
        if let Some(not_due) = not_due(self.config, &candidate).filter(|_| source != appliance::NAME) {
            return Ok(Some(report.unwrap_or(not_due)));
        }
        tracing::info!(source, "pushing {}", self.run);
        let pushed = offsite::push(self.config, &candidate, self.stop, &progress)?;
        tracing::info!(source, "pushed to {}: {} bytes, proven", pushed.place, pushed.bytes);
        Ok(Some(PushReport::proven(pushed)))
    }
}
