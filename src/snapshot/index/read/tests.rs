//! What is written is read back, and what is damaged is named.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Indexed, Reader, trailer};
use crate::digest::Sum;
use crate::outcome::Outcome;
use crate::snapshot::archive::Archived;
use crate::snapshot::entry::{Entry, Kind};
use crate::snapshot::index::{self, Header, Index};
use crate::source::Root;
use crate::warnings::Warnings;

fn entry(path: &[u8], kind: Kind, size: u64) -> Entry {
    Entry { path: PathBuf::from(OsString::from_vec(path.to_vec())), kind, size, mtime: 7, mode: 0o4755, uid: 33, gid: 34 }
}

fn entries() -> [Indexed; 3] {
    [
        Indexed { entry: entry(b"srv", Kind::Folder, 0), sha256: None, damaged: false },
        Indexed { entry: entry(b"srv/a\n\xe9", Kind::File, 5), sha256: Some([0xab; 32]), damaged: true },
        Indexed { entry: entry(b"srv/l", Kind::Symlink(OsString::from_vec(b"/\xff".to_vec())), 0), sha256: None, damaged: false },
    ]
}

fn written(warnings: &Warnings) -> Vec<u8> {
    let mut index = Index::begin(
        Vec::new(),
        &Header::new("web", "20261123T023000Z", &[Root { base: PathBuf::from("/m"), path: PathBuf::from("srv") }]),
    )
    .unwrap();
    for Indexed { entry, sha256, damaged } in &entries() {
        index.entry(&Archived { entry, sha256: *sha256, damaged: *damaged }).unwrap();
    }
    let trailer = index::Trailer { outcome: Outcome::Partial, entries: 3, bytes: 5, size: 9, sha256: [1; 32], warnings };
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
    let mut reader = Reader::new(bytes.as_slice(), Path::new("i")).unwrap();
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
    assert_eq!((end.outcome, end.entries, end.bytes), (Outcome::Partial, 3, 5));
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
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').collect::<Vec<_>>();
    for (content, expected) in [
        (b"".as_slice(), "it has no end: the index was cut short"),
        (&bytes[..bytes.len() - 1], "it has no end: the index was cut short"),
        (&whole[..4].concat(), "it is no trailer: the index was cut short"),
        (&b"x".repeat(5 << 20), "it has no end: the index was cut short"),
        (&[&b"x".repeat(5 << 20)[..], b"\n"].concat(), "it isn't as it should be: expected value at column 1"),
        (&[&b"x".repeat(20 << 20)[..], b"\n"].concat(), "it is longer than 4194304 bytes"),
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
    let text = String::from_utf8(written(&Warnings::default())).unwrap();
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let long = format!("{}\"{}\"", text.lines().next().unwrap(), "x".repeat(4 << 20));
    for (content, expected) in [
        (String::new(), "line 1: the index was cut short here"),
        (
            change("\"version\":1", "\"version\":2"),
            "line 1: the index has version 2, and this vaultberry reads version 1\nhint: a newer vaultberry may read it; GNU tar restores the archive without it",
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
            "line 4: it isn't as it should be: unknown variant `\\u{9b}`, expected one of `header`, `file`, `folder`, `symlink`, `trailer` at column 12",
        ),
        (change("\"entries\":3", "\"entries\":4"), "line 5: the trailer counts 4 entries, and there are 3"),
        (change("\"partial\"", "\"failed\""), "line 5: no snapshot is failed"),
        (text.clone() + "\n", "line 5: something follows the trailer"),
        (text.split_inclusive('\n').take(4).collect(), "line 5: the index was cut short here"),
        (text.trim_end().to_owned(), "line 5: the index was cut short here"),
    ] {
        assert_eq!(read(content.as_bytes()).unwrap_err(), format!("reading the index i: {expected}"));
    }
    assert_eq!(read(text.as_bytes()).unwrap().len(), 3);
}
