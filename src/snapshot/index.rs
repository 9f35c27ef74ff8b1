//! The index of a snapshot: what is in its archive, readable with `grep` and `jq`, without unpacking anything.
//!
//! One JSON object a line, UTF-8, told apart by `type`:
//!
//! ```text
//! {"type":"header","version":1,"source":"web","snapshot":"20261123T023000Z","roots":["srv/www"]}
//! {"type":"folder","path":"srv/www","mtime":1795400000,"mode":"0755","uid":33,"gid":33}
//! {"type":"file","path":"srv/www/a","size":5,"mtime":…,"mode":"0644","uid":33,"gid":33,"sha256":"…"}
//! {"type":"symlink","path_hex":"7372762f7777772fe9","link":"a","mtime":…,"mode":"0777","uid":33,"gid":33}
//! {"type":"trailer","outcome":"complete","entries":3,"bytes":5,"archive":{"size":312,"sha256":"…"},"warnings":[…],"more_warnings":0}
//! ```
//!
//! - The order is the archive's. Names are relative to the server's root, as in the archive.
//! - A name or a link's target that isn't UTF-8 stands as `path_hex` or `link_hex` instead: its bytes in hexadecimal. So
//!   no name is changed, and every line is valid JSON. (`roots` come from the configuration, which is UTF-8.)
//! - `mtime` is in seconds since 1970; `mode` is octal; `sha256` is of the file's bytes in the archive.
//! - `"damaged":true` marks a file whose content isn't what the mirror held; the snapshot is then `partial`.
//! - An index without its trailer was cut short and means nothing. `outcome` is `complete` or `partial`.
//!
//! This file writes it; [`read`] reads it.

pub mod read;

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::digest::hex;
use crate::outcome::Outcome;
use crate::snapshot::archive::Archived;
use crate::snapshot::entry::Kind;
use crate::source::Root;
use crate::warnings::Warnings;

/// The version of the format above.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "header")]
pub struct Header<'a> {
    version: u32,
    source: &'a str,
    snapshot: &'a str,
    roots: Vec<String>,
}

impl<'a> Header<'a> {
    /// The header of the snapshot `snapshot` of `source`.
    pub fn new(source: &'a str, snapshot: &'a str, roots: &[Root]) -> Self {
        let roots = roots.iter().map(|root| root.path.to_string_lossy().into_owned()).collect();
        Self { version: VERSION, source, snapshot, roots }
    }
}

/// What the last line says.
#[derive(Debug)]
pub struct Trailer<'a> {
    /// Whether the snapshot counts as good.
    pub outcome: Outcome,
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of the archive.
    pub size: u64,
    /// The archive's SHA-256.
    pub sha256: [u8; 32],
    /// What pull and snapshot warned of.
    pub warnings: &'a Warnings,
}

/// An index being written.
#[derive(Debug)]
pub struct Index<W>(W);

impl<W: Write> Index<W> {
    /// Writes the first line.
    pub fn begin(out: W, header: &Header<'_>) -> Result<Self> {
        let mut index = Self(out);
        index.line(header)?;
        Ok(index)
    }

    /// Writes the line of one entry.
    pub fn entry(&mut self, archived: &Archived<'_>) -> Result<()> {
        let entry = archived.entry;
        let (kind, target) = match &entry.kind {
            Kind::File => ("file", None),
            Kind::Folder => ("folder", None),
            Kind::Symlink(target) => ("symlink", Some(Path::new(target))),
            Kind::Other => unreachable!("sockets, pipes and devices never get into an archive"),
        };
        let (path, path_hex) = name(&entry.path);
        let (link, link_hex) = target.map_or((None, None), name);
        self.line(&EntryLine {
            kind,
            path,
            path_hex,
            link,
            link_hex,
            size: matches!(entry.kind, Kind::File).then_some(entry.size),
            mtime: entry.mtime,
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            sha256: archived.sha256.map(|hash| hex(&hash)),
            damaged: archived.damaged,
        })
    }

    /// Writes the last line, and gives the output back, unflushed.
    pub fn end(mut self, trailer: &Trailer<'_>) -> Result<W> {
        self.line(&TrailerLine {
            outcome: trailer.outcome,
            entries: trailer.entries,
            bytes: trailer.bytes,
            archive: ArchiveLine { size: trailer.size, sha256: hex(&trailer.sha256) },
            warnings: &trailer.warnings.lines,
            more_warnings: trailer.warnings.more,
        })?;
        Ok(self.0)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).context("putting an index line into JSON")?;
        line.push(b'\n');
        self.0.write_all(&line).context("writing the index")
    }
}

#[derive(Serialize)]
struct EntryLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    mtime: u64,
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "trailer")]
struct TrailerLine<'a> {
    outcome: Outcome,
    entries: u64,
    bytes: u64,
    archive: ArchiveLine,
    warnings: &'a [String],
    more_warnings: u64,
}

#[derive(Serialize)]
struct ArchiveLine {
    size: u64,
    sha256: String,
}

/// A name as text, or else its bytes in hexadecimal.
fn name(path: &Path) -> (Option<&str>, Option<String>) {
    match path.to_str() {
        Some(text) => (Some(text), None),
        None => (None, Some(hex(path.as_os_str().as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use super::{Header, Index, Trailer};
    use crate::outcome::Outcome;
    use crate::snapshot::archive::Archived;
    use crate::snapshot::entry::{Entry, Kind};
    use crate::source::Root;
    use crate::warnings::Warnings;

    #[test]
    fn the_lines_are_those_of_the_format() {
        let roots = [Root { base: PathBuf::from("/m"), path: PathBuf::from("srv") }];
        let mut index = Index::begin(Vec::new(), &Header::new("web", "20261123T023000Z", &roots)).unwrap();
        let entry = |path: &[u8], kind, size| Entry {
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
            kind,
            size,
            mtime: 7,
            mode: 0o644,
            uid: 33,
            gid: 34,
        };
        let file = entry(b"srv/a\n", Kind::File, 5);
        index.entry(&Archived { entry: &file, sha256: Some([0xab; 32]), damaged: true }).unwrap();
        let link = entry(b"srv/\xe9", Kind::Symlink(OsString::from_vec(b"\xff".to_vec())), 0);
        index.entry(&Archived { entry: &link, sha256: None, damaged: false }).unwrap();
        let mut warnings = Warnings::default();
        warnings.push("one".into());
        let trailer = Trailer { outcome: Outcome::Partial, entries: 2, bytes: 5, size: 9, sha256: [0; 32], warnings: &warnings };
        let text = String::from_utf8(index.end(&trailer).unwrap()).unwrap();
        let expected = format!(
            "{}\n{}{}{}\n{}\n{}{}{}\n",
            r#"{"type":"header","version":1,"source":"web","snapshot":"20261123T023000Z","roots":["srv"]}"#,
            r#"{"type":"file","path":"srv/a\n","size":5,"mtime":7,"mode":"0644","uid":33,"gid":34,"sha256":""#,
            "ab".repeat(32),
            r#"","damaged":true}"#,
            r#"{"type":"symlink","path_hex":"7372762fe9","link_hex":"ff","mtime":7,"mode":"0644","uid":33,"gid":34}"#,
            r#"{"type":"trailer","outcome":"partial","entries":2,"bytes":5,"archive":{"size":9,"sha256":""#,
            "0".repeat(64),
            r#""},"warnings":["one"],"more_warnings":0}"#,
        );
        assert_eq!(text, expected);
    }
}
