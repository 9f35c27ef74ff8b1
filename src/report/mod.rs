//! The mail that tells the owner how a run went.
//!
//! A letter goes through three hands. [`compose`] makes a mail of it that shows nothing in clear but who writes to whom, when
//! and under which subject: text and log are sealed as PGP/MIME. [`queue`] keeps it on root, synced, before anything is
//! sent, so that neither a dead server nor a power cut loses it. [`mail`] hands over what waits, oldest first, and only a
//! mail that the server has accepted leaves the queue. So each mail arrives at least once, and a second arrival bears the
//! same Message-ID.
//!
//! None of this may fail a run: what goes wrong is told in the [`Delivery`], and the next run tries again.

mod compose;
mod mail;
mod queue;
mod refusal;

use std::path::PathBuf;

use anyhow::{Result, bail};
use jiff::Timestamp;
use uuid::Uuid;

use crate::config::{self, Config};
use crate::log::printable;
use mail::{Failure, Mailer};
use queue::Queue;

/// What the owner is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Goes in clear, so it names no more than the appliance and the outcome: `[vaultberry] pi: complete`.
    pub subject: String,
    /// What a person wants to know; sealed.
    pub text: String,
    /// The run's log, of which the end is attached; sealed too.
    pub log: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How many mails the server took, those included that waited from before.
    pub sent: usize,
    /// How many are still in the queue.
    pub waiting: usize,
    /// What went wrong, each told for a person, with its `hint: ` lines.
    pub problems: Vec<String>,
}

impl Delivery {
    fn problem(&mut self, error: &anyhow::Error) {
        self.problems.push(format!("{error:#}"));
    }
}

/// Seals `letter`, queues it, and tries to send all that waits. Without a `[report]` nothing is done.
pub fn post(config: &Config, letter: &Letter, now: Timestamp) -> Delivery {
    let mut delivery = Delivery::default();
    let Some(report) = &config.report else { return delivery };
    let queue = Queue::below(&config.backup.state);
    let mut mailer = Mailer::new(report, &config.appliance.hostname);
    let name = format!("{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), Uuid::new_v4().simple());
    match compose::compose(config, report, letter, &name, now) {
        Err(error) => delivery.problem(&error),
        Ok(composed) => {
            delivery.problems.extend(composed.problems);
            if let Err(error) = queue.put(&name, &composed.mail) {
                delivery.problem(&error);
                at_once(&mut mailer, &composed.mail, &mut delivery);
            }
        }
    }
    if let Err(error) = queue.send_all(&mut |mail| mailer.send(mail), &mut delivery) {
        delivery.problem(&error);
    }
    delivery.waiting = queue.waiting().map_or(0, |names| names.len());
    delivery
}

/// Sends a mail that couldn't be queued: when root is full, a word of it matters most.
fn at_once(mailer: &mut Mailer<'_>, mail: &[u8], delivery: &mut Delivery) {
    match mailer.send(mail) {
        Ok(problems) => {
            delivery.sent += 1;
            delivery.problems.extend(problems);
        }
        Err(Failure::Mail(error) | Failure::Server(error)) => delivery.problem(&error),
    }
}

/// Sends a sealed test mail now, and what waits with it; gives a line that says where it went.
///
/// # Errors
/// There is no `[report]`, or something of it didn't work; the mail is then in the queue, unless the server took it.
pub fn test(config: &Config, now: Timestamp) -> Result<String> {
    let Some(report) = &config.report else {
        bail!("there is no [report] in the configuration\nhint: it says whom to mail, and through which server");
    };
    let host = &config.appliance.hostname;
    let letter = Letter {
        subject: format!("[vaultberry] {host}: test"),
        text: format!("This is a test. Reports of {host} can reach you, and you can read them.\n"),
        log: None,
    };
    let delivery = post(config, &letter, now);
    let (to, through) = (report.to.join(", "), server(report));
    if delivery.problems.is_empty() {
        return Ok(format!("{} sent to {to} through {through}\n", mails(delivery.sent)));
    }
    let told = delivery.problems.join("\n");
    bail!("trying the report: {} sent, {} waiting: {told}", mails(delivery.sent), delivery.waiting)
}

fn mails(count: usize) -> String {
    if count == 1 { "1 mail".to_owned() } else { format!("{count} mails") }
}

/// The mail server as a person would name it.
fn server(report: &config::Report) -> String {
    printable(format!("{}:{}", report.server, report.port).as_bytes())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Delivery, Letter, post, test};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn without_a_report_section_nothing_is_done() {
        let config = parse(EXAMPLE).unwrap();
        let letter = Letter { subject: "s".into(), text: "t".into(), log: None };
        assert_eq!(post(&config, &letter, Timestamp::UNIX_EPOCH), Delivery::default());
        assert_eq!(
            test(&config, Timestamp::UNIX_EPOCH).unwrap_err().to_string(),
            "there is no [report] in the configuration\nhint: it says whom to mail, and through which server"
        );
    }
}
