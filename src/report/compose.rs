//! From letter to mail: text, page and log become a MIME entity, the entity is sealed, and the sealed text is wrapped as
//! PGP/MIME (RFC 3156 section 4).
//!
//! Only the outer headers are in clear: From, To, Subject, Date, Message-ID, and `Auto-Submitted` (RFC 3834), so that no
//! holiday notice answers. Where there is no certificate to seal for, a short notice goes instead: the owner learns that
//! there was a run, how it ended, and why the report can't be read, and the network learns nothing more.
//!
//! The whole mail has at most `size_limit` bytes, as it goes over the network. What a mail costs that says nothing is measured,
//! since it depends on keys and addresses; from there on 48 bytes of the entity make a line of 66 in armor, ends included.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use lettre::Address;
use lettre::message::header::{Date, From, HeaderName, HeaderValue, Headers, MessageId, Subject, To};
use lettre::message::{Mailbox, Mailboxes};

use super::Letter;
use super::entity::{Parts, encoded, entity};
use super::fit::{Log, body};
use crate::config::{Config, Report};
use crate::log::printable;
use crate::openpgp::Recipients;
use crate::redact::Redactor;

/// How large the short form of a mail is, in bytes. Every server takes as much.
const SHORT: usize = 48 << 10;

/// What helps against a certificate that can't be used.
const HINT: &str = "extend the certificate with `gpg --quick-set-expire` or take another, put what `gpg --armor --export` \
                    prints into [openpgp] recipients of the appliance's configuration, and try `vaultberry report test`";

/// A mail as it goes over the network.
#[derive(Debug)]
pub struct Composed {
    /// Headers and body, lines ending in CR LF.
    pub mail: Vec<u8>,
    /// The same without page and log, under the same Message-ID, for a server that finds the mail too large; none where it is
    /// short already.
    pub short: Option<Vec<u8>>,
    /// The losses that it tells of.
    pub tells: Vec<String>,
    /// What the owner should mend: certificates that can't be used, a log that can't be read.
    pub problems: Vec<String>,
}

/// Makes the mail of `letter`; `name` becomes its Message-ID, and is given once.
///
/// # Errors
/// An address of the configuration can't stand in a mail.
pub fn compose(config: &Config, report: &Report, letter: &Letter, name: &str, now: Timestamp) -> Result<Composed> {
    let recipients = Recipients::at(&config.recipients, SystemTime::from(now));
    let redactor = Redactor::of(config);
    let headers = headers(report, &redactor.masked(&letter.subject), name, now)?;
    let reason = if recipients.any() {
        let envelope = Envelope { recipients: &recipients, headers: &headers };
        match envelope.sealed(report, letter, &redactor) {
            Ok(composed) => return Ok(composed),
            Err(error) => vec![format!("{error:#}")],
        }
    } else {
        recipients.unusable().to_vec()
    };
    let head =
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n";
    let mail = [headers.as_bytes(), head.as_bytes(), &encoded(&notice(&reason))].concat();
    let problem = format!("the report couldn't be sealed, so that only a notice goes: {}\nhint: {HINT}", reason.join("; "));
    Ok(Composed { mail, short: None, tells: Vec::new(), problems: vec![problem] })
}

/// The headers that anybody on the way can read, each line with its end.
fn headers(report: &Report, subject: &str, name: &str, now: Timestamp) -> Result<String> {
    let address = |text: &str| text.parse::<Address>().context("reading an address of [report]");
    let from = address(&report.from)?;
    let to: Vec<Mailbox> = report.to.iter().map(|to| Ok(address(to)?.into())).collect::<Result<_>>()?;
    let mut headers = Headers::new();
    headers.set(MessageId::from(format!("<{name}@{}>", from.domain())));
    headers.set(Date::from(SystemTime::from(now)));
    headers.set(From::from(Mailboxes::from(Mailbox::from(from))));
    headers.set(To::from(to.into_iter().collect::<Mailboxes>()));
    headers.set(Subject::from(printable(subject.as_bytes())));
    headers.insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()));
    Ok(headers.to_string())
}

/// Whom mails are sealed for, and the headers that they have in clear.
struct Envelope<'a> {
    recipients: &'a Recipients,
    headers: &'a str,
}

impl Envelope<'_> {
    /// The sealed mail, its short form, and what the owner should mend.
    fn sealed(&self, report: &Report, letter: &Letter, redactor: &Redactor) -> Result<Composed> {
        let limit = usize::try_from(report.size_limit).unwrap_or(usize::MAX);
        let mut problems: Vec<String> =
            self.recipients.unusable().iter().map(|reason| format!("{reason}\nhint: {HINT}")).collect();
        let mut log = None;
        if let Some(path) = &letter.log {
            // No more of it fits into the armor.
            match Log::read(path, report.size_limit / 4 * 3, redactor) {
                Ok(read) => log = Some(read),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        let text = redactor.masked(&text(&letter.text, &problems));
        let html = letter.html.as_deref().map(|html| redactor.masked(html));
        let mail = self.within(limit, &text, html.as_deref(), log.as_ref())?;
        let short = if mail.len() > 2 * SHORT {
            Some(self.within(SHORT, &short_text(&text, letter.log.as_deref()), None, None)?)
        } else {
            None
        };
        Ok(Composed { mail, short, tells: letter.tells.clone(), problems })
    }

    /// A mail of at most `limit` bytes: the text and its page first, and the newest lines of the log in what is left.
    fn within(&self, limit: usize, text: &str, html: Option<&str>, log: Option<&Log>) -> Result<Vec<u8>> {
        let name = log.map(|log| log.name.as_str());
        let whole = |text: &[u8], html: Option<&[u8]>, log: Option<&[u8]>| {
            self.wrap(&entity(Parts { headers: self.headers, text, html, log: name.zip(log) }))
        };
        let bare = whole(b"", html.map(|_| &b""[..]), Some(b""))?.len();
        let inside = limit.saturating_sub(bare) / 66 * 48;
        // Lengths of packets stand between, and encrypted session keys differ by a few bytes.
        let mut room = inside.saturating_sub(inside / 1024 + 128);
        loop {
            let (text, page) = body(text, html, room);
            let left = room.saturating_sub(text.len() + page.as_ref().map_or(0, Vec::len));
            let newest = log.map(|log| log.newest(left));
            let mail = whole(&text, page.as_deref(), newest.as_deref())?;
            match mail.len().saturating_sub(limit) {
                excess if excess > 0 && room > 0 => room = room.saturating_sub(excess),
                _ => return Ok(mail),
            }
        }
    }

    /// The whole mail round an entity, which is sealed on the way.
    fn wrap(&self, entity: &[u8]) -> Result<Vec<u8>> {
        let head = "MIME-Version: 1.0\r\n\
                    Content-Type: multipart/encrypted; boundary=\"=_sealed\";\r\n protocol=\"application/pgp-encrypted\"\r\n\r\n\
                    --=_sealed\r\nContent-Type: application/pgp-encrypted\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
                    Version: 1\r\n\r\n\
                    --=_sealed\r\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\r\n\
                    Content-Disposition: inline; filename=\"encrypted.asc\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n";
        let mut mail = Vec::with_capacity(entity.len() / 2 * 3);
        mail.extend_from_slice(self.headers.as_bytes());
        mail.extend_from_slice(head.as_bytes());
        self.recipients.seal(&mut &*entity, &mut Lines(&mut mail), true)?;
        mail.extend_from_slice(b"\r\n--=_sealed--\r\n");
        Ok(mail)
    }
}

/// Ends lines as a mail has them.
struct Lines<'a>(&'a mut Vec<u8>);

impl Write for Lines<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    self.0.extend_from_slice(line);
                    self.0.extend_from_slice(b"\r\n");
                }
                None => self.0.extend_from_slice(line),
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What stands in the mail: the problems of the mail itself on top, then the letter's text.
fn text(letter: &str, problems: &[String]) -> String {
    let mut text = String::new();
    if !problems.is_empty() {
        text.push_str("Something is wrong with this report itself:\n");
        for problem in problems {
            text.push_str(&format!("- {problem}\n").replace("\nhint: ", "\n  hint: "));
        }
        text.push('\n');
    }
    text + letter
}

/// The text of a mail's short form.
fn short_text(text: &str, log: Option<&Path>) -> String {
    let place =
        log.map_or_else(String::new, |log| format!("; the log is {} there", printable(log.as_os_str().as_encoded_bytes())));
    format!(
        "The whole report was too large for the mail server or the queue, so that this is its text alone. `vaultberry report preview` on the \
         appliance shows the last run's{place}.\n\
         hint: make [report] size_limit smaller\n\n{text}"
    )
}

/// What is mailed in clear when nothing can be sealed.
fn notice(reasons: &[String]) -> String {
    let reasons = reasons.join("\n- ");
    format!(
        "The report of this run could not be sealed, and nothing of it is sent in clear:\n\n- {reasons}\n\n\
         hint: {HINT}\n\n\
         The details are on the appliance: in its journal, and in the logs of its state folder.\n"
    )
}

#[cfg(test)]
mod tests;
