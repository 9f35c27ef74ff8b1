//! The word of a run on its way to the owner.

use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::Config;
use crate::openpgp::Recipients;
use crate::outcome::Outcome;
use crate::report::{self, Letter};
use crate::run::report::{MailReport, RunReport};
use crate::status;

/// Looks whether report and copies can still be sealed for everybody. A certificate that can't be used any more is the
/// owner's to mend, so the run that finds it is no better than `partial`.
pub fn check_recipients(config: &Config, report: &mut RunReport) {
    let recipients = Recipients::at(&config.recipients, SystemTime::now());
    for soon in recipients.expiring() {
        report.note(soon.clone());
    }
    for problem in recipients.unusable() {
        report.outcome = report.outcome.max(Outcome::Partial);
        report.note(format!("nothing can be sealed for {problem}"));
    }
}

/// Mails the word of a run, with the end of its log, and writes into `report` how that went. Without `[report]` it does
/// nothing. A mail that no server takes waits for the next run and is no failure of this one.
pub fn post(config: &Config, report: &mut RunReport, log: Option<PathBuf>) {
    if config.report.is_none() {
        return;
    }
    let letter = Letter { log, ..status::letter(config, report) };
    let delivery = report::post(config, &letter, Timestamp::now());
    for problem in &delivery.problems {
        tracing::warn!("{problem}");
    }
    report.mail = Some(MailReport { sent: delivery.sent, waiting: delivery.waiting, problems: delivery.problems });
}
