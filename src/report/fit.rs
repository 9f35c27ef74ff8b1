//! What of a letter goes into a mail of a given size: the text and its page first, and of the log its newest lines.
//!
//! All lengths here are of encoded text. How many bytes of an entity a mail can hold, [`compose`](super::compose) measures.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::entity::{encoded, encoded_line};
use crate::log::printable;
use crate::redact::Redactor;

/// What stands for the rest of a text.
const CUT: &str = "\n(the rest is left out: the text is too long for this mail)\n";

/// What stands under a text whose page is left out.
const NO_PAGE: &str = "\n(the page with the charts is left out: it is too large for this mail)\n";

/// The end of a log, with secrets masked.
#[derive(Debug)]
pub struct Log {
    /// Its file's name.
    pub name: String,
    place: String,
    /// Bytes of the file before what was read.
    before: u64,
    /// Each line with its length in the file.
    lines: Vec<(u64, String)>,
}

impl Log {
    /// Reads at most the last `most` bytes, more than which no mail will hold.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path, most: u64, redactor: &Redactor) -> Result<Self> {
        let reading = || format!("reading the log {}", path.display());
        let mut file = File::open(path).with_context(reading)?;
        let before = file.metadata().with_context(reading)?.len().saturating_sub(most);
        file.seek(SeekFrom::Start(before)).with_context(reading)?;
        let mut end = Vec::new();
        // A log that grows meanwhile isn't followed.
        file.take(most).read_to_end(&mut end).with_context(reading)?;
        let lengths = end.split_inclusive(|byte| *byte == b'\n').map(|line| line.len() as u64);
        let masked = redactor.masked(&String::from_utf8_lossy(&end));
        let lines = lengths.zip(masked.split_inclusive('\n').map(String::from)).collect();
        let name = printable(path.file_name().unwrap_or_default().as_encoded_bytes());
        Ok(Self { name, place: printable(path.as_os_str().as_encoded_bytes()), before, lines })
    }

    /// Its newest lines, encoded, in at most `room` bytes, after a line that says how much is left out. Of a newest line that
    /// is longer than that, the end; nothing where there is hardly any room.
    pub fn newest(&self, room: usize) -> Vec<u8> {
        // The word of what is left out has at most the digits of the whole.
        let whole = self.before + self.lines.iter().map(|(length, _)| length).sum::<u64>();
        let room = room.saturating_sub(self.told(whole).len());
        // The first one isn't whole when the reading began in the midst of the file.
        let first = usize::from(self.before > 0 && self.lines.len() > 1);
        let (mut left, mut used) = (self.lines.len(), 0);
        while left > first {
            used += encoded_line(&self.lines[left - 1].1).len();
            if used > room {
                break;
            }
            left -= 1;
        }
        let mut before = self.before + self.lines[..left].iter().map(|(length, _)| length).sum::<u64>();
        let mut end = "";
        if let (true, Some((_, line))) = (left == self.lines.len(), self.lines.last()) {
            // Each byte may take three, and soft line breaks come to it.
            end = &line[line.ceil_char_boundary(line.len().saturating_sub(room / 4))..];
            before -= (end.len() as u64).min(before);
        }
        let mut newest = if before > 0 { self.told(before) } else { Vec::new() };
        newest.reserve(used);
        // Encoded a second time rather than kept: a log has megabytes.
        let lines = self.lines[left..].iter().map(|(_, line)| line.as_str()).chain([end]);
        lines.for_each(|line| newest.extend_from_slice(&encoded_line(line)));
        newest
    }

    fn told(&self, before: u64) -> Vec<u8> {
        encoded(&format!("({before} bytes before this are left out; the whole log is {} on the appliance)\n", self.place))
    }
}

/// Text, and its page where there is room for it, both encoded; together at most three quarters of `room`, which leaves the
/// rest to the log.
pub fn body(text: &str, html: Option<&str>, room: usize) -> (Vec<u8>, Option<Vec<u8>>) {
    let most = room / 4 * 3;
    let page = html.map(encoded);
    let whole = encoded(text);
    match page {
        Some(page) if whole.len() + page.len() > most => (shortened(&format!("{text}{NO_PAGE}"), most), None),
        page => (shortened_unless(text, whole, most), page),
    }
}

fn shortened_unless(text: &str, whole: Vec<u8>, most: usize) -> Vec<u8> {
    if whole.len() <= most { whole } else { shortened(text, most) }
}

/// The beginning of a text, whole lines where there are some, in at most `most` bytes.
fn shortened(text: &str, most: usize) -> Vec<u8> {
    let whole = encoded(text);
    if whole.len() <= most {
        return whole;
    }
    let most = most.saturating_sub(encoded(CUT).len());
    let mut kept = Vec::new();
    for line in text.split_inclusive('\n') {
        let line = encoded_line(line);
        if kept.len() + line.len() > most {
            break;
        }
        kept.extend_from_slice(&line);
    }
    if kept.is_empty() {
        kept = encoded_line(&text[..text.floor_char_boundary(most / 4)]);
    }
    kept.extend_from_slice(&encoded(CUT));
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Log, body};
    use crate::redact::Redactor;

    #[test]
    fn of_a_log_the_newest_whole_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.log");
        let told = |count: u64| {
            format!("({count} bytes before this are left out; the whole log is {} on the appliance)\n", path.display())
        };
        let of_told = super::encoded(&told(14)).len();
        for (content, most, room, expected) in [
            ("one\ntwo\nthree\n", 100, 17, "one\ntwo\nthree\n".to_owned()),
            ("one\ntwo\nthree\n", 100, 16, told(4) + "two\nthree\n"),
            ("one\ntwo\nthree\n", 100, 12, told(4) + "two\nthree\n"),
            ("one\ntwo\nthree\n", 100, 11, told(8) + "three\n"),
            // of a line that is too long, the end
            ("one\ntwo\nthree, four\n", 100, 9, told(18) + "r\n"),
            // read from the middle of a line on
            ("one\ntwo\nthree\n", 8, 100, told(8) + "three\n"),
            ("one\ntwo\nthree\n", 4, 100, told(10) + "ree\n"),
            ("", 100, 100, String::new()),
        ] {
            fs::write(&path, content).unwrap();
            let log = Log::read(&path, most, &Redactor::default()).unwrap();
            let newest = String::from_utf8(log.newest(of_told + room)).unwrap();
            assert_eq!(newest.replace("=\r\n", "").replace("\r\n", "\n"), expected, "{content:?} {most} {room}");
            assert!(newest.len() <= of_told + room);
        }
    }

    #[test]
    fn a_text_is_cut_and_a_page_left_out_whole() {
        let plain = |(text, page): (Vec<u8>, Option<Vec<u8>>)| {
            (String::from_utf8(text).unwrap().replace("\r\n", "\n"), page.map(|page| String::from_utf8(page).unwrap()))
        };
        assert_eq!(plain(body("well\n", Some("<p>"), 100)), ("well\n".to_owned(), Some("<p>".to_owned())));
        let (text, page) = plain(body("well\n", Some(&"x".repeat(400)), 400));
        assert_eq!(
            (text.as_str(), page),
            ("well\n\n(the page with the charts is left out: it is too large for this mail)\n", None)
        );
        let long = "line\n".repeat(1000);
        let (text, _) = body(&long, None, 1000);
        let shown = String::from_utf8(text.clone()).unwrap();
        assert!(text.len() <= 750 && text.len() > 700, "{}", text.len());
        assert!(shown.starts_with("line\r\nline") && shown.contains("(the rest is left out:"), "{shown}");
        let (text, _) = body(&"é".repeat(1000), None, 1000);
        assert!(text.len() <= 750 && text.starts_with(b"=C3=A9=C3=A9"));
    }
}
