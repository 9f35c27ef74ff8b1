//! How the appliance is: the facts, and the shapes in which they are shown.
//!
//! [`facts::gather`] collects them once, from the configuration, the word of the last run, the history, the push clock, the
//! snapshots and the system. [`text`], [`html`], [`metrics`] and JSON show the same facts, so that mail, `vaultberry status`
//! and a Prometheus never disagree. Nothing here changes anything, but for [`metrics::write`], or waits for the run's lock.

pub mod advice;
mod charts;
pub mod facts;
pub mod host;
pub mod html;
pub mod metrics;
#[cfg(test)]
mod sample;
pub mod text;
mod trend;

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::config::Config;
use crate::durable;
use crate::redact::Redactor;
use crate::report::Letter;
use crate::run::report::RunReport;
use facts::Facts;

/// The facts as `vaultberry status --json` prints them.
///
/// # Errors
/// They can't be put into JSON.
pub fn json(facts: &Facts) -> Result<String> {
    Ok(serde_json::to_string_pretty(facts).context("putting the status into JSON")? + "\n")
}

/// Writes the page to `file`, for its owner alone: it names servers and files. Secrets are masked as in the mail, since a page
/// is passed on.
///
/// # Errors
/// The file can't be written.
pub fn write_page(facts: &Facts, redactor: &Redactor, file: &Path) -> Result<()> {
    durable::write(file, redactor.masked(&html::page(facts)).as_bytes(), 0o600).context("writing the status page")
}

/// The letter that tells of `report`, still without a log.
pub fn letter(config: &Config, report: &RunReport) -> Letter {
    let mut facts = facts::gather(config, Some(report), Timestamp::now());
    // Whoever reads this has it, and with it those that waited; and who runs is whoever writes it.
    facts.waiting_mails = 0;
    facts.running = None;
    facts.todo = advice::todo(&facts);
    let tells = facts.lost_mails.iter().map(|loss| loss.name.clone()).collect();
    Letter { subject: text::subject(&facts), text: text::text(&facts, false), html: Some(html::page(&facts)), tells, log: None }
}
