//! What is sealed: a MIME entity that holds the whole letter, and the headers a second time.
//!
//! ```text
//! multipart/mixed, with From, To, Subject, Date and Message-ID
//!   multipart/alternative
//!     text/plain
//!     text/html
//!   text/plain, attached: the end of the log
//! ```
//!
//! The headers inside are *protected headers*: who can't open the mail can change the outer ones, and these tell. Both forms
//! are named that programs know: `protected-headers="v1"` (draft-autocrypt-lamps-protected-headers, as Thunderbird and
//! Enigmail read it) and `hp="cipher"` with `HP-Outer` (RFC 9788).
//!
//! Text is written as quoted-printable (RFC 2045 section 6.7), line by line, so that its length is known before it is put in.
//! The boundaries hold `=_`, which nothing in that encoding has.

use std::fmt::Write as _;

use lettre::message::Body;
use lettre::message::header::ContentTransferEncoding;

/// What [`entity`] puts together, encoded already.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The headers in clear, each line with its end, to be repeated inside.
    pub headers: &'a str,
    /// What a person reads.
    pub text: &'a [u8],
    /// The same as a page.
    pub html: Option<&'a [u8]>,
    /// The log's file name, and its end.
    pub log: Option<(&'a str, &'a [u8])>,
}

/// The entity, lines ending in CR LF.
pub fn entity(parts: Parts<'_>) -> Vec<u8> {
    let mut head = String::from(parts.headers);
    for line in parts.headers.split_inclusive("\r\n") {
        // A folded line goes on with white space.
        let name = if line.starts_with([' ', '\t']) { "" } else { "HP-Outer: " };
        head.push_str(name);
        head.push_str(line);
    }
    head.push_str("Content-Type: multipart/mixed; boundary=\"=_mixed\";\r\n protected-headers=\"v1\"; hp=\"cipher\"\r\n\r\n");
    head.push_str("--=_mixed\r\nContent-Type: multipart/alternative; boundary=\"=_alternative\"\r\n\r\n");
    // Made as large as it will be: growing would copy megabytes.
    let content = parts.text.len() + parts.html.map_or(0, <[u8]>::len) + parts.log.map_or(0, |(_, log)| log.len());
    let mut entity = Vec::with_capacity(head.len() + content + 1024);
    entity.extend_from_slice(head.as_bytes());
    leaf(&mut entity, "=_alternative", "text/plain; charset=utf-8", "inline", parts.text);
    if let Some(html) = parts.html {
        leaf(&mut entity, "=_alternative", "text/html; charset=utf-8", "inline", html);
    }
    entity.extend_from_slice(b"--=_alternative--\r\n");
    if let Some((name, log)) = parts.log {
        // The name is a run's, or at least has no quotes and no control characters.
        let name: String =
            name.chars().filter(|character| character.is_ascii_graphic() && !"\"\\".contains(*character)).collect();
        leaf(&mut entity, "=_mixed", "text/plain; charset=utf-8", &format!("attachment; filename=\"{name}\""), log);
    }
    entity.extend_from_slice(b"--=_mixed--\r\n");
    entity
}

fn leaf(entity: &mut Vec<u8>, boundary: &str, kind: &str, disposition: &str, content: &[u8]) {
    let mut head = String::new();
    write!(
        head,
        "--{boundary}\r\nContent-Type: {kind}\r\nContent-Disposition: {disposition}\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    .expect("writing to a string doesn't fail");
    entity.extend_from_slice(head.as_bytes());
    entity.extend_from_slice(content);
    entity.extend_from_slice(b"\r\n");
}

/// Text as quoted-printable, its lines ending in CR LF.
pub fn encoded(text: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 16);
    for line in text.split_inclusive('\n') {
        encoded.extend_from_slice(&encoded_line(line));
    }
    encoded
}

/// The same for one line, with or without its end.
pub fn encoded_line(line: &str) -> Vec<u8> {
    let (content, end) = line.strip_suffix('\n').map_or((line, false), |content| (content, true));
    let content = content.strip_suffix('\r').unwrap_or(content).to_owned();
    let body = Body::new_with_encoding(content, ContentTransferEncoding::QuotedPrintable);
    let mut encoded = body.expect("quoted-printable takes any text").into_vec();
    if end {
        encoded.extend_from_slice(b"\r\n");
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{Parts, encoded, entity};

    #[test]
    fn text_is_encoded_line_by_line() {
        for (text, expected) in [
            ("", ""),
            ("a\nb", "a\r\nb"),
            ("a\r\n\nb\n", "a\r\n\r\nb\r\n"),
            ("é = 1\n", "=C3=A9 =3D 1\r\n"),
            ("trailing \n", "trailing=20\r\n"),
            ("--=_mixed\n", "--=3D_mixed\r\n"),
        ] {
            assert_eq!(String::from_utf8(encoded(text)).unwrap(), expected, "{text:?}");
        }
        let long = String::from_utf8(encoded(&"x".repeat(1000))).unwrap();
        assert!(long.split("\r\n").all(|line| line.len() <= 76), "{long}");
        assert_eq!(long.replace("=\r\n", ""), "x".repeat(1000));
    }

    #[test]
    fn headers_stand_inside_a_second_time() {
        let headers = "From: pi@example.net\r\nTo: a@example.org,\r\n b@example.org\r\n";
        let parts = Parts { headers, text: b"text", html: None, log: Some(("a\"b.log", b"log")) };
        assert_eq!(
            String::from_utf8(entity(parts)).unwrap(),
            "From: pi@example.net\r\nTo: a@example.org,\r\n b@example.org\r\n\
             HP-Outer: From: pi@example.net\r\nHP-Outer: To: a@example.org,\r\n b@example.org\r\n\
             Content-Type: multipart/mixed; boundary=\"=_mixed\";\r\n protected-headers=\"v1\"; hp=\"cipher\"\r\n\r\n\
             --=_mixed\r\nContent-Type: multipart/alternative; boundary=\"=_alternative\"\r\n\r\n\
             --=_alternative\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\ntext\r\n--=_alternative--\r\n\
             --=_mixed\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: attachment; filename=\"ab.log\"\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nlog\r\n--=_mixed--\r\n"
        );
    }
}
