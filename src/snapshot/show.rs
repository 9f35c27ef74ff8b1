//! Everything about one snapshot that its index tells.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::amount::amount;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::entry::Kind;
use crate::snapshot::index::read::Reader;
use crate::snapshot::json::Name;
use crate::snapshot::{index_of, pin};
use crate::warnings::Warnings;

/// How many of the largest files are named.
const LARGEST: usize = 10;

/// What is known of a snapshot.
#[derive(Debug, Serialize)]
pub struct Shown {
    source: String,
    snapshot: String,
    archive: String,
    outcome: Outcome,
    pin: Option<String>,
    roots: Vec<String>,
    entries: u64,
    kinds: BTreeMap<&'static str, u64>,
    bytes: u64,
    archive_bytes: u64,
    sha256: String,
    largest: Vec<Large>,
    #[serde(flatten)]
    warnings: Warnings,
}

#[derive(Debug, Serialize)]
struct Large {
    bytes: u64,
    #[serde(flatten)]
    name: Name,
    #[serde(skip)]
    shown: String,
}

/// Reads the index of `archive`.
pub fn show(archive: &Path) -> Result<Shown> {
    let mut reader = Reader::open(&index_of(archive))?;
    let mut kinds = BTreeMap::new();
    let mut largest = BinaryHeap::new();
    while let Some(indexed) = reader.entry()? {
        *kinds.entry(kind(&indexed.entry.kind)).or_insert(0) += 1;
        if indexed.entry.kind == Kind::File {
            largest.push(Reverse((indexed.entry.size, indexed.entry.path.into_os_string().into_vec())));
            if largest.len() > LARGEST {
                largest.pop();
            }
        }
    }
    let trailer = reader.trailer().context("reading the index: it has no trailer")?.clone();
    let large =
        |Reverse((bytes, name)): Reverse<(u64, Vec<u8>)>| Large { bytes, shown: printable(&name), name: Name::new(&name) };
    let header = reader.header();
    Ok(Shown {
        source: header.source.clone(),
        snapshot: header.snapshot.clone(),
        archive: archive.display().to_string(),
        outcome: trailer.outcome,
        pin: pin::reason(archive),
        roots: header.roots.clone(),
        entries: trailer.entries,
        kinds,
        bytes: trailer.bytes,
        archive_bytes: trailer.archive.size,
        sha256: crate::digest::hex(&trailer.archive.sha256),
        // The heap's order turned round: the largest first.
        largest: largest.into_sorted_vec().into_iter().map(large).collect(),
        warnings: trailer.warnings,
    })
}

impl Shown {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            writeln!(text, "{key:10}{value}").expect("writing to a string doesn't fail");
        };
        line("snapshot", &printable(format!("{}/{}", self.source, self.snapshot).as_bytes()));
        line("archive", &printable(Path::new(&self.archive).as_os_str().as_bytes()));
        line("outcome", &self.outcome.to_string());
        if let Some(reason) = &self.pin {
            line("pinned", &printable(reason.as_bytes()));
        }
        for (number, root) in self.roots.iter().enumerate() {
            line(if number == 0 { "holds" } else { "" }, &printable(root.as_bytes()));
        }
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        line("entries", &format!("{} ({})", self.entries, kinds.join(", ")));
        line("files", &amount(self.bytes));
        let share = (self.archive_bytes.saturating_mul(100)).checked_div(self.bytes).unwrap_or(100);
        line("packed", &format!("{}, {share} % of that", amount(self.archive_bytes)));
        line("sha256", &self.sha256);
        for (number, large) in self.largest.iter().enumerate() {
            line(if number == 0 { "largest" } else { "" }, &format!("{:>10}  {}", amount(large.bytes), large.shown));
        }
        for (number, warning) in self.warnings.lines.iter().enumerate() {
            line(if number == 0 { "warnings" } else { "" }, &printable(warning.as_bytes()));
        }
        if self.warnings.more > 0 {
            line("", &format!("and {} more, in the log of the run", self.warnings.more));
        }
        text
    }
}

/// What an index calls such a thing.
pub fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Folder => "folder",
        Kind::Symlink(_) => "symlink",
        Kind::Hardlink(_) => "hardlink",
        Kind::Fifo => "fifo",
        Kind::CharDevice(_) => "chardevice",
        Kind::BlockDevice(_) => "blockdevice",
        Kind::Socket => "socket",
    }
}
