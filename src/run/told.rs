//! Runs that nobody was told of: the program was killed, or the power went.
//!
//! A run puts its mail into the queue before it lets go of its lock, and then writes its name into `<state>/told`. So a run
//! whose word stands in `last-run.json`, whose name isn't there, and whose lock nobody holds, has come to its end without
//! a mail. The next start tells of it: [`tell`] is called by each run before it begins, by the catch-up at boot even when no
//! run is due, and hourly by `vaultberry report send`. The mail's name is made of the run's, so that being killed here, too,
//! makes it arrive twice at worst, under one Message-ID.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::report::RunReport;
use super::{LAST_RUN, last, lock, logs, mail};
use crate::config::Config;
use crate::durable;
use crate::outcome::Outcome;
use crate::report::{self, Letter};

/// Holds the name of the last run whose mail was queued.
const TOLD: &str = "told";

/// Queues the mail of the last run, if it has none and isn't going on. The caller holds no lock, or that of the run. Nothing of
/// this may keep a run from being made, so that what goes wrong is only logged.
pub fn tell(config: &Config) {
    if config.report.is_none() {
        return;
    }
    let Some(last) = last(&config.backup.state).ok().flatten().filter(|last| !is_told(config, &last.run)) else { return };
    let queued = report::queue(config, &letter(config, &last), &format!("{}-untold", last.run), Timestamp::now());
    for problem in &queued.problems {
        tracing::warn!("{problem}");
    }
    if queued.is_safe() {
        mark(config, &last.run);
    }
}

/// The same for whoever isn't a run: only if none is going on.
pub fn tell_unless_running(config: &Config) {
    if lock::holder_of(&config.backup.lock).is_none() {
        tell(config);
    }
}

/// Writes down that the mail of `run` is in the queue, or that nobody wants one.
pub fn mark(config: &Config, run: &str) {
    let marked = durable::write(&config.backup.state.join(TOLD), format!("{run}\n").as_bytes(), 0o644);
    if let Err(error) = marked {
        tracing::warn!("{error:#}");
    }
}

/// The letter of the last run.
///
/// # Errors
/// There was none, its word can't be read, or it goes on.
pub fn letter_of_last_run(config: &Config) -> Result<Letter> {
    let word = config.backup.state.join(LAST_RUN);
    let last = last(&config.backup.state)?;
    let last = last.with_context(|| format!("reading the word of the last run, {}: there was no run yet", word.display()))?;
    if last.ended.is_none() && lock::holder_of(&config.backup.lock).is_some() {
        bail!("showing the report of the last run: it goes on\nhint: its report is made at its end");
    }
    Ok(letter(config, &last))
}

fn letter(config: &Config, last: &RunReport) -> Letter {
    let log = log_of(config, &last.run);
    if last.ended.is_some() {
        return mail::letter(config, last, log);
    }
    let mut cut_short = last.clone();
    cut_short.outcome = Outcome::Failed;
    cut_short.error = Some(
        "it was cut short: the program was killed, or the power went\n\
         hint: its log says how far it came; the next run begins anew"
            .to_owned(),
    );
    mail::letter(config, &cut_short, log)
}

/// Where the log of a run is, if it has one.
pub fn log_of(config: &Config, run: &str) -> Option<PathBuf> {
    Some(config.backup.state.join("logs").join(format!("{run}{}", logs::END))).filter(|log| log.exists())
}

fn is_told(config: &Config, run: &str) -> bool {
    fs::read_to_string(config.backup.state.join(TOLD)).is_ok_and(|told| told.trim_end() == run)
}
