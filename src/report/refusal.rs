//! What a mail server's no means to a person, and what helps.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use lettre::transport::smtp::Error;

use super::place;
use crate::complaint::AUTHORITY_AS_SERVER;
use crate::config::{MailServer, Report};
use crate::log::printable;

/// Where in the exchange the server, or the network, said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Until the connection is as private as it should be.
    Connecting,
    /// At the user and the password.
    LoggingIn,
    /// At whom the mail comes from.
    Sender,
    /// At one whom it goes to.
    Recipient(&'a str),
    /// At the mail itself.
    Content,
}

/// Whether the server says that the mail is too large: 552 without an enhanced code, or the codes for it (RFC 3463 sections
/// 3.3 and 3.4). With other codes a 552 is about something else, as a full mailbox.
pub fn is_too_large(error: &Error) -> bool {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    match enhanced(&text) {
        Some(code) => matches!(code, "5.3.4" | "5.2.3"),
        None => error.status().is_some_and(|code| code.to_string() == "552"),
    }
}

/// An error of lettre's: what was being done, what was said, and what helps. Nothing of a login is in it.
pub fn told(report: &Report, server: &MailServer, stage: Stage<'_>, error: &Error) -> anyhow::Error {
    let server = place(server);
    let doing = match stage {
        Stage::Connecting => format!("connecting to the mail server {server}"),
        Stage::LoggingIn => format!("logging in to the mail server {server}"),
        Stage::Sender => format!("mailing through {server} from {}", report.from),
        Stage::Recipient(to) => format!("mailing through {server} to {to}"),
        Stage::Content => format!("mailing through {server}"),
    };
    let code = error.status().map(|code| code.to_string());
    let cause = match (error.source(), &code) {
        // Who was given a login may repeat it, in whatever form: of such an answer nothing but the codes is told.
        (source, Some(code)) if stage == Stage::LoggingIn => {
            let text = source.map(ToString::to_string).unwrap_or_default();
            ["the server says", code].into_iter().chain(enhanced(&text)).collect::<Vec<_>>().join(" ")
        }
        _ if stage == Stage::LoggingIn && error.is_response() => "its answer isn't SMTP".to_owned(),
        (Some(source), _) if is_silence(source) => "no answer in time".to_owned(),
        (Some(source), None) => source.to_string(),
        (Some(source), Some(code)) => format!("the server says {code} {source}"),
        (None, _) => error.to_string(),
    };
    let cause = printable(cause.as_bytes());
    anyhow::anyhow!("{doing}: {cause}\nhint: {}", hint(stage, code.as_deref(), &cause))
}

/// That no connection to a server could be made, and what helps.
pub fn unreachable(server: &MailServer, error: &io::Error) -> anyhow::Error {
    let cause = if is_silence(error) { "no answer in time".to_owned() } else { printable(error.to_string().as_bytes()) };
    anyhow::anyhow!("connecting to the mail server {}: {cause}\nhint: {}", place(server), hint(Stage::Connecting, None, &cause))
}

/// What was said by several servers or of several recipients, with a hint that many have only once: behind the last of them.
pub fn hinted_once(told: &[String]) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in told.iter().flat_map(|told| told.lines()) {
        if line.starts_with("hint: ") {
            lines.retain(|before| *before != line);
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The enhanced code (RFC 3463 section 2) that an answer begins with.
fn enhanced(text: &str) -> Option<&str> {
    let word = text.split_whitespace().next()?;
    let numbers: Vec<&str> = word.split('.').collect();
    let are_numbers =
        numbers.iter().all(|number| matches!(number.len(), 1..=3) && number.bytes().all(|byte| byte.is_ascii_digit()));
    (numbers.len() == 3 && matches!(numbers[0], "2" | "4" | "5") && are_numbers).then_some(word)
}

fn is_silence(source: &(dyn std::error::Error + 'static)) -> bool {
    let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
    // A socket's read that takes too long is "would block".
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// What helps against a no at `stage`, with the reply `code` when it came from the server.
fn hint(stage: Stage<'_>, code: Option<&str>, cause: &str) -> &'static str {
    if code.is_some_and(|code| code.starts_with('4')) {
        return "the server may take it later: the mail stays in the queue, and goes out within hours";
    }
    match (stage, code) {
        (Stage::Connecting, _) => certificate_hint(cause)
            .unwrap_or("look at [report] server and port, and at security: starttls is usual at port 587, tls at 465"),
        (_, None) => "the mail stays in the queue, and goes out within hours",
        (_, Some("530")) => "the server wants a login, or TLS before it: look at [report] credentials and security",
        (Stage::LoggingIn, _) => {
            "look at user and password in the credentials file; some providers want a password made for this use alone"
        }
        (Stage::Sender, _) => "look at [report] from: many servers let a login write only as itself",
        (Stage::Recipient(_), _) => "look at [report] to; some servers mail elsewhere only after a login",
        (Stage::Content, _) => "look at what the server says: it takes others' mails, and not this one",
    }
}

/// What helps when the server couldn't prove who it is; the causes are in rustls's words.
fn certificate_hint(cause: &str) -> Option<&'static str> {
    // A bad signature: an authority of the same name is trusted, and it's another one.
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        Some("if the server's certificate is of an authority of your own, put that authority's into [report] ca")
    } else if cause.contains("CaUsedAsEndEntity") {
        Some(AUTHORITY_AS_SERVER)
    } else if cause.contains("not valid for name") {
        Some("name the server in [report] server as its certificate does")
    } else if cause.contains("expired") || cause.contains("not valid yet") {
        Some("the server's certificate is out of date, or the appliance's clock is wrong")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Stage, enhanced, hint, hinted_once};
    use crate::redact::Redactor;

    #[test]
    fn a_hint_that_many_have_is_told_once() {
        let told = ["a: no\nhint: look", "b: no\nhint: look", "c: no\nhint: wait"].map(String::from);
        assert_eq!(hinted_once(&told), "a: no\nb: no\nhint: look\nc: no\nhint: wait");
        assert_eq!(hinted_once(&[]), "");
    }

    #[test]
    fn an_enhanced_code_is_three_numbers_and_first() {
        for (text, expected) in [
            ("5.7.8 no", Some("5.7.8")),
            ("4.123.456", Some("4.123.456")),
            ("5.7 no", None),
            ("5.7.8.9 no", None),
            ("5.7.1234 no", None),
            ("3.7.8 no", None),
            ("5.7.x no", None),
            ("5..8 no", None),
            ("no 5.7.8", None),
            ("", None),
        ] {
            assert_eq!(enhanced(text), expected, "{text}");
        }
    }

    #[test]
    fn the_hint_follows_what_was_said_and_when() {
        let elsewhere = "look at [report] server and port, and at security: starttls is usual at port 587, tls at 465";
        let later = "the server may take it later: the mail stays in the queue, and goes out within hours";
        for (stage, code, cause, expected) in [
            (Stage::Connecting, None, "Connection refused (os error 111)", elsewhere),
            (Stage::Connecting, Some("554"), "the server says 554 go away", elsewhere),
            (
                Stage::Connecting,
                None,
                "invalid peer certificate: UnknownIssuer",
                "if the server's certificate is of an authority of your own, put that authority's into [report] ca",
            ),
            (
                Stage::Connecting,
                None,
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b",
                "name the server in [report] server as its certificate does",
            ),
            (
                Stage::Connecting,
                None,
                "invalid peer certificate: certificate expired: verification time 2 (UNIX)",
                "the server's certificate is out of date, or the appliance's clock is wrong",
            ),
            (Stage::Content, Some("451"), "", later),
            (Stage::LoggingIn, Some("454"), "", later),
            (Stage::Content, None, "", "the mail stays in the queue, and goes out within hours"),
            (
                Stage::Sender,
                Some("530"),
                "",
                "the server wants a login, or TLS before it: look at [report] credentials and security",
            ),
            (Stage::Sender, Some("550"), "", "look at [report] from: many servers let a login write only as itself"),
            (Stage::Recipient("a@b"), Some("550"), "", "look at [report] to; some servers mail elsewhere only after a login"),
            (Stage::Content, Some("554"), "", "look at what the server says: it takes others' mails, and not this one"),
        ] {
            assert_eq!(hint(stage, code, cause), expected, "{stage:?} {code:?} {cause}");
            assert_eq!(Redactor::default().masked(expected), expected, "our own words look like no secret");
        }
    }
}
