//! Pings: a watcher elsewhere is told that a run begins, and how it ends, and raises the alarm when it hears nothing. So the
//! owner learns of an appliance that is dead and can't send a mail.
//!
//! The manner is that of healthchecks.io, which many watchers follow: POST to `URL/start`, then to `URL`, or `URL/fail`. The
//! body is the outcome's word and nothing else: neither log nor names. The URL is a secret, since whoever has it can say that
//! all is well; no error and no log shows it.
//!
//! A ping that doesn't get through is told, and fails no run.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use serde::Deserialize;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::config::{self, Config};
use crate::credentials;
use crate::outcome::Outcome;
use crate::stop::Stop;

/// How long one try may take, answer included.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a ping is tried.
const TRIES: u32 = 3;

/// How long to wait before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(1);

/// What stands in the file.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Address {
    url: String,
}

/// Tells the watcher that a run begins. Without `[ping]` nothing is done.
///
/// # Errors
/// It wasn't told; why, without the URL.
pub fn begin(config: &Config, stop: &Stop) -> Result<()> {
    config.ping.as_ref().map_or(Ok(()), |ping| Watcher::new(ping).tell("/start", "started", stop))
}

/// Tells the watcher how a run ended. Without `[ping]`, or of a run that was skipped, nothing is done.
///
/// # Errors
/// It wasn't told; why, without the URL.
pub fn end(config: &Config, outcome: Outcome, stop: &Stop) -> Result<()> {
    let Some(ping) = &config.ping else { return Ok(()) };
    let path = match outcome {
        Outcome::Skipped => return Ok(()),
        Outcome::Complete => "",
        Outcome::Partial if ping.partial == Outcome::Complete => "",
        Outcome::Partial | Outcome::Failed => "/fail",
    };
    Watcher::new(ping).tell(path, &outcome.to_string(), stop)
}

/// Who is told, and how patiently.
struct Watcher<'a> {
    credentials: &'a Path,
    answer: Duration,
    pause: Duration,
}

impl<'a> Watcher<'a> {
    fn new(ping: &'a config::Ping) -> Self {
        Self { credentials: &ping.credentials, answer: ANSWER, pause: PAUSE }
    }

    /// Posts `body` to the URL with `path` behind it.
    fn tell(&self, path: &str, body: &str, stop: &Stop) -> Result<()> {
        let address = address(self.credentials)?;
        let agent = agent(self.answer);
        let mut url = format!("{}{path}", address.url.trim_end_matches('/'));
        let mut problem = String::new();
        for number in 1..=TRIES {
            match agent.post(&url).send(body) {
                Ok(response) if response.status().is_success() => {
                    problem.clear();
                    break;
                }
                Ok(response) => problem = format!("it says {}", response.status().as_u16()),
                Err(error) => problem = told(&error),
            }
            // Whoever stops a run wants it to end; the watcher has been tried once.
            if number == TRIES || stop.requested() {
                break;
            }
            thread::sleep(self.pause * number);
        }
        url.zeroize();
        if problem.is_empty() {
            return Ok(());
        }
        bail!(
            "telling the watcher: {problem}\nhint: look whether the url in {} is right, and whether its server is up",
            self.credentials.display()
        )
    }
}

fn address(path: &Path) -> Result<Address> {
    let form = "hint: it has one line: url = \"https://…\"";
    let address: Address = credentials::read(path).map_err(|error| anyhow!("telling the watcher: {error:#}\n{form}"))?;
    let host = ["https://", "http://"].iter().find_map(|scheme| address.url.strip_prefix(scheme));
    let plain = |host: &str| !host.is_empty() && host.chars().all(|letter| letter.is_ascii_graphic() && !"?#@".contains(letter));
    ensure!(
        host.is_some_and(plain),
        "telling the watcher: the url in {} isn't one that /start can be put behind\n{form}, without a ? in it",
        path.display()
    );
    Ok(address)
}

/// One that trusts those authorities that the system does, and goes nowhere else than told.
fn agent(answer: Duration) -> Agent {
    let authorities = rustls_native_certs::load_native_certs().certs;
    let authorities: Vec<_> = authorities.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&authorities)).build();
    Agent::config_builder()
        .timeout_global(Some(answer))
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent("vaultberry")
        .build()
        .into()
}

/// What went wrong, without a word of the URL.
fn told(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => String::from("no answer in time"),
        ureq::Error::HostNotFound => String::from("its host has no address"),
        ureq::Error::ConnectionFailed => String::from("its host can't be reached"),
        ureq::Error::Io(error) => crate::log::printable(error.to_string().as_bytes()),
        ureq::Error::Rustls(error) => crate::log::printable(format!("TLS failed: {error}").as_bytes()),
        _ => String::from("its answer isn't HTTP, or the address isn't one"),
    }
}

#[cfg(test)]
mod tests;
