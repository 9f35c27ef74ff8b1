//! What is written is read back, and what is damaged is named.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Indexed, Reader, trailer};
use crate::digest::Sum;
use crate::outcome::Outcome;
use crate::snapshot::archive::Archived;
use crate::snapshot::entry::{Device, Entry, Extras, Kind, Time};
use crate::snapshot::gzip::Place;
use crate::snapshot::index::tests::{pack, unpack};
use crate::snapshot::index::{self, Header, Index};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::warnings::Warnings;

fn entry(path: &[u8], kind: Kind, size: u64) -> Entry {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    Entry { path, kind, size, mtime: Time::seconds(7), mode: 0o4755, uid: 33, gid: 34, extras: Extras::default() }
}

fn indexed(path: &[u8], kind: Kind, size: u64) -> Indexed {
    let place = Place { block: 9, skip: 1024 };
    let sha256 = (kind == Kind::File).then_some([0xab; 32]);
    Indexed { entry: entry(path, kind, size), sha256, sparse: false, extras: None, damaged: sha256.is_some(), place }
}

fn entries() -> [Indexed; 5] {
    [
        indexed(b"srv", Kind::Folder, 0),
        indexed(b"srv/a\n\xe9", Kind::File, 5),
        indexed(b"srv/l", Kind::Symlink(OsString::from_vec(b"/\xff".to_vec())), 0),
        indexed(b"srv/h", Kind::Hardlink(PathBuf::from("srv/b")), 0),
        indexed(b"srv/n", Kind::BlockDevice(Device { major: 8, minor: 1 }), 0),
    ]
}

fn written(warnings: &Warnings) -> Vec<u8> {
    let owners = Owners::default();
    let mut index = Index::begin(
        Vec::new(),
        &Header::new("web", "20261123T023000Z", &[Root { base: PathBuf::from("/m"), path: PathBuf::from("srv") }]),
        &owners,
    )
    .unwrap();
    for Indexed { entry, sha256, sparse, damaged, place, .. } in entries() {
        index.entry(place, &Archived { entry, sha256, sparse, damaged }).unwrap();
    }
    let trailer = index::Trailer { outcome: Outcome::Partial, entries: 5, bytes: 5, size: 9, sha256: [1; 32], warnings };
    index.end(&trailer).unwrap()
}

/// All entries, or the error.
fn read(bytes: &[u8]) -> Result<Vec<Indexed>, String> {
    let mut reader = Reader::new(bytes, Path::new("i")).map_err(|error| format!("{error:#}"))?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry().map_err(|error| format!("{error:#}"))? {
        entries.push(entry);
    }
    assert!(reader.trailer().is_some());
    Ok(entries)
}

#[test]
fn what_was_written_is_read_back() {
    let mut warnings = Warnings::default();
    warnings.push("one".into());
    let bytes = written(&warnings);
    let text = unpack(&bytes);
    let mut reader = Reader::new(text.as_bytes(), Path::new("i")).unwrap();
    let header = reader.header();
    assert_eq!(
        (header.source.as_str(), header.snapshot.as_str(), header.roots.as_slice()),
        ("web", "20261123T023000Z", ["srv".to_owned()].as_slice())
    );
    for expected in entries() {
        assert!(reader.trailer().is_none());
        assert_eq!(reader.entry().unwrap(), Some(expected));
    }
    assert_eq!((reader.entry().unwrap(), reader.entry().unwrap()), (None, None));
    let end = reader.trailer().unwrap();
    assert_eq!((end.outcome, end.entries, end.bytes), (Outcome::Partial, 5, 5));
    assert_eq!((end.archive, &end.warnings), (Sum { size: 9, sha256: [1; 32] }, &warnings));
}

#[test]
fn the_last_line_is_found_from_the_end_however_long_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i");
    for length in [0, 20_000, 30_000, 300_000] {
        let mut warnings = Warnings::default();
        warnings.push("w".repeat(length));
        fs::write(&path, written(&warnings)).unwrap();
        assert_eq!(trailer(&path).unwrap().warnings, warnings, "{length}");
    }
}

#[test]
fn a_trailer_that_is_not_there_is_named_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i");
    let bytes = written(&Warnings::default());
    let text = unpack(&bytes);
    let header = text.split_inclusive('\n').next().unwrap();
    let end = "it has no end: the index was cut short";
    let mut far = bytes.clone();
    let length = far.len() - 8;
    far[length..].copy_from_slice(&u64::MAX.to_le_bytes());
    for (content, expected) in [
        (Vec::new(), end),
        (bytes[..bytes.len() - 1].to_vec(), end),
        (text.clone().into_bytes(), end),
        (far, end),
        (pack(header), "it is no trailer: the index was cut short"),
        (pack(&format!("{text}x\n")), "it isn't as it should be: expected value at column 1"),
        (pack(&" ".repeat(5 << 20)), "it is longer than 4194304 bytes"),
        (pack(text.trim_end()), "the index was cut short here"),
    ] {
        fs::write(&path, content).unwrap();
        assert_eq!(
            format!("{:#}", trailer(&path).unwrap_err()),
            format!("reading the index {}: the last line: {expected}", path.display())
        );
    }
}

#[test]
fn every_damage_is_named_with_its_line() {
    let text = unpack(&written(&Warnings::default()));
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let long = format!("{}\"{}\"", text.lines().next().unwrap(), "x".repeat(4 << 20));
    for (content, expected) in [
        (String::new(), "line 1: the index was cut short here"),
        (
            change("\"level\":0", "\"level\":1"),
            "line 1: the snapshot is an incremental one, of level 1, which this vaultberry doesn't read\nhint: a newer one does",
        ),
        (
            change("\"version\":2", "\"version\":3"),
            "line 1: the index has version 3, and this vaultberry reads version 2\nhint: a newer vaultberry may read it; GNU tar restores the archive without it",
        ),
        (text.split_inclusive('\n').skip(1).collect(), "line 1: it is no header"),
        (long, "line 1: it is longer than 4194304 bytes"),
        (change("\"path\":\"srv\"", "\"path\":\"srv/..\""), "line 2: \"srv/..\" is no name inside a snapshot"),
        (change("\"path\":\"srv\"", "\"path\":\"/srv\""), "line 2: \"/srv\" is no name inside a snapshot"),
        (change("\"path\":\"srv\",", ""), "line 2: it needs one of path and path_hex"),
        (change("4755", "10000"), "line 2: its mode is none"),
        (change("\"size\":5,", ""), "line 3: a file has a size and a sum, and nothing else has"),
        (change("abab", "abxx"), "line 3: its sha256 is none"),
        (change("\"link_hex\":\"2fff\"", "\"link_hex\":\"2ff\""), "line 4: its link_hex is not hexadecimal"),
        (
            change("\"type\":\"symlink\"", "\"type\":\"\u{9b}\""),
            "line 4: it isn't as it should be: unknown variant `\\u{9b}`, expected one of `header`, `file`, `folder`, `symlink`, `hardlink`, `fifo`, `chardevice`, `blockdevice`, `trailer` at column 12",
        ),
        (change("\"link\":\"srv/b\"", "\"link\":\"../b\""), "line 5: it is a link out of the snapshot, to \"../b\""),
        (change("\"device\":\"8:1\"", "\"device\":\"8\""), "line 6: its device is none"),
        (change("\"skip\":1024", "\"skip\":1048576"), "line 2: its time or its place is none"),
        (change("\"entries\":5", "\"entries\":4"), "line 7: the trailer counts 4 entries, and there are 5"),
        (change("\"partial\"", "\"failed\""), "line 7: no snapshot is failed"),
        (text.clone() + "\n", "line 7: something follows the trailer"),
        (text.split_inclusive('\n').take(6).collect(), "line 7: the index was cut short here"),
        (text.trim_end().to_owned(), "line 7: the index was cut short here"),
    ] {
        assert_eq!(read(content.as_bytes()).unwrap_err(), format!("reading the index i: {expected}"));
    }
    assert_eq!(read(text.as_bytes()).unwrap().len(), 5);
}
