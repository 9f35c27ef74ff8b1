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
use zstd::stream::read::Decoder;

use crate::digest::Sum;
use crate::digest::unhex;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::entry::{self, Device, Entry, Extras, Kind, Time};
use crate::snapshot::gzip::{self, Place};
use crate::snapshot::index::{FOOTER, FOOTER_LENGTH};
use crate::warnings::Warnings;

/// The longest line that is read, in bytes. A hundred warnings, each of a path of 4096 bytes that are all escaped, are
/// shorter.
const LONGEST: u64 = 4 << 20;

/// The largest window that is kept of what was unpacked, as a power of two; our own compression has smaller ones.
const WINDOW: u32 = 23;

/// What the first line says.
#[derive(Debug, Deserialize)]
pub struct Header {
    version: u32,
    level: u32,
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
    /// A file's SHA-256, without its holes; every file has one.
    pub sha256: Option<[u8; 32]>,
    /// Whether the archive has the file without its holes.
    pub sparse: bool,
    /// The sum of its extended attributes and access control lists ([`Extras::sha256`]), which the entry itself lacks here.
    pub extras: Option<[u8; 32]>,
    /// Where it begins in the archive.
    pub place: Place,
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

/// An index's lines, as they are in a file.
pub type Lines = BufReader<Decoder<'static, BufReader<File>>>;

impl Reader<Lines> {
    /// Opens the index `path` and reads its first line.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| reading(path))?;
        let lines = decoder(BufReader::with_capacity(64 << 10, file)).with_context(|| reading(path))?;
        Self::new(BufReader::with_capacity(64 << 10, lines), path)
    }
}

fn decoder<R: BufRead>(compressed: R) -> Result<Decoder<'static, R>> {
    let mut decoder = Decoder::with_buffer(compressed)?;
    // What our own compression needs; a forged index can't ask for gigabytes.
    decoder.window_log_max(WINDOW)?;
    Ok(decoder)
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

    /// How many entries were read.
    pub fn read(&self) -> u64 {
        self.entries
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
            Line::Symlink(line) => (Kind::Symlink(line.target()?), line),
            Line::Hardlink(line) => {
                let first = line.target()?;
                let shown = printable(first.as_encoded_bytes());
                let first = entry::plain(first.as_encoded_bytes())
                    .with_context(|| format!("it is a link out of the snapshot, to {shown:?}"))?;
                (Kind::Hardlink(first), line)
            }
            Line::Fifo(line) => (Kind::Fifo, line),
            Line::CharDevice(line) => (Kind::CharDevice(line.device()?), line),
            Line::BlockDevice(line) => (Kind::BlockDevice(line.device()?), line),
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
    ensure!(
        header.level == 0,
        "the snapshot is an incremental one, of level {}, which this vaultberry doesn't read\nhint: a newer one does",
        header.level
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

/// The last line of `file`, without its line break: what is in the frame before the last, whose length the last one tells.
fn last_line(file: &File) -> Result<Vec<u8>> {
    const CUT: &str = "it has no end: the index was cut short";
    let size = file.metadata()?.len();
    let before = size.checked_sub(FOOTER_LENGTH as u64).context(CUT)?;
    let mut footer = [0; FOOTER_LENGTH];
    file.read_exact_at(&mut footer, before)?;
    let (magic, length) = footer.split_at(8);
    ensure!(magic == FOOTER.map(u32::to_le_bytes).concat(), CUT);
    let length = u64::from_le_bytes(length.try_into()?);
    let begin = before.checked_sub(length).filter(|_| length <= LONGEST).context(CUT)?;
    let mut frame = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut frame, begin)?;
    let mut lines = BufReader::new(decoder(frame.as_slice())?);
    let last = line(&mut lines)?;
    ensure!(lines.fill_buf()?.is_empty(), "something follows the trailer");
    Ok(last)
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
    Hardlink(EntryLine),
    Fifo(EntryLine),
    CharDevice(EntryLine),
    BlockDevice(EntryLine),
    Trailer(TrailerLine),
}

#[derive(Deserialize)]
struct EntryLine {
    path: Option<String>,
    path_hex: Option<String>,
    link: Option<String>,
    link_hex: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    sparse: bool,
    device: Option<String>,
    mtime: i64,
    #[serde(default)]
    mtime_ns: u32,
    mode: String,
    uid: u32,
    gid: u32,
    sha256: Option<String>,
    extras: Option<String>,
    #[serde(default)]
    damaged: bool,
    block: u64,
    skip: u32,
}

impl EntryLine {
    fn target(&self) -> Result<OsString> {
        text(self.link.as_deref(), self.link_hex.as_deref(), "link")
    }

    fn device(&self) -> Result<Device> {
        let numbers = self.device.as_deref().and_then(|text| text.split_once(':'));
        let device = numbers.and_then(|(major, minor)| Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        device.context("its device is none")
    }

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
        ensure!(self.mtime_ns < 1_000_000_000 && (self.skip as usize) < gzip::BLOCK, "its time or its place is none");
        let extras = self.extras.as_deref().map(sum).transpose()?;
        let Self { uid, gid, sparse, damaged, .. } = self;
        let mtime = Time { seconds: self.mtime, nanoseconds: self.mtime_ns };
        let entry = Entry { path, kind, size: self.size.unwrap_or(0), mtime, mode, uid, gid, extras: Extras::default() };
        Ok(Indexed { entry, sha256, sparse, extras, damaged, place: Place { block: self.block, skip: self.skip } })
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
