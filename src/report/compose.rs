//! From letter to mail: text and log become a MIME entity, the entity is sealed, and the sealed text is wrapped as
//! PGP/MIME (RFC 3156 section 4).
//!
//! Only the outer headers are in clear: From, To, Subject, Date, Message-ID, and `Auto-Submitted` (RFC 3834), so that no
//! holiday notice answers. Where there is no certificate to seal for, a short notice goes instead: the owner learns that
//! there was a run, how it ended, and why the report can't be read, and the network learns nothing more.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use lettre::message::header::{ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Body, MessageBuilder, MultiPart, SinglePart};
use lettre::{Address, Message};

use super::Letter;
use crate::config::{Config, Report};
use crate::log::printable;
use crate::openpgp::Recipients;

/// How much of a text goes into a mail, in bytes. A run's summary has a few kilobytes; a mail that bounces tells nobody.
const LONGEST_TEXT: usize = 256 << 10;

/// What helps against a certificate that can't be used.
const HINT: &str = "extend the certificate with `gpg --quick-set-expire` or take another, put what `gpg --armor --export` \
                    prints into [openpgp] recipients of the appliance's configuration, and try `vaultberry report test`";

/// A mail as it goes over the network.
#[derive(Debug)]
pub struct Composed {
    /// Headers and body, lines ending in CR LF.
    pub mail: Vec<u8>,
    /// What the owner should mend: certificates that can't be used, a log that can't be read.
    pub problems: Vec<String>,
}

/// Makes the mail of `letter`; `name` becomes its Message-ID, and is given once.
///
/// # Errors
/// An address of the configuration can't stand in a mail.
pub fn compose(config: &Config, report: &Report, letter: &Letter, name: &str, now: Timestamp) -> Result<Composed> {
    let recipients = Recipients::at(&config.recipients, SystemTime::from(now));
    let headers = headers(report, &letter.subject, name, now)?;
    let reason = if recipients.any() {
        match sealed(&recipients, report, letter) {
            Ok((sealed, problems)) => return Ok(Composed { mail: wrap(headers, &sealed)?, problems }),
            Err(error) => vec![format!("{error:#}")],
        }
    } else {
        recipients.unusable().to_vec()
    };
    let notice = headers.singlepart(SinglePart::plain(notice(&reason))).context("writing the notice")?.formatted();
    let problem = format!("the report couldn't be sealed, so that only a notice goes: {}\nhint: {HINT}", reason.join("; "));
    Ok(Composed { mail: notice, problems: vec![problem] })
}

/// The headers that anybody on the way can read.
fn headers(report: &Report, subject: &str, name: &str, now: Timestamp) -> Result<MessageBuilder> {
    let address = |text: &str| text.parse::<Address>().context("reading an address of [report]");
    let from = address(&report.from)?;
    let mut headers = Message::builder()
        .message_id(Some(format!("<{name}@{}>", from.domain())))
        .date(SystemTime::from(now))
        .from(from.into())
        .subject(printable(subject.as_bytes()))
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()));
    for to in &report.to {
        headers = headers.to(address(to)?.into());
    }
    Ok(headers)
}

/// The sealed entity in ASCII armor, and what the owner should mend.
fn sealed(recipients: &Recipients, report: &Report, letter: &Letter) -> Result<(Vec<u8>, Vec<String>)> {
    let mut problems: Vec<String> = recipients.unusable().iter().map(|reason| format!("{reason}\nhint: {HINT}")).collect();
    let mut log = None;
    if let Some(path) = &letter.log {
        match end_of(path, report.log_limit) {
            Ok(end) => log = Some((path.as_path(), end)),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    let entity = entity(&text(&letter.text, &problems), log);
    let mut sealed = Vec::new();
    recipients.seal(&mut entity.as_slice(), &mut sealed, true)?;
    Ok((sealed, problems))
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
    let end = letter.floor_char_boundary(LONGEST_TEXT);
    text.push_str(&letter[..end]);
    if end < letter.len() {
        text.push_str("\n(the rest is left out: the text is too long for a mail)\n");
    }
    text
}

/// The entity that is sealed: multipart/mixed of the text and the log.
fn entity(text: &str, log: Option<(&Path, String)>) -> Vec<u8> {
    let mut mixed = MultiPart::mixed().singlepart(SinglePart::plain(crlf(text)));
    if let Some((path, end)) = log {
        let name = printable(path.file_name().unwrap_or_default().as_encoded_bytes());
        mixed = mixed.singlepart(Attachment::new(name).body(crlf(&end), ContentType::TEXT_PLAIN));
    }
    mixed.formatted()
}

/// The whole mail round a sealed entity.
fn wrap(headers: MessageBuilder, armored: &[u8]) -> Result<Vec<u8>> {
    let kind = |name: &str| ContentType::parse(name).context("naming a part of the mail");
    let version = SinglePart::builder().header(kind("application/pgp-encrypted")?).body("Version: 1".to_owned());
    let armored = crlf(str::from_utf8(armored).context("reading the sealed text")?);
    let content = SinglePart::builder()
        .header(kind("application/octet-stream; name=\"encrypted.asc\"")?)
        .header(ContentDisposition::inline_with_name("encrypted.asc"))
        .body(Body::dangerous_pre_encoded(armored.into_bytes(), ContentTransferEncoding::SevenBit));
    let parts = MultiPart::encrypted("application/pgp-encrypted".to_owned()).singlepart(version).singlepart(content);
    Ok(headers.multipart(parts).context("putting the mail together")?.formatted())
}

/// What is mailed in clear when nothing can be sealed.
fn notice(reasons: &[String]) -> String {
    let reasons = reasons.join("\n- ");
    crlf(&format!(
        "The report of this run could not be sealed, and nothing of it is sent in clear:\n\n- {reasons}\n\n\
         hint: {HINT}\n\n\
         The details are on the appliance: in its journal, and in the logs of its state folder.\n"
    ))
}

/// The end of a log that may be far larger: at most `limit` bytes, from the beginning of a line on, after a line that says
/// how much was left out.
fn end_of(path: &Path, limit: u64) -> Result<String> {
    let reading = || format!("reading the log {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let skip = file.metadata().with_context(reading)?.len().saturating_sub(limit);
    // One byte more than wanted: only it tells whether a line begins at the cut.
    let before = skip.saturating_sub(1);
    file.seek(SeekFrom::Start(before)).with_context(reading)?;
    let mut end = Vec::new();
    file.take(limit + skip - before).read_to_end(&mut end).with_context(reading)?;
    if skip == 0 {
        return Ok(String::from_utf8_lossy(&end).into_owned());
    }
    // A line longer than all that is kept loses its beginning.
    let cut = end.iter().position(|byte| *byte == b'\n').filter(|cut| cut + 1 < end.len()).unwrap_or(0) + 1;
    let left_out = before + cut as u64;
    let kept = String::from_utf8_lossy(&end[cut..]);
    Ok(format!("({left_out} bytes before this are left out; the whole log is {} on the appliance)\n{kept}", path.display()))
}

/// Lines as a mail has them. In one pass: the mail library's own way moves the rest of the text for each line.
fn crlf(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => {
                lines.push_str(line.strip_suffix('\r').unwrap_or(line));
                lines.push_str("\r\n");
            }
            None => lines.push_str(line),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{LONGEST_TEXT, crlf, end_of, notice, text};

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.log");
        let told = |count: u64| {
            format!("({count} bytes before this are left out; the whole log is {} on the appliance)\n", path.display())
        };
        for (content, limit, expected) in [
            ("one\ntwo\nthree\n", 100, "one\ntwo\nthree\n".to_owned()),
            ("one\ntwo\nthree\n", 14, "one\ntwo\nthree\n".to_owned()),
            ("one\ntwo\nthree\n", 13, told(4) + "two\nthree\n"),
            // the cut is at a line already
            ("one\ntwo\nthree\n", 10, told(4) + "two\nthree\n"),
            ("one\ntwo\nthree\n", 9, told(8) + "three\n"),
            ("one\ntwo\nthree\n", 6, told(8) + "three\n"),
            // no line begins in what is kept
            ("one\ntwo\nthree\n", 4, told(10) + "ree\n"),
            ("", 4, String::new()),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(end_of(&path, limit).unwrap(), expected, "{content:?} {limit}");
        }
    }

    #[test]
    fn problems_stand_above_the_text_and_a_long_text_is_cut() {
        assert_eq!(text("all is well\n", &[]), "all is well\n");
        assert_eq!(
            text("all is well\n", &["one\nhint: mend it".to_owned(), "two".to_owned()]),
            "Something is wrong with this report itself:\n- one\n  hint: mend it\n- two\n\nall is well\n"
        );
        let long = text(&"é".repeat(LONGEST_TEXT), &[]);
        assert!(
            long.len() < LONGEST_TEXT + 100 && long.ends_with("é\n(the rest is left out: the text is too long for a mail)\n")
        );
    }

    #[test]
    fn lines_end_as_in_a_mail() {
        assert_eq!(crlf("a\nb\r\n\nc"), "a\r\nb\r\n\r\nc");
        assert_eq!(crlf(""), "");
    }

    #[test]
    fn the_notice_names_the_reason_and_what_helps() {
        assert_eq!(
            notice(&["the certificate AB: it expired".to_owned()]),
            "The report of this run could not be sealed, and nothing of it is sent in clear:\r\n\r\n\
             - the certificate AB: it expired\r\n\r\n\
             hint: extend the certificate with `gpg --quick-set-expire` or take another, put what `gpg --armor --export` \
             prints into [openpgp] recipients of the appliance's configuration, and try `vaultberry report test`\r\n\r\n\
             The details are on the appliance: in its journal, and in the logs of its state folder.\r\n"
        );
    }
}
