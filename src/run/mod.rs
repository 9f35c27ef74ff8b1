//! The nightly run: lock, guards, every source on its own, and the word of how it went.
//!
//! Two folders, two fates. The *state* folder lives on root: the log of each run and `last-run.json`, so that a run
//! without a backup disk can still say so. The *backup* folder is the disk: `current/`, `snapshots/`, and a copy of each
//! run's log. Nothing is written there before the guards have found it to be the disk.
//!
//! A run that didn't get the lock changes nothing at all, not even the word of the last run. It only mails that.

pub mod events;
pub mod guard;
pub mod lock;
pub mod logs;
mod mail;
pub mod pipeline;
mod pushes;
pub mod rehearsal;
pub mod report;
pub mod schedule;
pub mod screen;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;

use crate::config::Config;
use crate::durable;
use crate::run::events::{Event, Events};
use crate::run::lock::{Attempt, Lock};
use crate::run::report::{RunReport, SourceReport};
use crate::run::schedule::Times;
use crate::stop::Stop;

/// The word of the last run, in the state folder.
const LAST_RUN: &str = "last-run.json";

/// Makes one run, and gives the word of it, which then also stands in `<state>/last-run.json`.
///
/// # Errors
/// Only what can't be reported: the lock or the state folder can't be written. Everything else is in the report.
pub fn backup(config: &Config, events: &Events, stop: &Stop) -> Result<RunReport> {
    match lock::acquire(&config.backup.lock, Timestamp::now())? {
        Attempt::Held(holder) => {
            tracing::warn!("another run holds {}: {holder}", config.backup.lock.display());
            let mut report = RunReport::skipped(Timestamp::now(), format!("another run is at work ({holder})"));
            mail::post(config, &mut report, None);
            Ok(report)
        }
        Attempt::Taken(lock) => Run { config, events, stop, _lock: lock }.make(),
    }
}

/// The same, unless no night was missed.
///
/// # Errors
/// Those of [`backup`].
pub fn catch_up(config: &Config, events: &Events, stop: &Stop) -> Result<RunReport> {
    let now = Timestamp::now();
    let last = last_times(&config.backup.state.join(LAST_RUN));
    match schedule::not_due(last, now, config.backup.at, &config.appliance.timezone)? {
        Some(why) => Ok(RunReport::skipped(now, format!("nothing is due: {why}"))),
        None => backup(config, events, stop),
    }
}

/// When the last run was; none when there was none, or its word can't be read.
fn last_times(path: &Path) -> Option<Times> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A run that has the lock.
struct Run<'a> {
    config: &'a Config,
    events: &'a Events,
    stop: &'a Stop,
    _lock: Lock,
}

impl Run<'_> {
    fn make(&self) -> Result<RunReport> {
        let backup = &self.config.backup;
        let last = last_times(&self.state(LAST_RUN));
        let (name, started, log) = logs::begin(&self.state("logs"))?;
        tracing::info!("run {name} begins");
        let mut report = RunReport::begun(name, started);
        // Already now, so that a run that is killed doesn't leave the word of the one before as the last.
        self.write_down(&report)?;
        let sources: Vec<&str> = self.config.sources.iter().map(|source| source.name.as_str()).collect();
        self.events.tell(&Event::Begun { run: &report.run, sources: &sources });
        if let Some(Times { started, ended: None }) = last {
            report.note(format!("the run of {started:.0} was cut short: it was killed, or the power was"));
        }
        let guarded = guard::check(self.config, started);
        let usable = guarded.is_ok();
        if let Err(error) = guarded.and_then(|()| self.every_source(&mut report)) {
            report.fail(&error);
        }
        mail::check_recipients(self.config, &mut report);
        report.ended = Some(Timestamp::now());
        tracing::info!("run {} ends: {}", report.run, report.outcome);
        drop(log);
        let copies = usable.then(|| backup.folder.join("logs"));
        self.tidy_logs(copies.as_deref(), &mut report);
        // Before the mail, which may take its time, and after it, with how that went.
        self.write_down(&report)?;
        let log = self.state("logs").join(format!("{}{}", report.run, logs::END));
        mail::post(self.config, &mut report, Some(log));
        self.write_down(&report)?;
        self.events.tell(&Event::Ended(&report));
        Ok(report)
    }

    /// Takes one source after the other. The error is a stop that was asked for; sources it kept from their turn are
    /// `skipped`.
    fn every_source(&self, report: &mut RunReport) -> Result<()> {
        for source in &self.config.sources {
            let result = match self.stop.check() {
                Ok(()) => {
                    pipeline::source(&self.config.backup, source, &report.run, self.stop, &self.events.progress(&source.name))
                }
                Err(error) => SourceReport::skipped(&source.name, &error),
            };
            self.events.tell(&Event::Source(&result));
            report.sources.push(result);
        }
        pushes::make(self.config, report, self.events, self.stop);
        report.settle();
        self.stop.check()
    }

    /// Copies the run's log beside the snapshots, and removes old ones. The log on root is the first to be believed, so
    /// failing here is a note, not the run's failure.
    fn tidy_logs(&self, copies: Option<&Path>, report: &mut RunReport) {
        let (logs, keep) = (self.state("logs"), self.config.backup.keep_logs);
        let mut results = vec![logs::rotate(&logs, keep)];
        if let Some(copies) = copies {
            results.push(logs::copy(&logs, copies, &report.run));
            results.push(logs::rotate(copies, keep));
        }
        for error in results.into_iter().filter_map(Result::err) {
            report.note(format!("{error:#}"));
        }
    }

    fn write_down(&self, report: &RunReport) -> Result<()> {
        durable::write(&self.state(LAST_RUN), &report.to_json()?, 0o644)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.config.backup.state.join(name)
    }
}
