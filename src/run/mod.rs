//! The nightly run: lock, guards, every source on its own, and the word of how it went.
//!
//! Two folders, two fates. The *state* folder lives on root: the log of each run and `last-run.json`, so that a run
//! without a backup disk can still say so. The *backup* folder is the disk: `current/`, `snapshots/`, and a copy of each
//! run's log. Nothing is written there before the guards have found it to be the disk.
//!
//! A run that didn't get the lock changes nothing at all, not even the word of the last run. It only mails that.

pub mod appliance;
pub mod events;
mod forecast;
pub mod guard;
pub mod headers;
pub mod history;
pub mod lock;
pub mod logs;
mod mail;
mod parallel;
pub mod pipeline;
mod pushes;
pub mod rehearsal;
pub mod report;
pub mod schedule;
pub mod screen;
pub mod told;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use serde::Deserialize;

use crate::config::{Config, Source};
use crate::disk::used;
use crate::durable;
use crate::kernel::appliance::{Appliance, CHANGED_HINT};
use crate::log::{RunLog, printable};
use crate::outcome::Outcome;
use crate::ping;
use crate::redact::Redactor;
use crate::report::Queued;
use crate::run::events::{Event, Events};
use crate::run::history::Night;
use crate::run::lock::{Attempt, Lock};
use crate::run::report::{Missed, RunReport, SourceReport};
use crate::run::schedule::Times;
use crate::snapshot::list;
use crate::status::facts;
use crate::stop::Stop;
use crate::{harden, space, status};

/// The word of the last run, in the state folder.
const LAST_RUN: &str = "last-run.json";

/// What the owner says is right though it seems wrong, for one run: names of sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Where much was deleted on the server.
    pub deletions: Vec<String>,
    /// Whose dumps have shrunk.
    pub smaller_dumps: Vec<String>,
}

impl Accept {
    /// # Errors
    /// There is no source of such a name.
    pub fn check(&self, config: &Config) -> Result<()> {
        let known = |name: &&String| config.sources.iter().any(|source| source.name == **name);
        match self.deletions.iter().chain(&self.smaller_dumps).find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => {
                let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
                bail!(
                    "accepting what seems wrong: there is no source {}\nhint: there are {}",
                    printable(name.as_bytes()),
                    names.join(", ")
                )
            }
        }
    }
}

/// Makes one run, and gives the word of it, which then also stands in `<state>/last-run.json`, and in a mail. Whatever goes
/// wrong is in the report: also a state folder that can't be written, as when the SD card is dying, keeps neither backup nor
/// mail from being made.
pub fn backup(config: &Config, accept: &Accept, events: &Events, stop: &Stop) -> RunReport {
    let mut report = match lock::acquire_after_upgrade(&config.backup.lock, stop) {
        Ok(Attempt::Taken(lock)) => return make(config, accept, events, stop, lock),
        Ok(Attempt::Held(holder)) => {
            tracing::warn!("another run holds {}: {holder}", config.backup.lock.display());
            at_work(Timestamp::now(), &holder)
        }
        Err(error) => return without_lock(config, events, stop, &error),
    };
    mail_alone(config, events, &mut report);
    report
}

/// The same, unless no night was missed.
///
/// # Errors
/// Whether one was can't be told.
pub fn catch_up(config: &Config, events: &Events, stop: &Stop) -> Result<RunReport> {
    // The lock first: a run that is going on looks like one that was cut short. That it makes up for the night is no news.
    let lock = match lock::acquire_after_upgrade(&config.backup.lock, stop) {
        Ok(Attempt::Held(holder)) => {
            let report = at_work(Timestamp::now(), &holder);
            events.tell(&Event::Ended(&report));
            return Ok(report);
        }
        Ok(Attempt::Taken(lock)) => lock,
        Err(error) => return Ok(without_lock(config, events, stop, &error)),
    };
    let (last, now) = (last_times(&config.backup.state.join(LAST_RUN)), Timestamp::now());
    match schedule::not_due(last, now, config.backup.at, &config.zone()?)? {
        Some(why) => {
            told::tell(config);
            drop(lock);
            let mut report = RunReport::skipped(now, format!("nothing is due: {why}"));
            mail::send(config, &mut report, Queued::default());
            events.tell(&Event::Ended(&report));
            Ok(report)
        }
        None => Ok(make(config, &Accept::default(), events, stop, lock)),
    }
}

/// The word of a run that couldn't ask for the lock, told to watcher and owner.
fn without_lock(config: &Config, events: &Events, stop: &Stop, error: &anyhow::Error) -> RunReport {
    let mut report = RunReport::begun(String::new(), Timestamp::now());
    report.fail(error);
    tell(ping::end(config, report.outcome, stop), &mut report);
    mail_alone(config, events, &mut report);
    report
}

/// Tells of a run that changes nothing, not even the word of the last one.
fn mail_alone(config: &Config, events: &Events, report: &mut RunReport) {
    let queued = mail::queue(config, report, None);
    mail::send(config, report, queued);
    events.tell(&Event::Ended(report));
}

fn at_work(now: Timestamp, holder: &str) -> RunReport {
    RunReport::skipped(now, format!("another run is at work ({holder})"))
}

/// The run under the lock, with its mail written, which is sent without: however long a mail server takes, the next run isn't
/// kept waiting.
fn make(config: &Config, accept: &Accept, events: &Events, stop: &Stop, lock: Lock) -> RunReport {
    let run = Run { config, accept, events, stop };
    told::tell(config);
    let begun = ping::begin(config, stop);
    let mut report = run.make();
    tell(begun.and(ping::end(config, report.outcome, stop)), &mut report);
    let queued = mail::queue(config, &report, told::log_of(config, &report.run));
    if queued.is_safe() || config.report.is_none() {
        told::mark(config, &report.run);
    }
    drop(lock);
    mail::send(config, &mut report, queued);
    if let Some(metrics) = &config.metrics {
        let facts = facts::gather(config, Some(&report), Timestamp::now());
        tell(status::metrics::write(&facts, &metrics.folder), &mut report);
    }
    run.write_down_afterwards(&mut report);
    events.tell(&Event::Ended(&report));
    report
}

/// Notes that somebody couldn't be told of the run: no failure of its own.
fn tell(told: Result<()>, report: &mut RunReport) {
    if let Err(error) = told {
        report.note(format!("{error:#}"));
    }
}

/// The word of the last run, as it stands in the folder `state`; none when there was none.
///
/// # Errors
/// It can't be read.
pub fn last(state: &Path) -> Result<Option<RunReport>> {
    let path = state.join(LAST_RUN);
    let reading = || format!("reading the word of the last run, {}", path.display());
    match fs::read(&path) {
        Ok(word) => serde_json::from_slice(&word).with_context(reading).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(reading),
    }
}

/// When the last run was; none when there was none. One whose word can't be read counts as cut short, long ago.
fn last_times(path: &Path) -> Option<Times> {
    let unknown = Times { started: Timestamp::UNIX_EPOCH, ended: None };
    match fs::read(path) {
        Ok(word) => Some(serde_json::from_slice(&word).unwrap_or(unknown)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(_) => Some(unknown),
    }
}

/// What the sources of the last run missed, by name; nothing of those whose pull failed, or where its word can't be read.
fn missed_before(path: &Path) -> HashMap<String, Missed> {
    #[derive(Deserialize)]
    struct Word {
        sources: Vec<SourceWord>,
    }
    #[derive(Deserialize)]
    struct SourceWord {
        name: String,
        snapshot: Option<String>,
        missed: Missed,
    }
    let word = fs::read(path).ok().and_then(|word| serde_json::from_slice::<Word>(&word).ok());
    let sources = word.into_iter().flat_map(|word| word.sources).filter(|source| source.snapshot.is_some());
    sources.map(|source| (source.name, source.missed)).collect()
}

/// Raises the alarm when others have written to an appliance's firmware partition. The run goes on: what it saves is wanted more
/// than ever.
fn firmware_partition(report: &mut RunReport) {
    let found = Appliance::here().and_then(|appliance| appliance.tampered());
    match found.context("looking whether the firmware partition is as it was written") {
        Ok(lines) if lines.is_empty() => {}
        Ok(lines) => {
            let lines = lines.join(", ");
            report.trouble(&anyhow!(
                "others than the appliance have written to its firmware partition: {lines}\nhint: {CHANGED_HINT}"
            ));
        }
        Err(error) => report.trouble(&error),
    }
}

/// A run that has the lock.
struct Run<'a> {
    config: &'a Config,
    accept: &'a Accept,
    events: &'a Events,
    stop: &'a Stop,
}

impl Run<'_> {
    fn make(&self) -> RunReport {
        let backup = &self.config.backup;
        let last = last_times(&self.state(LAST_RUN));
        let before = missed_before(&self.state(LAST_RUN));
        let (mut report, log) = self.begin();
        // Already now, and again with each source, so that a run that is killed doesn't leave the word of the one before as
        // the last.
        self.write_down(&mut report);
        let sources: Vec<&str> = self.config.sources.iter().map(|source| source.name.as_str()).collect();
        self.events.tell(&Event::Begun { run: &report.run, sources: &sources });
        if let Some(Times { started, ended: None }) = last {
            if started != Timestamp::UNIX_EPOCH {
                self.remember(&Night::killed(started), &mut report);
            }
            report.note(if started == Timestamp::UNIX_EPOCH {
                format!("the word of the last run, {}, can't be read", self.state(LAST_RUN).display())
            } else {
                format!("the run of {started:.0} was cut short: it was killed, or the power went")
            });
        }
        if harden::require_appliance().is_ok() {
            firmware_partition(&mut report);
            for path in harden::not_applied(self.config) {
                report.note(format!(
                    "{path} isn't what the config wants: after a change of the config, `sudo vaultberry harden apply`"
                ));
            }
        }
        let guarded = guard::check(self.config, report.started, || {
            pipeline::clean(&backup.folder, &self.config.sources)?;
            forecast::make_room(self.config, &before).context("making room on the disk")
        });
        let usable = guarded.is_ok();
        if let Err(error) = guarded.and_then(|()| self.every_source(&before, &mut report)) {
            report.fail(&error);
        }
        mail::check_recipients(self.config, &mut report);
        if !report.troubles.is_empty() {
            report.outcome = report.outcome.max(Outcome::Partial);
        }
        report.ended = Some(Timestamp::now());
        let disk = if usable { space::of(&backup.folder).ok() } else { None };
        let serial = if usable { self.disk_of_tonight(&mut report) } else { None };
        self.remember(&Night::of(&report, disk, serial), &mut report);
        tracing::info!(outcome = %report.outcome, "run {} ends: {}", report.run, report.outcome);
        drop(log);
        let copies = usable.then(|| backup.folder.join("logs"));
        self.tidy_logs(copies.as_deref(), &mut report);
        self.write_down(&mut report);
        report
    }

    /// Names the run and opens its log. Where no log can be written the run goes on without one.
    fn begin(&self) -> (RunReport, Option<RunLog>) {
        match logs::begin(&self.state("logs"), &Redactor::of(self.config)) {
            Ok((name, started, log)) => {
                tracing::info!("run {name} begins");
                (RunReport::begun(name, started), Some(log))
            }
            Err(error) => {
                let now = Timestamp::now();
                let mut report = RunReport::begun(list::name_of(now), now);
                report.trouble(&error);
                (report, None)
            }
        }
    }

    /// Takes every source, some at once. The error is a stop that was asked for; sources it kept from their turn are
    /// `skipped`.
    fn every_source(&self, before: &HashMap<String, Missed>, report: &mut RunReport) -> Result<()> {
        let zone = self.config.zone()?;
        let run = report.run.clone();
        let (backup, archiving) = (&self.config.backup, Mutex::new(()));
        let night =
            pipeline::Night { backup, run: &run, zone: &zone, accept: self.accept, stop: self.stop, archiving: &archiving };
        let short = forecast::short(self.config).context("looking how much room there is")?;
        let word = Mutex::new(report.clone());
        let each = |source: &Source| {
            let mut result = match self.stop.check() {
                Ok(()) if short.contains_key(&source.name) => {
                    SourceReport::failed(&source.name, &anyhow!("{}", short[&source.name]))
                }
                Ok(()) => pipeline::source(&night, source, &self.events.progress(&source.name)),
                Err(error) => SourceReport::skipped(&source.name, &error),
            };
            result.missed_before = before.get(&source.name).copied();
            self.add(&word, &result);
            self.events.tell(&Event::Source(&result));
            result
        };
        report.sources = parallel::map(&self.config.sources, self.config.backup.parallel.into(), &each);
        pushes::make(self.config, report, self.events, self.stop, &|report| self.keep(report));
        report.settle();
        self.stop.check()
    }

    /// Copies the run's log beside the snapshots, and removes old ones. The log on root is the first to be believed, so
    /// failing here is a note, not the run's failure.
    fn tidy_logs(&self, copies: Option<&Path>, report: &mut RunReport) {
        let (logs, keep) = (self.state("logs"), self.config.backup.keep_logs);
        if !logs.join(format!("{}{}", report.run, logs::END)).exists() {
            return;
        }
        let mut results = vec![logs::rotate(&logs, keep, &report.run)];
        if let Some(copies) = copies {
            results.push(logs::copy(&logs, copies, &report.run));
            results.push(logs::rotate(copies, keep, &report.run));
        }
        for error in results.into_iter().filter_map(Result::err) {
            report.note(format!("{error:#}"));
        }
    }

    /// Writes the word of the run. A state folder that takes none is trouble of its own.
    fn write_down(&self, report: &mut RunReport) {
        if let Err(error) = self.written(report) {
            report.trouble(&error);
        }
    }

    fn written(&self, report: &RunReport) -> Result<()> {
        durable::write(&self.state(LAST_RUN), &report.to_json()?, 0o644)
    }

    /// Writes the word of a run that goes on, so that what it has done stands there also when it is killed. Where that
    /// fails, the end of the run, which writes it again, says so.
    fn keep(&self, report: &RunReport) {
        if let Err(error) = self.written(report) {
            tracing::warn!("{error:#}");
        }
    }

    /// Adds a source that is done with to the word of the run, in the order of the configuration.
    fn add(&self, word: &Mutex<RunReport>, source: &SourceReport) {
        let place = |name: &str| self.config.sources.iter().position(|source| source.name == name);
        // Held while it is written: others are at work, too.
        let mut word = word.lock().unwrap_or_else(PoisonError::into_inner);
        word.sources.push(source.clone());
        word.sources.sort_by_key(|source| place(&source.name));
        self.keep(&word);
    }

    /// The serial number of the disk that this night was written to, which is remembered.
    fn disk_of_tonight(&self, report: &mut RunReport) -> Option<String> {
        let known = used::remember(self.config, report.started).and_then(|()| used::open_now(self.config));
        known.unwrap_or_else(|error| {
            report.note(format!("{error:#}"));
            None
        })
    }

    /// Adds a line to the history. A history that takes none is no reason to doubt the run.
    fn remember(&self, night: &Night, report: &mut RunReport) {
        if let Err(error) = history::append(&self.config.backup.state, night) {
            report.note(format!("{error:#}"));
        }
    }

    /// Adds to the word of the run how those fared who were told of it, unless another run has begun meanwhile.
    fn write_down_afterwards(&self, report: &mut RunReport) {
        if last_times(&self.state(LAST_RUN)).is_some_and(|last| last.started == report.started) {
            self.write_down(report);
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.config.backup.state.join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{backup, catch_up};
    use crate::config::{EXAMPLE, MailServer, Ping, Report, Security, parse};
    use crate::outcome::Outcome;
    use crate::report;
    use crate::run::events::Events;
    use crate::stop::Stop;

    #[test]
    fn who_can_not_have_the_lock_tells_watcher_and_owner() {
        let state = tempfile::tempdir().unwrap();
        let mut config = parse(EXAMPLE).unwrap();
        config.backup.state = state.path().to_owned();
        config.backup.lock = state.path().join("missing/lock");
        // Nobody listens at port 1.
        let server = MailServer { host: "127.0.0.1".into(), port: 1, security: Security::None, credentials: None, ca: None };
        let (to, from) = (vec!["owner@example.org".into()], "pi@example.net".into());
        config.report = Some(Report { to, from, servers: vec![server], size_limit: 1 << 20 });
        config.ping = Some(Ping { credentials: PathBuf::from("/nowhere/ping"), partial: Outcome::Failed });
        let (events, stop) = (Events::unheard(), Stop::default());
        let reports = [backup(&config, &super::Accept::default(), &events, &stop), catch_up(&config, &events, &stop).unwrap()];
        for report in &reports {
            assert_eq!(report.outcome, Outcome::Failed);
            assert!(report.error.as_ref().unwrap().starts_with("opening the lock "), "{:?}", report.error);
            assert!(report.notes.len() == 1 && report.notes[0].contains("/nowhere/ping"), "{:?}", report.notes);
        }
        assert_eq!(report::waiting(&config).unwrap(), reports.len());
    }
}
