//! The nightly run: lock, guards, every source on its own, and the word of how it went.
//!
//! Two folders, two fates. The *state* folder lives on root: the log of each run and `last-run.json`, so that a run
//! without a backup disk can still say so. The *backup* folder is the disk: `current/`, `snapshots/`, and a copy of each
//! run's log. Nothing is written there before the guards have found it to be the disk.
//!
//! A run that didn't get the lock changes nothing at all, not even the word of the last run.

pub mod guard;
pub mod lock;
pub mod pipeline;
pub mod report;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::config::Config;
use crate::durable;
use crate::log::{self, RunLog};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::run::lock::{Attempt, Lock};
use crate::run::report::{RunReport, SourceReport};
use crate::stop::Stop;

/// Makes one run, and gives the word of it, which then also stands in `<state>/last-run.json`.
///
/// # Errors
/// Only what can't be reported: the lock or the state folder can't be written. Everything else is in the report.
pub fn backup(config: &Config, stop: &Stop) -> Result<RunReport> {
    match lock::acquire(&config.backup.lock, Timestamp::now())? {
        Attempt::Held(holder) => {
            tracing::warn!("another run holds {}: {holder}", config.backup.lock.display());
            Ok(RunReport::skipped(Timestamp::now(), holder))
        }
        Attempt::Taken(lock) => locked(config, stop, &lock),
    }
}

/// The run, under the lock.
fn locked(config: &Config, stop: &Stop, _lock: &Lock) -> Result<RunReport> {
    let state = &config.backup.state;
    let (name, started, log) = begin(&state.join("logs"))?;
    tracing::info!("run {name} begins");
    let mut report = RunReport::begun(name, started);
    // Already now, so that a run that is killed doesn't leave the word of the one before as the last.
    durable::write(&state.join("last-run.json"), &report.to_json()?, 0o644)?;
    let guarded = guard::check(config, started);
    let usable = guarded.is_ok();
    if let Err(error) = guarded.and_then(|()| every_source(config, &mut report, stop)) {
        report.fail(&error);
    }
    report.ended = Some(Timestamp::now());
    tracing::info!("run {} ends: {}", report.run, report.outcome);
    drop(log);
    if usable {
        keep_log(state, &config.backup.folder, &report.run, &mut report.notes);
    }
    durable::write(&state.join("last-run.json"), &report.to_json()?, 0o644)?;
    Ok(report)
}

/// Takes one source after the other. The error is a stop that was asked for; sources it kept from their turn are `skipped`.
fn every_source(config: &Config, report: &mut RunReport, stop: &Stop) -> Result<()> {
    for source in &config.sources {
        let result = match stop.check() {
            Ok(()) => pipeline::source(&config.backup.folder, source, &report.run, stop, &Progress::default()),
            Err(error) => SourceReport::skipped(&source.name, &error),
        };
        report.sources.push(result);
    }
    report.outcome = report.sources.iter().map(|source| source.outcome).max().unwrap_or(Outcome::Failed);
    stop.check()
}

/// Names the run after its start, opens its log, and gives both. A name is given once: the log of the same second,
/// should there be one, makes this run a second younger.
fn begin(logs: &Path) -> Result<(String, Timestamp, RunLog)> {
    loop {
        let started = Timestamp::now();
        let name = started.strftime("%Y%m%dT%H%M%SZ").to_string();
        match log::attach(&logs.join(format!("{name}.log"))) {
            Ok(log) => return Ok((name, started, log)),
            Err(error) if is_taken(&error) => sleep(Duration::from_millis(200)),
            Err(error) => return Err(error),
        }
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::AlreadyExists)
}

/// Copies the run's log beside the snapshots that it speaks of. The one on root is the first to be believed, so failing
/// here is a note, not the run's failure.
fn keep_log(state: &Path, backup: &Path, run: &str, notes: &mut Vec<String>) {
    let name = format!("logs/{run}.log");
    let target = backup.join(&name);
    let copied = durable::private_folder(&backup.join("logs"))
        .and_then(|()| fs::read(state.join(&name)).with_context(|| format!("copying the log to {}", target.display())))
        .and_then(|log| durable::write(&target, &log, 0o600));
    if let Err(error) = copied {
        tracing::warn!("{error:#}");
        notes.push(format!("{error:#}"));
    }
}
