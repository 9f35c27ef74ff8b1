//! After all sources: their new snapshots on their way off-site, where that is due.
//!
//! Pushing comes last, so that an upload of hours keeps no other source from its snapshot. One that fails spoils no other.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::offsite::clock::Clock;
use crate::offsite::{self, Candidate};
use crate::run::events::{Event, Events};
use crate::run::report::{PushReport, RunReport, SourceReport};
use crate::snapshot::{ARCHIVE_END, INDEX_END};
use crate::stop::Stop;

/// Pushes what this run has made and what is due, and writes into `report` how that went. Without `[offsite]` it does nothing.
pub fn make(config: &Config, report: &mut RunReport, events: &Events, stop: &Stop) {
    if config.offsite.is_none() {
        return;
    }
    let name = report.run.clone();
    for source in &mut report.sources {
        let Some(archive) = archive(&config.backup.folder, source) else { continue };
        let push = push(config, &name, source, &archive, events, stop);
        events.tell(&Event::Push { source: &source.name, report: &push });
        source.push = Some(push);
    }
}

/// Whether the snapshot of `source` with the name `run` would be pushed, and if not, what is there instead.
pub fn not_due(config: &Config, candidate: &Candidate<'_>) -> Option<PushReport> {
    if offsite::due(config, candidate) {
        return None;
    }
    let last = Clock::load(&config.backup.state).of(candidate.source).complete;
    Some(PushReport::not_due(last.map(|push| push.snapshot)))
}

/// The archive that this run has made of a source.
fn archive(backup: &Path, source: &SourceReport) -> Option<PathBuf> {
    source.snapshot.as_ref().map(|snapshot| backup.join(snapshot))
}

fn push(config: &Config, run: &str, source: &SourceReport, archive: &Path, events: &Events, stop: &Stop) -> PushReport {
    let index = archive.with_file_name(format!("{run}{INDEX_END}"));
    debug_assert!(archive.ends_with(format!("{run}{ARCHIVE_END}")));
    let candidate = Candidate { source: &source.name, name: run, archive, index: &index, outcome: source.outcome };
    if let Some(not_due) = not_due(config, &candidate) {
        return not_due;
    }
    tracing::info!(source = source.name, "pushing {run}");
    match stop.check().and_then(|()| offsite::push(config, &candidate, stop, &events.progress(&source.name))) {
        Ok(pushed) => {
            tracing::info!(source = source.name, "pushed to {}: {} bytes, proven", pushed.place, pushed.bytes);
            PushReport::proven(pushed.place, pushed.bytes)
        }
        Err(error) => {
            tracing::error!(source = source.name, "{error:#}");
            PushReport::failed(&error)
        }
    }
}
