//! Handing mails to the server: SMTP (RFC 5321), with the login and the privacy that the configuration asks for.
//!
//! With `starttls` and `tls` nothing but greetings crosses the network before the server has proven who it is; a server that
//! offers no STARTTLS gets neither login nor mail. The steps are taken one by one, since it matters where a server says
//! no: at the content it means this mail, before that it means all of them. The envelope is that of today's configuration,
//! so that a corrected address helps the mails that wait, too.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::refusal::{Stage, told};
use super::server;
use crate::config::{Report, Security};
use crate::credentials;

/// How long one answer of the server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a mail wasn't taken.
#[derive(Debug)]
pub enum Failure {
    /// The server doesn't want this mail; it may want others.
    Mail(anyhow::Error),
    /// The next mail would fare no better now.
    Server(anyhow::Error),
}

/// What stands in the credentials file.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

/// Sends mails over one connection, which is made for the first of them, and anew after a failure.
pub struct Mailer<'a> {
    report: &'a Report,
    hostname: &'a str,
    connection: Option<SmtpConnection>,
}

impl<'a> Mailer<'a> {
    /// One that introduces itself as `hostname`. Nothing is connected yet.
    pub fn new(report: &'a Report, hostname: &'a str) -> Self {
        Self { report, hostname, connection: None }
    }

    /// Sends one mail. It is sent when the server has taken it for at least one recipient; refused ones are told.
    pub fn send(&mut self, mail: &[u8]) -> Result<Vec<String>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(Failure::Server)?,
        };
        let result = self.envelope(&mut connection).and_then(|refused| {
            self.content(&mut connection, mail)?;
            Ok(refused)
        });
        if result.is_ok() {
            self.connection = Some(connection);
        } else {
            connection.abort();
        }
        result
    }

    fn connect(&self) -> Result<SmtpConnection> {
        let report = self.report;
        let login = report.credentials.as_deref().map(credentials::read::<Login>).transpose();
        let login = login.map_err(|error| anyhow!("{error:#}\nhint: it has two lines: user = \"…\" and password = \"…\""))?;
        let tls = if report.security == Security::None { None } else { Some(tls(report)?) };
        let hello = ClientId::Domain(self.hostname.to_owned());
        let failed = |error: Error| self.told(Stage::Connecting, &error);
        let from_the_first_byte = tls.as_ref().filter(|_| report.security == Security::Tls);
        let place = (report.server.as_str(), report.port);
        let mut connection = SmtpConnection::connect(place, Some(TIMEOUT), &hello, from_the_first_byte, None).map_err(failed)?;
        if let (Security::StartTls, Some(tls)) = (report.security, &tls) {
            if !connection.can_starttls() {
                connection.abort();
                bail!(
                    "connecting to the mail server {}: it offers no STARTTLS, and nothing is sent without\n\
                     hint: many servers take TLS from the first byte at port 465: [report] security = \"tls\"",
                    server(report)
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
        Ok(connection)
    }

    fn log_in(&self, connection: &mut SmtpConnection, login: &Login) -> Result<()> {
        let known = Credentials::new(login.user.clone(), login.password.clone());
        let refused = |error: Error| {
            // A server may repeat what it was given.
            anyhow!(self.told(Stage::LoggingIn, &error).to_string().replace(&login.password, "…"))
        };
        connection.auth(DEFAULT_MECHANISMS, &known).map(drop).map_err(refused)
    }

    /// Says whom the mail is from and for; gives what was said against some of those whom it's for, if not all are refused.
    fn envelope(&self, connection: &mut SmtpConnection) -> Result<Vec<String>, Failure> {
        let from = Mail::new(Some(address(&self.report.from)?), Vec::new());
        connection.command(from).map_err(|error| Failure::Server(self.told(Stage::Sender, &error)))?;
        let mut refused = Vec::new();
        for to in &self.report.to {
            if let Err(error) = connection.command(Rcpt::new(address(to)?, Vec::new())) {
                let told = self.told(Stage::Recipient(to), &error);
                if error.status().is_none() {
                    return Err(Failure::Server(told));
                }
                refused.push(told.to_string());
            }
        }
        if refused.len() == self.report.to.len() {
            return Err(Failure::Server(anyhow!(refused.join("\n"))));
        }
        Ok(refused)
    }

    fn content(&self, connection: &mut SmtpConnection, mail: &[u8]) -> Result<(), Failure> {
        match connection.command(Data).and_then(|_| connection.message(mail)) {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(Failure::Mail(self.told(Stage::Content, &error))),
            Err(error) => Err(Failure::Server(self.told(Stage::Content, &error))),
        }
    }

    fn told(&self, stage: Stage<'_>, error: &Error) -> anyhow::Error {
        told(self.report, stage, error)
    }
}

impl Drop for Mailer<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // A goodbye: all that matters was answered before.
            let _ = connection.quit();
        }
    }
}

/// Whom to trust, and which name the server has to prove.
fn tls(report: &Report) -> Result<TlsParameters> {
    let preparing = || format!("preparing TLS with the mail server {}", server(report));
    let mut parameters = TlsParameters::builder(report.server.clone());
    if let Some(ca) = &report.ca {
        parameters = parameters.add_root_certificate(Certificate::from_pem(ca.as_bytes()).with_context(preparing)?);
    }
    parameters.build().with_context(preparing)
}

fn address(text: &str) -> Result<Address, Failure> {
    text.parse().context("reading an address of [report]").map_err(Failure::Server)
}
