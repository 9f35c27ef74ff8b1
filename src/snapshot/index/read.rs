//! Reading an index: line by line, so that one of ten million lines takes no more memory than one of ten, or only its end.
//!
//! An index may be damaged, or not be one at all. Every error names the file and, where there is one, the line; nothing
//! of what stands there is believed before it was checked: a name leads downwards only, a file has a size and a hash, the
//! trailer counts as many entries as there were.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::digest::Sum;
use crate::digest::unhex;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::entry::{self, Entry, Kind};
use crate::warnings::Warnings;

/// The longest line that is read, in bytes. A hundred warnings, each of a path of 4096 bytes that are all escaped, are
/// shorter.
const LONGEST: u64 = 4 << 20;

/// How much of a file's end is read at first; a trailer with few warnings is shorter.
const TAIL: u64 = 16 << 10;

/// What the first line says.
#[derive(Debug, Deserialize)]
pub struct Header {
    version: u32,
    /// The source's name.
    pub source: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// The configured paths, relative to the server's root.
    pub roots: Vec<String>,
}

/// What the line of an entry says.
#[derive(Debug, PartialEq, Eq)]
pub struct Indexed {
    /// What it is.
    pub entry: Entry,
    /// A file's SHA-256; every file has one.
    pub sha256: Option<[u8; 32]>,
    /// Whether a file's content isn't what the mirror held.
    pub damaged: bool,
}

/// What the last line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// [`Outcome::Complete`] or [`Outcome::Partial`].
    pub outcome: Outcome,
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The archive.
    pub archive: Sum,
    /// What pull and snapshot warned of; not printable for sure, should the file have been tampered with.
    pub warnings: Warnings,
}

/// An index being read.
#[derive(Debug)]
pub struct Reader<R> {
    lines: R,
    path: PathBuf,
    number: u64,
    header: Header,
    entries: u64,
    trailer: Option<Trailer>,
}

impl Reader<BufReader<File>> {
    /// Opens the index `path` and reads its first line.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| reading(path))?;
        Self::new(BufReader::with_capacity(64 << 10, file), path)
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line of `lines`; `path` is what errors call it.
    pub fn new(mut lines: R, path: &Path) -> Result<Self> {
        let first = line(&mut lines).and_then(|bytes| parse(&bytes)).and_then(|line| match line {
            Line::Header(header) => Ok(header),
            _ => bail!("it is no header"),
        });
        let header = first.and_then(supported).context("line 1").with_context(|| reading(path))?;
        Ok(Self { lines, path: path.to_owned(), number: 1, header, entries: 0, trailer: None })
    }

    /// What the first line says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the last line says, once [`Reader::entry`] has come to it.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// The next entry; none once all were read and the trailer was found after them.
    pub fn entry(&mut self) -> Result<Option<Indexed>> {
        if self.trailer.is_some() {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        self.next().with_context(|| format!("line {number}")).with_context(|| reading(&self.path))
    }

    fn next(&mut self) -> Result<Option<Indexed>> {
        let (kind, line) = match parse(&line(&mut self.lines)?)? {
            Line::Header(_) => bail!("a second header"),
            Line::Trailer(line) => {
                self.end(line)?;
                return Ok(None);
            }
            Line::File(line) => (Kind::File, line),
            Line::Folder(line) => (Kind::Folder, line),
            Line::Symlink(line) => (Kind::Symlink(text(line.link.as_deref(), line.link_hex.as_deref(), "link")?), line),
        };
        self.entries += 1;
        line.check(kind).map(Some)
    }

    fn end(&mut self, line: TrailerLine) -> Result<()> {
        let trailer = line.check()?;
        ensure!(
            trailer.entries == self.entries,
            "the trailer counts {} entries, and there are {}",
            trailer.entries,
            self.entries
        );
        ensure!(self.lines.fill_buf()?.is_empty(), "something follows the trailer");
        self.trailer = Some(trailer);
        Ok(())
    }
}

/// Reads only the last line of the index `path`.
pub fn trailer(path: &Path) -> Result<Trailer> {
    let file = File::open(path).with_context(|| reading(path))?;
    trailer_of(&file, path)
}

/// The same of an open `file`; `path` is what errors call it.
pub fn trailer_of(file: &File, path: &Path) -> Result<Trailer> {
    last_line(file)
        .and_then(|bytes| parse(&bytes))
        .and_then(|line| match line {
            Line::Trailer(line) => line.check(),
            _ => bail!("it is no trailer: the index was cut short"),
        })
        .context("the last line")
        .with_context(|| reading(path))
}

fn reading(path: &Path) -> String {
    format!("reading the index {}", path.display())
}

fn supported(header: Header) -> Result<Header> {
    ensure!(
        header.version == super::VERSION,
        "the index has version {}, and this vaultberry reads version {}\nhint: a newer vaultberry may read it; GNU tar restores \
         the archive without it",
        header.version,
        super::VERSION
    );
    Ok(header)
}

/// The next line, without the line break at its end.
fn line(lines: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    lines.take(LONGEST + 1).read_until(b'\n', &mut bytes)?;
    match bytes.pop() {
        Some(b'\n') => Ok(bytes),
        Some(_) if bytes.len() as u64 == LONGEST => bail!("it is longer than {LONGEST} bytes"),
        _ => bail!("the index was cut short here"),
    }
}

/// The last line of `file`, without its line break.
fn last_line(file: &File) -> Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let mut wanted = TAIL;
    loop {
        let length = wanted.min(size);
        let mut bytes = vec![0; usize::try_from(length)?];
        file.read_exact_at(&mut bytes, size - length)?;
        ensure!(bytes.pop() == Some(b'\n'), "it has no end: the index was cut short");
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(before) => return Ok(bytes.split_off(before + 1)),
            None if length == size => return Ok(bytes),
            None if wanted > LONGEST => bail!("it is longer than {LONGEST} bytes"),
            None => wanted *= 4,
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Line> {
    serde_json::from_slice(bytes).map_err(|error| {
        // It may quote what stands there; and to it every line is the first.
        let text = printable(error.to_string().as_bytes()).replace(" at line 1 column ", " at column ");
        anyhow::anyhow!("it isn't as it should be: {text}")
    })
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Header(Header),
    File(EntryLine),
    Folder(EntryLine),
    Symlink(EntryLine),
    Trailer(TrailerLine),
}

#[derive(Deserialize)]
struct EntryLine {
    path: Option<String>,
    path_hex: Option<String>,
    link: Option<String>,
    link_hex: Option<String>,
    size: Option<u64>,
    mtime: u64,
    mode: String,
    uid: u32,
    gid: u32,
    sha256: Option<String>,
    #[serde(default)]
    damaged: bool,
}

impl EntryLine {
    fn check(self, kind: Kind) -> Result<Indexed> {
        let path = text(self.path.as_deref(), self.path_hex.as_deref(), "path")?;
        let shown = printable(path.as_encoded_bytes());
        let path = entry::plain(path.as_encoded_bytes()).with_context(|| format!("{shown:?} is no name inside a snapshot"))?;
        let mode = u32::from_str_radix(&self.mode, 8).ok().filter(|&mode| mode <= 0o7777).context("its mode is none")?;
        let sha256 = self.sha256.as_deref().map(sum).transpose()?;
        let is_file = matches!(kind, Kind::File);
        ensure!(
            is_file == self.size.is_some() && is_file == sha256.is_some(),
            "a file has a size and a sum, and nothing else has"
        );
        let Self { mtime, uid, gid, damaged, .. } = self;
        Ok(Indexed { entry: Entry { path, kind, size: self.size.unwrap_or(0), mtime, mode, uid, gid }, sha256, damaged })
    }
}

#[derive(Deserialize)]
struct TrailerLine {
    outcome: Outcome,
    entries: u64,
    bytes: u64,
    archive: ArchiveLine,
    warnings: Vec<String>,
    more_warnings: u64,
}

#[derive(Deserialize)]
struct ArchiveLine {
    size: u64,
    sha256: String,
}

impl TrailerLine {
    fn check(self) -> Result<Trailer> {
        let Self { outcome, entries, bytes, archive, warnings: lines, more_warnings: more } = self;
        ensure!(matches!(outcome, Outcome::Complete | Outcome::Partial), "no snapshot is {outcome}");
        let archive = Sum { size: archive.size, sha256: sum(&archive.sha256)? };
        Ok(Trailer { outcome, entries, bytes, archive, warnings: Warnings::of(lines, more) })
    }
}

fn sum(text: &str) -> Result<[u8; 32]> {
    unhex(text).and_then(|bytes| bytes.try_into().ok()).context("its sha256 is none")
}

/// A name that stands there as text or in hexadecimal.
fn text(plain: Option<&str>, hex: Option<&str>, key: &str) -> Result<OsString> {
    match (plain, hex) {
        (Some(text), None) => Ok(OsString::from(text)),
        (None, Some(hex)) => unhex(hex).map(OsString::from_vec).with_context(|| format!("its {key}_hex is not hexadecimal")),
        _ => bail!("it needs one of {key} and {key}_hex"),
    }
}

#[cfg(test)]
mod tests;
