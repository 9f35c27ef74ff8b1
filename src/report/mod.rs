//! The mail that tells the owner how a run went.
//!
//! A letter goes through three hands. [`compose`] makes a mail of it that shows nothing in clear but who writes to whom, when
//! and under which subject: text, page and log are sealed as PGP/MIME, with what could be a secret masked. [`mod@queue`] keeps it
//! on root, synced, before anything is sent, so that neither a dead server nor a power cut loses it. [`mail`] hands over what
//! waits, tonight's first, and only a mail that a server has accepted leaves the queue, or one that is beyond the [`limits`],
//! which is told. So each mail arrives at least once, and a second arrival bears the same Message-ID.
//!
//! Queueing and sending are two steps, [`queue()`] and [`send`], since the run lets go of its lock between them. What waits is
//! sent by the next run and, hourly, by a timer ([`send_waiting`]).
//!
//! A server can spin out its answers without end, so that all sending is done in a thread that is given up when its time
//! is over.
//!
//! None of this may fail a run: what goes wrong is told in the [`Delivery`], and the next run tries again.

mod compose;
mod entity;
#[cfg(test)]
mod fake;
mod fit;
mod limits;
mod mail;
mod queue;
mod refusal;
mod smtp;
mod starttls;

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use jiff::Timestamp;
use uuid::Uuid;

use crate::config::{Config, MailServer};
use crate::log::printable;
use crate::redact::Redactor;
use mail::Mailer;
pub use queue::Loss;
use queue::{Queue, Which};
use refusal::hinted_once;
pub use smtp::Smtp;

/// How long all sending of one run may take.
const LONGEST: Duration = Duration::from_mins(30);

/// What the owner is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Goes in clear, so it names no more than the appliance and the outcome: `[vaultberry] pi: complete`.
    pub subject: String,
    /// What a person wants to know; sealed.
    pub text: String,
    /// The same as a page for mail programs that show HTML, where there is one; sealed.
    pub html: Option<String>,
    /// The names of the losses that it tells of; they are done with when a server has taken the mail.
    pub tells: Vec<String>,
    /// The run's log, of which the newest lines are attached, as many as the mail has room for; sealed too.
    pub log: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How many mails the server took for everybody, those included that waited from before.
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

    /// Adds what came of another part. What many mails meet alike is told once.
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        for problem in other.problems {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }
}

/// How many mails wait for a mail server.
///
/// # Errors
/// The queue can't be read.
pub fn waiting(config: &Config) -> Result<usize> {
    Queue::below(&config.backup.state).waiting().map(|names| names.len())
}

/// What no mail has told yet of mails that didn't arrive, from old to new.
///
/// # Errors
/// The queue can't be read.
pub fn lost(config: &Config) -> Result<Vec<Loss>> {
    Queue::below(&config.backup.state).lost()
}

/// What a mail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The subject, the text, and where the log is.
    pub text: String,
    /// The page, if it has one.
    pub html: Option<String>,
}

/// A mail that is queued, or couldn't be.
#[derive(Debug, Default)]
pub struct Queued {
    /// What went wrong, each told for a person.
    pub problems: Vec<String>,
    /// One that is nowhere but here.
    unqueued: Option<Vec<u8>>,
    /// Whether it's on root.
    safe: bool,
}

impl Queued {
    /// Whether there is a mail, and a power cut doesn't lose it.
    pub fn is_safe(&self) -> bool {
        self.safe
    }
}

/// A name for a mail that is made `now`: names sort by time.
pub fn name(now: Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), Uuid::new_v4().simple())
}

/// Seals `letter` and keeps it, so that a power cut doesn't lose it. `name` becomes its Message-ID; a mail of the same name
/// that still waits is replaced. Without a `[report]` nothing is done.
pub fn queue(config: &Config, letter: &Letter, name: &str, now: Timestamp) -> Queued {
    let mut queued = Queued::default();
    let Some(report) = &config.report else { return queued };
    match compose::compose(config, report, letter, name, now) {
        Err(error) => queued.problems.push(format!("{error:#}")),
        Ok(composed) => {
            queued.problems.extend(composed.problems);
            let queue = Queue::below(&config.backup.state);
            let put = || queue.put(name, &composed.mail, composed.short.as_deref());
            match queue.tells(name, &composed.tells).and_then(|()| put()) {
                Ok(()) => queued.safe = true,
                Err(error) => {
                    queued.problems.push(format!("{error:#}"));
                    queued.unqueued = Some(composed.mail);
                }
            }
        }
    }
    queued
}

/// Tries to send what was queued, and all that waits from before. Without a `[report]` nothing is done.
pub fn send(config: &Config, queued: Queued) -> Delivery {
    sent(config, queued, Which::All)
}

/// Tries to send what waits, but for mails that a server has refused for good: those have a turn with each run.
pub fn send_waiting(config: &Config) -> Delivery {
    sent(config, Queued::default(), Which::NotRefused)
}

/// Seals `letter`, queues it, and tries to send all that waits. Without a `[report]` nothing is done.
pub fn post(config: &Config, letter: &Letter, now: Timestamp) -> Delivery {
    send(config, queue(config, letter, &name(now), now))
}

fn sent(config: &Config, queued: Queued, which: Which) -> Delivery {
    let mut delivery = Delivery { problems: queued.problems, ..Delivery::default() };
    let Some(report) = &config.report else { return delivery };
    let queue = Queue::below(&config.backup.state);
    let mailer = Mailer::new(report, &config.appliance.hostname);
    delivery.add(deliver(mailer, &queue, which, queued.unqueued, LONGEST));
    delivery.waiting = queue.waiting().map_or(0, |names| names.len());
    delivery
}

/// Sends in a thread of its own, which is given up after `longest`. It holds the queue's lock, until the process ends if
/// it must, so that nobody sends the same mail meanwhile.
fn deliver(mailer: Mailer, queue: &Queue, which: Which, unqueued: Option<Vec<u8>>, longest: Duration) -> Delivery {
    let until = Instant::now() + longest;
    let (tell, told) = mpsc::channel();
    let sender = thread::spawn({
        let queue = queue.clone();
        move || hand_over(mailer, &queue, which, unqueued.as_deref(), &tell)
    });
    let mut delivery = Delivery::default();
    loop {
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(part) => delivery.add(part),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                delivery.problem(&given_up(longest));
                // The thread won't come to it.
                match queue.bound() {
                    Ok(dropped) => delivery.problems.extend(dropped),
                    Err(error) => delivery.problem(&error),
                }
                return delivery;
            }
        }
    }
    if sender.join().is_err() {
        delivery.problem(&anyhow!("sending the mails: it ended in the middle; what is left stays in the queue"));
    }
    delivery
}

fn given_up(longest: Duration) -> anyhow::Error {
    anyhow!(
        "sending the mails: given up after {} minutes\n\
         hint: the mail server is very slow; what it hasn't taken stays in the queue, and goes out within hours",
        longest.as_secs() / 60
    )
}

/// Sends `unqueued`, and what waits in the queue.
fn hand_over(mut mailer: Mailer, queue: &Queue, which: Which, unqueued: Option<&[u8]>, tell: &Sender<Delivery>) {
    // Whoever has given up needs no word.
    if let Some(mail) = unqueued {
        let mut delivery = Delivery::default();
        at_once(&mut mailer, mail, &mut delivery);
        let _ = tell.send(delivery);
    }
    if let Err(error) = queue.send(which, &mut |mail, done| mailer.send(mail, done), tell) {
        let mut delivery = Delivery::default();
        delivery.problem(&error);
        let _ = tell.send(delivery);
    }
}

/// Sends a mail that couldn't be queued: when root is full, a word of it matters most.
fn at_once(mailer: &mut Mailer, mail: &[u8], delivery: &mut Delivery) {
    match mailer.send(mail, &[]) {
        Ok(taken) => {
            delivery.sent += 1;
            delivery.problems.extend(taken.refused.into_iter().chain(taken.problems));
        }
        Err(failure) => delivery.problem(&failure.into_error()),
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
        html: None,
        tells: Vec::new(),
        log: None,
    };
    let delivery = post(config, &letter, now);
    let through: Vec<String> = report.servers.iter().map(place).collect();
    let (to, through) = (report.to.join(", "), through.join(" or "));
    if delivery.problems.is_empty() {
        return Ok(format!("{} sent to {to} through {through}\n", mails(delivery.sent)));
    }
    let told = Redactor::of(config).masked(&hinted_once(&delivery.problems));
    bail!("trying the report: {} sent, {} waiting: {told}", mails(delivery.sent), delivery.waiting)
}

/// What the mail of `letter` says, for a terminal, with secrets masked as in the mail. Nothing is sealed, nothing sent.
pub fn preview(config: &Config, letter: &Letter) -> Preview {
    let redactor = Redactor::of(config);
    let log = letter.log.as_ref().map(|log| format!("\nlog: {}\n", printable(log.as_os_str().as_encoded_bytes())));
    let (subject, text) = (redactor.masked(&letter.subject), redactor.masked(&letter.text));
    let text = format!("Subject: {subject}\n\n{text}{}", log.unwrap_or_default());
    Preview { text, html: letter.html.as_deref().map(|html| redactor.masked(html)) }
}

/// Sends what waits, for the hourly timer; gives a line that says so. Without a `[report]` nothing is done.
///
/// # Errors
/// Something still waits, or was dropped: what went wrong with it.
pub fn send_now(config: &Config) -> Result<String> {
    if config.report.is_none() {
        return Ok(String::new());
    }
    let delivery = send_waiting(config);
    let told = format!("{} sent, {} waiting", mails(delivery.sent), delivery.waiting);
    if delivery.problems.is_empty() {
        return Ok(format!("{told}\n"));
    }
    bail!("sending the reports that wait: {told}: {}", Redactor::of(config).masked(&hinted_once(&delivery.problems)))
}

fn mails(count: usize) -> String {
    if count == 1 { "1 mail".to_owned() } else { format!("{count} mails") }
}

/// The mail server as a person would name it.
pub fn place(server: &MailServer) -> String {
    printable(format!("{}:{}", server.host, server.port).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use jiff::Timestamp;

    use super::{Delivery, LONGEST, Letter, Mailer, Queue, Which, deliver, fake, given_up, post, test};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn a_server_that_never_comes_to_an_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let report = fake::report(listener.local_addr().unwrap().port());
        // A byte now and then: no single reading takes long.
        thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"220 ").unwrap();
            while connection.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
        });
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::below(state.path());
        queue.put("1", &fake::mail("1"), None).unwrap();
        let begun = Instant::now();
        let delivery = deliver(Mailer::new(&report, "pi"), &queue, Which::All, None, Duration::from_secs(1));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let told = "sending the mails: given up after 0 minutes\n\
                    hint: the mail server is very slow; what it hasn't taken stays in the queue, and goes out within hours";
        assert_eq!(delivery, Delivery { sent: 0, waiting: 0, problems: vec![told.to_owned()] });
        assert_eq!(queue.waiting().unwrap(), ["1.eml"]);
        assert!(given_up(LONGEST).to_string().contains(" after 30 minutes\n"));
    }

    #[test]
    fn who_is_refused_for_now_gets_the_mail_later_and_nobody_twice() {
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let (known, mut greylisted) = (Arc::clone(&accepted), true);
        let mut report = fake::serve(move |line| {
            let Some(to) = line.strip_prefix("RCPT TO:") else { return "250 fine".to_owned() };
            match to {
                "<late@example.org>" if std::mem::take(&mut greylisted) => "450 4.2.0 later".to_owned(),
                "<gone@example.org>" => "550 5.1.1 nobody".to_owned(),
                to => {
                    known.lock().unwrap().push(to.to_owned());
                    "250 fine".to_owned()
                }
            }
        });
        report.to.extend(["late@example.org".to_owned(), "gone@example.org".to_owned()]);
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::below(state.path());
        queue.put("1", &fake::mail("1\r\n"), None).unwrap();
        let deliver = || deliver(Mailer::new(&report, "pi"), &queue, Which::NotRefused, None, LONGEST);
        let first = deliver();
        assert_eq!((first.sent, first.problems.len()), (0, 2), "{first:?}");
        assert_eq!(queue.waiting().unwrap(), ["1.eml"]);
        assert_eq!(deliver(), Delivery { sent: 1, waiting: 0, problems: Vec::new() });
        assert_eq!(*accepted.lock().unwrap(), ["<owner@example.org>", "<late@example.org>"]);
        assert_eq!(queue.lost().unwrap().len(), 1, "who is refused for good");
        assert_eq!(fs::read_dir(state.path().join("queue")).unwrap().count(), 2, "the lock, and what was lost");
    }

    #[test]
    fn without_a_report_section_nothing_is_done() {
        let config = parse(EXAMPLE).unwrap();
        let letter = Letter { subject: "s".into(), text: "t".into(), html: None, tells: Vec::new(), log: None };
        assert_eq!(post(&config, &letter, Timestamp::UNIX_EPOCH), Delivery::default());
        assert_eq!(
            test(&config, Timestamp::UNIX_EPOCH).unwrap_err().to_string(),
            "there is no [report] in the configuration\nhint: it says whom to mail, and through which server"
        );
    }
}
