//! The index of a snapshot: what is in its archive, readable with `zstdgrep` and `zstd -dc | jq`, without unpacking anything.
//!
//! One JSON object a line, UTF-8, told apart by `type`:
//!
//! ```text
//! {"type":"header","version":2,"level":0,"source":"web","snapshot":"20261123T023000Z","roots":["srv/www"]}
//! {"type":"folder","path":"srv/www","mtime":1795400000,"mode":"0755","uid":33,"gid":33,"block":0,"skip":0}
//! {"type":"file","path":"srv/www/a","size":5,"mtime":…,"mtime_ns":120,"mode":"0644","uid":33,"gid":33,"sha256":"…",…}
//! {"type":"symlink","path_hex":"7372762f7777772fe9","link":"a","mtime":…,"mode":"0777","uid":33,"gid":33,…}
//! {"type":"hardlink","path":"srv/www/b","link":"srv/www/a","mtime":…,"mode":"0644","uid":33,"gid":33,…}
//! {"type":"chardevice","path":"srv/null","device":"1:3","mtime":…,"mode":"0666","uid":0,"gid":0,…}
//! {"type":"trailer","outcome":"complete","entries":3,"bytes":5,"archive":{"size":312,"sha256":"…"},"warnings":[…],"more_warnings":0}
//! ```
//!
//! - The order is the archive's. Names are relative to the server's root, as in the archive.
//! - A name or a link's target that isn't UTF-8 stands as `path_hex` or `link_hex` instead: its bytes in hexadecimal. So
//!   no name is changed, and every line is valid JSON. (`roots` come from the configuration, which is UTF-8.)
//! - `mtime` is in seconds since 1970, rounded down, and `mtime_ns` the nanoseconds to be added, where there are any; `mode` is
//!   octal; `user` and `group` are the owners' names, where they are known; `sha256` is of the file's bytes in the archive: of a sparse file
//!   (`"sparse":true`) without its holes. `device` is major and minor number of a `chardevice` or `blockdevice`; a `fifo` has none.
//! - `block` and `skip` say where the entry begins in the archive: at the gzip member whose first byte has the offset `block`,
//!   after `skip` bytes of what it unpacks to. So one file can be had without reading all before it.
//! - `extras` is a SHA-256 of the extended attributes and access control lists, of entries that have any.
//! - `level` 0 is a snapshot that needs no other. There is nothing else yet; a reader refuses what it doesn't know.
//! - `"damaged":true` marks a file whose content isn't what the mirror held; the snapshot is then `partial`.
//! - An index without its trailer was cut short and means nothing. `outcome` is `complete` or `partial`.
//!
//! All of it is compressed with zstd (RFC 8878). The trailer is a frame of its own; behind it stands a skippable frame (section
//! 3.1.2) with that frame's length, 8 bytes, little endian. So the last line can be had without reading all before it.
//!
//! This file writes it; [`read`] reads it.

pub mod read;

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use zstd::stream::write::Encoder;

use crate::digest::hex;
use crate::outcome::Outcome;
use crate::snapshot::archive::Archived;
use crate::snapshot::entry::{Device, Kind};
use crate::snapshot::gzip::Place;
use crate::source::Root;
use crate::source::owners::Owners;
use crate::warnings::Warnings;

/// The version of the format above.
const VERSION: u32 = 2;

/// How hard zstd tries: its own default.
const COMPRESSION: i32 = 3;

/// What the skippable frame at the end begins with, little endian: its magic number, and the length of its content.
const FOOTER: [u32; 2] = [0x184D_2A50, 8];

/// Bytes of that frame.
const FOOTER_LENGTH: usize = 16;

/// The first line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "header")]
pub struct Header<'a> {
    version: u32,
    level: u32,
    source: &'a str,
    snapshot: &'a str,
    roots: Vec<String>,
}

impl<'a> Header<'a> {
    /// The header of the snapshot `snapshot` of `source`.
    pub fn new(source: &'a str, snapshot: &'a str, roots: &[Root]) -> Self {
        let roots = roots.iter().map(|root| root.path.to_string_lossy().into_owned()).collect();
        Self { version: VERSION, level: 0, source, snapshot, roots }
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
pub struct Index<'a, W: Write> {
    out: Encoder<'static, W>,
    owners: &'a Owners,
}

impl<'a, W: Write> Index<'a, W> {
    /// Writes the first line. `owners`: the names to give to owners' numbers.
    pub fn begin(out: W, header: &Header<'_>, owners: &'a Owners) -> Result<Self> {
        let mut index = Self { out: encoder(out)?, owners };
        index.out.write_all(&line(header)?).context("writing the index")?;
        Ok(index)
    }

    /// Writes the line of one entry.
    pub fn entry(&mut self, place: Place, archived: &Archived) -> Result<()> {
        let entry = &archived.entry;
        let (kind, target, device) = match &entry.kind {
            Kind::File => ("file", None, None),
            Kind::Folder => ("folder", None, None),
            Kind::Symlink(target) => ("symlink", Some(Path::new(target)), None),
            Kind::Hardlink(first) => ("hardlink", Some(first.as_path()), None),
            Kind::Fifo => ("fifo", None, None),
            Kind::CharDevice(device) => ("chardevice", None, Some(device)),
            Kind::BlockDevice(device) => ("blockdevice", None, Some(device)),
            Kind::Socket => unreachable!("sockets never get into an archive"),
        };
        let (path, path_hex) = name(&entry.path);
        let (link, link_hex) = target.map_or((None, None), name);
        let json = line(&EntryLine {
            kind,
            path,
            path_hex,
            link,
            link_hex,
            size: matches!(entry.kind, Kind::File).then_some(entry.size),
            sparse: archived.sparse,
            device: device.map(|Device { major, minor }| format!("{major}:{minor}")),
            mtime: entry.mtime.seconds,
            mtime_ns: entry.mtime.nanoseconds,
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            user: self.owners.users.get(&entry.uid).map(String::as_str),
            group: self.owners.groups.get(&entry.gid).map(String::as_str),
            sha256: archived.sha256.map(|hash| hex(&hash)),
            extras: entry.extras.sha256().map(|hash| hex(&hash)),
            damaged: archived.damaged,
            block: place.block,
            skip: place.skip,
        })?;
        self.out.write_all(&json).context("writing the index")
    }

    /// Writes the last line, and gives the output back, unflushed.
    pub fn end(self, trailer: &Trailer<'_>) -> Result<W> {
        let line = line(&TrailerLine {
            outcome: trailer.outcome,
            entries: trailer.entries,
            bytes: trailer.bytes,
            archive: ArchiveLine { size: trailer.size, sha256: hex(&trailer.sha256) },
            warnings: &trailer.warnings.lines,
            more_warnings: trailer.warnings.more,
        })?;
        let mut out = self.out.finish().context("writing the index")?;
        out.write_all(&end_of(&line)?).context("writing the index")?;
        Ok(out)
    }
}

/// The frame of the last line, and the one that tells its length.
fn end_of(line: &[u8]) -> Result<Vec<u8>> {
    let mut frame = encoder(Vec::new())?;
    frame.write_all(line).context("compressing the index")?;
    let mut end = frame.finish().context("compressing the index")?;
    let length = end.len() as u64;
    for word in FOOTER {
        end.extend(word.to_le_bytes());
    }
    end.extend(length.to_le_bytes());
    Ok(end)
}

fn encoder<W: Write>(out: W) -> Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(out, COMPRESSION).context("compressing the index")?;
    encoder.include_checksum(true).context("compressing the index")?;
    Ok(encoder)
}

fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).context("putting an index line into JSON")?;
    line.push(b'\n');
    Ok(line)
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    mtime: i64,
    #[serde(skip_serializing_if = "is_zero")]
    mtime_ns: u32,
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extras: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    block: u64,
    skip: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
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
pub(super) mod tests {
    use std::ffi::OsString;
    use std::io::Write;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use super::{Header, Index, Trailer, encoder, end_of};
    use crate::outcome::Outcome;
    use crate::snapshot::archive::Archived;
    use crate::snapshot::entry::{Device, Entry, Extras, Kind, Time};
    use crate::snapshot::gzip::Place;
    use crate::source::Root;
    use crate::source::owners::Owners;
    use crate::warnings::Warnings;

    /// The lines of `text` as an index is on the disk.
    pub fn pack(text: &str) -> Vec<u8> {
        let begin = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        let mut lines = encoder(Vec::new()).unwrap();
        lines.write_all(&text.as_bytes()[..begin]).unwrap();
        [lines.finish().unwrap(), end_of(&text.as_bytes()[begin..]).unwrap()].concat()
    }

    /// The lines of an index.
    pub fn unpack(bytes: &[u8]) -> String {
        String::from_utf8(zstd::decode_all(bytes).unwrap()).unwrap()
    }

    #[test]
    fn the_lines_are_those_of_the_format() {
        let roots = [Root { base: PathBuf::from("/m"), path: PathBuf::from("srv") }];
        let owners = Owners { users: [(33, "www".into())].into(), ..Owners::default() };
        let mut index = Index::begin(Vec::new(), &Header::new("web", "20261123T023000Z", &roots), &owners).unwrap();
        let entry = |path: &[u8], kind, size| Entry {
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
            kind,
            size,
            mtime: Time { seconds: 7, nanoseconds: 90 },
            mode: 0o644,
            uid: 33,
            gid: 34,
            extras: Extras::default(),
        };
        let file = entry(b"srv/a\n", Kind::File, 5);
        let place = Place { block: 512, skip: 3 };
        index.entry(place, &Archived { entry: file, sha256: Some([0xab; 32]), sparse: true, damaged: true }).unwrap();
        let bare = |entry| Archived { entry, sha256: None, sparse: false, damaged: false };
        let mut link = entry(b"srv/\xe9", Kind::Symlink(OsString::from_vec(b"\xff".to_vec())), 0);
        (link.uid, link.mtime) = (0, Time::seconds(-7));
        index.entry(place, &bare(link)).unwrap();
        index.entry(place, &bare(entry(b"srv/null", Kind::CharDevice(Device { major: 1, minor: 3 }), 0))).unwrap();
        let mut warnings = Warnings::default();
        warnings.push("one".into());
        let trailer = Trailer { outcome: Outcome::Partial, entries: 3, bytes: 5, size: 9, sha256: [0; 32], warnings: &warnings };
        let bytes = index.end(&trailer).unwrap();
        let text = unpack(&bytes);
        assert_eq!(pack(&text), bytes);
        let expected = [
            r#"{"type":"header","version":2,"level":0,"source":"web","snapshot":"20261123T023000Z","roots":["srv"]}"#.to_owned(),
            format!(
                "{}{}{}",
                r#"{"type":"file","path":"srv/a\n","size":5,"sparse":true,"mtime":7,"mtime_ns":90,"mode":"0644","uid":33,"gid":34,"user":"www","sha256":""#,
                "ab".repeat(32),
                r#"","damaged":true,"block":512,"skip":3}"#,
            ),
            r#"{"type":"symlink","path_hex":"7372762fe9","link_hex":"ff","mtime":-7,"mode":"0644","uid":0,"gid":34,"block":512,"skip":3}"#.to_owned(),
            r#"{"type":"chardevice","path":"srv/null","device":"1:3","mtime":7,"mtime_ns":90,"mode":"0644","uid":33,"gid":34,"user":"www","block":512,"skip":3}"#.to_owned(),
            format!(
                "{}{}{}",
                r#"{"type":"trailer","outcome":"partial","entries":3,"bytes":5,"archive":{"size":9,"sha256":""#,
                "0".repeat(64),
                r#""},"warnings":["one"],"more_warnings":0}"#,
            ),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        // The frame of the trailer, then the one that tells its length.
        let (frame, footer) = bytes.split_at(bytes.len() - 16);
        let length = usize::try_from(u64::from_le_bytes(footer[8..].try_into().unwrap())).unwrap();
        let last = zstd::decode_all(&frame[frame.len() - length..]).unwrap();
        assert_eq!(String::from_utf8(last).unwrap().trim_end(), expected[4]);
    }
}
