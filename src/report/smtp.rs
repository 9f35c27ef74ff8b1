//! Handing mails to one server: SMTP (RFC 5321), with the login and the privacy that the configuration asks for.
//!
//! With `starttls` and `tls` nothing but greetings crosses the network before the server has proven who it is; a server that
//! offers no STARTTLS gets neither login nor mail. The steps are taken one by one, since it matters where a server says
//! no: from DATA on it means this mail, before that it means all of them. The envelope is that of today's configuration,
//! so that a corrected address helps the mails that wait, too.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::mail::{Failure, Taken};
use super::place;
use super::refusal::{Stage, hinted_once, is_too_large, told, unreachable};
use super::starttls;
use crate::config::{MailServer, Report, Security};
use crate::credentials;

/// How long one answer of the server may take.
const ANSWER: Duration = Duration::from_secs(30);

/// How long its word on a whole mail may take: RFC 5321 section 4.5.3.2.6. Who hangs up sooner on a slow scanner gets the
/// mail delivered, and sends it again.
const VERDICT: Duration = Duration::from_mins(10);

/// What stands in the credentials file.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

/// Sends mails over one connection, which is made for the first of them, and anew after a failure.
pub struct Smtp {
    report: Report,
    server: MailServer,
    hostname: String,
    connection: Option<SmtpConnection>,
    /// How many bytes a mail may have, if the server says so (RFC 1870).
    largest: Option<usize>,
    answer: Duration,
    verdict: Duration,
}

impl Smtp {
    /// One that sends what `report` says through `server`, and introduces itself as `hostname`. Nothing is connected yet.
    pub fn new(report: &Report, server: &MailServer, hostname: &str) -> Self {
        Self {
            report: report.clone(),
            server: server.clone(),
            hostname: hostname.to_owned(),
            connection: None,
            largest: None,
            answer: ANSWER,
            verdict: VERDICT,
        }
    }

    /// Connects as for a mail, with TLS and login, and sends none.
    ///
    /// Gives how many bytes a mail may have, if the server says so.
    ///
    /// # Errors
    /// The server isn't there, isn't the one that it should be, or doesn't take the login.
    pub fn greet(&mut self) -> Result<Option<usize>> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        Ok(self.largest)
    }

    /// Sends one mail to all recipients but those that are `done`. It is taken when the server takes it for one of them.
    pub fn send(&mut self, mail: &[u8], done: &[String]) -> Result<Taken, Failure> {
        let recipients: Vec<String> = self.report.to.iter().filter(|to| !done.contains(to)).cloned().collect();
        if recipients.is_empty() {
            return Ok(Taken::default());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(Failure::Server)?,
        };
        if let Some(largest) = self.largest.filter(|largest| mail.len() > *largest) {
            self.connection = Some(connection);
            return Err(Failure::TooLarge(anyhow!(
                "mailing through {}: the mail has {} bytes, and the server takes {largest}\n\
                 hint: make [report] size_limit smaller",
                place(&self.server),
                mail.len()
            )));
        }
        let result = self.envelope(&mut connection, &recipients).and_then(|taken| {
            self.content(&mut connection, mail)?;
            Ok(taken)
        });
        if result.is_ok() {
            self.connection = Some(connection);
        } else {
            connection.abort();
        }
        result
    }

    fn connect(&mut self) -> Result<SmtpConnection> {
        let server = &self.server;
        let login = server.credentials.as_deref().map(login).transpose();
        let login = login.map_err(|error| anyhow!("{error:#}\nhint: it has two lines: user = \"…\" and password = \"…\""))?;
        let tls = if server.security == Security::None { None } else { Some(tls(server)?) };
        let hello = ClientId::Domain(self.hostname.clone());
        let failed = |error: Error| self.told(Stage::Connecting, &error);
        let from_the_first_byte = tls.as_ref().filter(|_| server.security == Security::Tls);
        let address = (server.host.as_str(), server.port);
        let connected = if server.security == Security::StartTls {
            let relay = starttls::relay(address, self.answer).map_err(|error| unreachable(server, &error))?;
            SmtpConnection::connect(relay, Some(self.answer), &hello, None, None)
        } else {
            SmtpConnection::connect(address, Some(self.answer), &hello, from_the_first_byte, None)
        };
        let mut connection = connected.map_err(failed)?;
        if let (Security::StartTls, Some(tls)) = (server.security, &tls) {
            if !connection.can_starttls() {
                connection.abort();
                bail!(
                    "connecting to the mail server {}: it offers no STARTTLS, and nothing is sent without\n\
                     hint: many servers take TLS from the first byte at port 465: [report] security = \"tls\"",
                    place(server)
                );
            }
            connection.starttls(tls, &hello).map_err(failed)?;
        }
        if let Some(login) = &login
            && let Err(error) = self.log_in(&mut connection, login)
        {
            connection.abort();
            return Err(error);
        }
        // Asked once more, since lettre keeps nothing of this line; a server may answer differently after a login.
        let said = connection.command(Ehlo::new(hello)).map_err(failed)?;
        self.largest = said.message().find_map(largest);
        Ok(connection)
    }

    fn log_in(&self, connection: &mut SmtpConnection, login: &Login) -> Result<()> {
        let known = Credentials::new(login.user.clone(), login.password.clone());
        connection.auth(DEFAULT_MECHANISMS, &known).map(drop).map_err(|error| self.told(Stage::LoggingIn, &error))
    }

    /// Says whom the mail is from and for; gives what was said to that, if not all are refused.
    fn envelope(&self, connection: &mut SmtpConnection, recipients: &[String]) -> Result<Taken, Failure> {
        let from = Mail::new(Some(address(&self.report.from)?), Vec::new());
        connection.command(from).map_err(|error| Failure::Server(self.told(Stage::Sender, &error)))?;
        let mut taken = Taken::default();
        for to in recipients {
            let Err(error) = connection.command(Rcpt::new(address(to)?, Vec::new())) else {
                taken.done.push(to.clone());
                continue;
            };
            let told = self.told(Stage::Recipient(to), &error);
            if error.status().is_none() {
                return Err(Failure::Server(told));
            }
            if error.is_permanent() {
                taken.done.push(to.clone());
                taken.refused.push(told.to_string());
            } else {
                taken.is_partial = true;
                taken.problems.push(told.to_string());
            }
        }
        if taken.done.len() > taken.refused.len() {
            return Ok(taken);
        }
        let error = anyhow!(hinted_once(&[taken.refused, taken.problems].concat()));
        Err(match (recipients.len() == self.report.to.len(), taken.is_partial) {
            (true, _) => Failure::Server(error),
            // The others have it: what these refuse says nothing of the next mail.
            (false, true) => Failure::Mail(error),
            (false, false) => Failure::Refused(error),
        })
    }

    fn content(&self, connection: &mut SmtpConnection, mail: &[u8]) -> Result<(), Failure> {
        let result = connection.command(Data).and_then(|_| {
            // A socket that takes no timeout is closed, and the writing says so.
            let _ = connection.set_timeout(Some(self.verdict));
            connection.message(mail)
        });
        let _ = connection.set_timeout(Some(self.answer));
        match result {
            Ok(_) => Ok(()),
            Err(error) if is_too_large(&error) => Err(Failure::TooLarge(self.told(Stage::Content, &error))),
            Err(error) if error.is_permanent() => Err(Failure::Refused(self.told(Stage::Content, &error))),
            Err(error) => Err(Failure::Mail(self.told(Stage::Content, &error))),
        }
    }

    fn told(&self, stage: Stage<'_>, error: &Error) -> anyhow::Error {
        told(&self.report, &self.server, stage, error)
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // A goodbye: all that matters was answered before.
            let _ = connection.quit();
        }
    }
}

fn login(path: &Path) -> Result<Login> {
    let login = credentials::read::<Login>(path)?;
    if login.user.is_empty() || login.password.is_empty() {
        bail!("reading the credentials {}: user or password is empty", path.display());
    }
    Ok(login)
}

/// Whom to trust, and which name the server has to prove.
fn tls(server: &MailServer) -> Result<TlsParameters> {
    let preparing = || format!("preparing TLS with the mail server {}", place(server));
    let mut parameters = TlsParameters::builder(server.host.clone());
    if let Some(ca) = &server.ca {
        parameters = parameters.add_root_certificate(Certificate::from_pem(ca.as_bytes()).with_context(preparing)?);
    }
    parameters.build().with_context(preparing)
}

/// The bytes that a line of an answer to EHLO allows: `SIZE 10240000`; none where it has another word, or no bound.
fn largest(line: &str) -> Option<usize> {
    let (word, size) = line.split_once(' ')?;
    word.eq_ignore_ascii_case("SIZE").then(|| size.trim().parse().ok()).flatten().filter(|size| *size > 0)
}

fn address(text: &str) -> Result<Address, Failure> {
    text.parse().context("reading an address of [report]").map_err(Failure::Server)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use super::{Failure, Smtp, Taken, largest};
    use crate::config::Report;
    use crate::report::fake::{HANG_UP, SIZE, serve};

    fn smtp_of(report: &Report) -> Smtp {
        Smtp::new(report, &report.servers[0], "pi")
    }

    fn credentials(folder: &Path, lines: &str) -> std::path::PathBuf {
        let file = folder.join("smtp");
        fs::write(&file, lines).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    #[test]
    fn from_data_on_a_failure_means_this_mail() {
        for (at, reply, refused) in [
            ("DATA", "451 4.3.0 later", false),
            (".", "451 4.3.0 later", false),
            (".", HANG_UP, false),
            ("DATA", "554 5.7.1 never", true),
            (".", "554 5.7.1 never", true),
        ] {
            let mut first = true;
            let report = serve(move |line| {
                let fails = line == at && std::mem::take(&mut first);
                if fails { reply } else { "250 fine" }.to_owned()
            });
            let mut smtp = smtp_of(&report);
            match smtp.send(b"1\r\n", &[]) {
                Err(Failure::Refused(_)) if refused => (),
                Err(Failure::Mail(_)) if !refused => (),
                other => panic!("{at} {reply}: {other:?}"),
            }
            assert!(smtp.send(b"2\r\n", &[]).is_ok(), "the next one is sent, after {at} {reply}");
        }
        let report = serve(|line| if line.starts_with("MAIL") { "451 later" } else { "250 fine" }.to_owned());
        assert!(matches!(smtp_of(&report).send(b"1\r\n", &[]), Err(Failure::Server(_))));
    }

    #[test]
    fn when_some_have_the_mail_a_no_to_all_others_means_this_mail() {
        for (reply, refused) in [("450 later", false), ("550 never", true)] {
            let mut report = serve(move |line| if line.starts_with("RCPT") { reply } else { "250 fine" }.to_owned());
            report.to.push("other@example.org".to_owned());
            let mut smtp = smtp_of(&report);
            assert!(matches!(smtp.send(b"1\r\n", &[]), Err(Failure::Server(_))), "{reply}");
            match smtp.send(b"1\r\n", &report.to[..1]) {
                Err(Failure::Refused(_)) if refused => (),
                Err(Failure::Mail(_)) if !refused => (),
                other => panic!("{reply}: {other:?}"),
            }
            assert_eq!(smtp.send(b"1\r\n", &report.to).unwrap(), Taken::default(), "nobody is left");
        }
    }

    #[test]
    fn a_mail_that_is_too_large_is_told_apart() {
        for (line, expected) in
            [("SIZE 10240000", Some(10_240_000)), ("size 5", Some(5)), ("SIZE 0", None), ("SIZE", None), ("PIPELINING", None)]
        {
            assert_eq!(largest(line), expected, "{line}");
        }
        let mut asked = 0;
        let report = serve(move |line| {
            asked += usize::from(line.starts_with("MAIL"));
            if asked > 1 { "451 it was offered already" } else { "250 fine" }.to_owned()
        });
        let mut smtp = smtp_of(&report);
        let Err(Failure::TooLarge(error)) = smtp.send(&vec![b'a'; SIZE + 1], &[]) else { panic!("sent") };
        assert!(error.to_string().contains("the mail has 1048577 bytes, and the server takes 1048576\nhint: "), "{error}");
        smtp.send(&vec![b'a'; SIZE], &[]).unwrap();
        for (reply, too_large) in [
            ("552 no", true),
            ("552 5.3.4 too big", true),
            ("554 5.3.4 too big", true),
            ("552 5.2.2 full", false),
            ("554 no", false),
        ] {
            let report = serve(move |line| if line == "." { reply } else { "250 fine" }.to_owned());
            match smtp_of(&report).send(b"1\r\n", &[]) {
                Err(Failure::TooLarge(_)) if too_large => (),
                Err(Failure::Refused(_)) if !too_large => (),
                other => panic!("{reply}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_word_on_a_whole_mail_may_take_longer_than_others() {
        let slow = |slow: &'static str| {
            serve(move |line| {
                if line.starts_with(slow) {
                    thread::sleep(Duration::from_millis(1500));
                }
                "250 fine".to_owned()
            })
        };
        let mut smtp = smtp_of(&slow("."));
        assert_eq!((smtp.answer, smtp.verdict), (Duration::from_secs(30), Duration::from_mins(10)));
        smtp.answer = Duration::from_millis(400);
        smtp.send(b"1\r\n", &[]).unwrap();
        let mut smtp = smtp_of(&slow("MAIL"));
        smtp.answer = Duration::from_millis(400);
        assert!(
            matches!(smtp.send(b"1\r\n", &[]), Err(Failure::Server(error)) if error.to_string().contains("no answer in time"))
        );
    }

    #[test]
    fn of_an_answer_to_a_login_only_the_codes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for (enhanced, told) in [("5.7.8 ", "the server says 535 5.7.8\n"), ("", "the server says 535\n")] {
            // An unkind server: it repeats the line, in which the password stands in base64.
            let mut report = serve(move |line| match line.strip_prefix("AUTH PLAIN ") {
                Some(login) => format!("535 {enhanced}no, not {login}"),
                None => "250 fine".to_owned(),
            });
            report.servers[0].credentials = Some(credentials(folder.path(), "user = \"pi\"\npassword = \"correct-horse\"\n"));
            let Err(Failure::Server(error)) = smtp_of(&report).send(b"1\r\n", &[]) else { panic!("sent") };
            let start = format!("logging in to the mail server 127.0.0.1:{}: {told}hint: look at user", report.servers[0].port);
            assert!(error.to_string().starts_with(&start), "{error}");
        }
    }

    #[test]
    fn an_answer_to_a_login_that_is_none_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = serve(str::to_owned);
        report.servers[0].credentials = Some(credentials(folder.path(), "user = \"pi\"\npassword = \"correct-horse\"\n"));
        let Err(Failure::Server(error)) = smtp_of(&report).send(b"1\r\n", &[]) else { panic!("sent") };
        assert!(error.to_string().contains(": its answer isn't SMTP\n"), "{error}");
    }

    #[test]
    fn an_empty_login_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for lines in ["user = \"\"\npassword = \"p\"\n", "user = \"u\"\npassword = \"\"\n"] {
            let mut report = serve(|_| "250 fine".to_owned());
            let file = credentials(folder.path(), lines);
            report.servers[0].credentials = Some(file.clone());
            let Err(Failure::Server(error)) = smtp_of(&report).send(b"1\r\n", &[]) else { panic!("sent") };
            let told = format!("reading the credentials {}: user or password is empty\nhint: it has two lines", file.display());
            assert!(error.to_string().starts_with(&told), "{error}");
        }
    }
}
