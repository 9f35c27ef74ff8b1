//! The word of a run on its way to the owner.

use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::Config;
use crate::openpgp::Recipients;
use crate::outcome::Outcome;
use crate::report::{self, Letter, Queued};
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

/// What the owner is told of a run, with its log if there is one.
pub fn letter(config: &Config, report: &RunReport, log: Option<PathBuf>) -> Letter {
    Letter { log, ..status::letter(config, report) }
}

/// Queues the word of a run, with its log. Without `[report]` it does nothing.
pub fn queue(config: &Config, report: &RunReport, log: Option<PathBuf>) -> Queued {
    let now = Timestamp::now();
    report::queue(config, &letter(config, report, log), &report::name(now), now)
}

/// Sends what was queued, and what waited, and writes into `report` how that went. A mail that no server takes waits and is
/// no failure of the run.
pub fn send(config: &Config, report: &mut RunReport, queued: Queued) {
    if config.report.is_none() {
        return;
    }
    let delivery = report::send(config, queued);
    for problem in &delivery.problems {
        tracing::warn!("{problem}");
    }
    report.mail = Some(MailReport { sent: delivery.sent, waiting: delivery.waiting, problems: delivery.problems });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use jiff::Timestamp;

    use super::{check_recipients, letter};
    use crate::config::{EXAMPLE, parse};
    use crate::openpgp;
    use crate::outcome::Outcome;
    use crate::run::report::RunReport;

    #[test]
    fn what_no_mail_has_told_stands_in_the_next_one() {
        let state = tempfile::tempdir().unwrap();
        let mut config = parse(EXAMPLE).unwrap();
        config.backup.state = state.path().to_owned();
        fs::create_dir(state.path().join("queue")).unwrap();
        fs::write(state.path().join("queue/1.lost"), "the mail 0.eml is dropped\nhint: x").unwrap();
        let letter = letter(&config, &RunReport::begun("20261123T023000Z".into(), Timestamp::now()), None);
        assert!(letter.text.contains("- the mail 0.eml is dropped (x)\n"), "{}", letter.text);
        assert!(letter.html.unwrap().contains("the mail 0.eml is dropped (x)"));
        assert_eq!(letter.tells, ["1.lost"]);
    }

    #[test]
    fn a_certificate_that_will_expire_is_in_each_report() {
        let state = tempfile::tempdir().unwrap();
        let mut config = parse(EXAMPLE).unwrap();
        config.backup.state = state.path().to_owned();
        config.recipients = vec![openpgp::tests::recipient(SystemTime::now() - Duration::from_mins(1))];
        let mut report = RunReport::begun("20261123T023000Z".into(), Timestamp::now());
        report.outcome = Outcome::Complete;
        check_recipients(&config, &mut report);
        let told = format!("the certificate {} expires within a day\n", config.recipients[0].fingerprint);
        assert!(report.notes.len() == 1 && report.notes[0].starts_with(&told), "{:?}", report.notes);
        let letter = letter(&config, &report, None);
        let todo = format!("- the certificate {} expires in 0 days: extend it ", config.recipients[0].fingerprint);
        assert!(letter.text.contains(&told) && letter.text.contains(&todo), "{}", letter.text);
        assert!(letter.html.unwrap().contains(&todo[2..]));
        assert_eq!(report.outcome, Outcome::Complete, "it can still be used");
    }
}
