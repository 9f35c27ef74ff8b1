//! What a restore makes of damage, of an index that lies, and of a stop.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Restored, restore};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::index::tests::{pack, unpack};
use crate::snapshot::{Request, create};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// A folder with a snapshot `NAME.tar.gz` of three files in `srv`.
fn snapshot(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mirror = folder.path().join("mirror");
    fs::create_dir_all(mirror.join("srv/d")).unwrap();
    for file in ["srv/a", "srv/d/b", "srv/z"] {
        fs::write(mirror.join(file), format!("{content} {file}")).unwrap();
        File::open(mirror.join(file)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    fs::set_permissions(mirror.join("srv/d"), fs::Permissions::from_mode(0o555)).unwrap();
    for folder in ["srv/d", "srv"] {
        File::open(mirror.join(folder)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let request = Request {
        source: "web",
        name,
        folder: folder.path(),
        roots: &[Root { base: mirror.clone(), path: PathBuf::from("srv") }],
        owners: &Owners::default(),
        outcome: Outcome::Complete,
        warnings: Warnings::default(),
    };
    let archive = create(request, &Stop::default(), &Progress::default()).unwrap().archive;
    (folder, archive)
}

fn restored(archive: &Path, to: &Path) -> Restored {
    restore(archive, &[], to, &Progress::default(), &Stop::default()).unwrap()
}

fn change(path: &Path, from: &str, to: &str) {
    let text = unpack(&fs::read(path).unwrap());
    assert!(text.contains(from), "{text}");
    fs::write(path, pack(&text.replacen(from, to, 1))).unwrap();
}

#[test]
fn all_is_well_and_the_summary_counts() {
    let (folder, archive) = snapshot("s", "x");
    let to = folder.path().join("to");
    let restored = restored(&archive, &to);
    restored.verdict().unwrap();
    assert_eq!(restored.summary(), format!("restored 3 files (23 bytes), 2 folders and 0 links to {}\n", to.display()));
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(to.join("srv/d")).unwrap().permissions().mode() & 0o777, 0o555);
    assert_eq!(fs::metadata(to.join("srv")).unwrap().modified().unwrap(), std::time::UNIX_EPOCH);
}

#[test]
fn an_index_that_disagrees_is_named_and_everything_is_restored() {
    let (folder, archive) = snapshot("s", "x");
    let index = folder.path().join("s.index.jsonl.zst");
    let shown = index.display().to_string();
    let good = fs::read(&index).unwrap();
    let sum = |text: &str| crate::digest::hex(&openssl::sha::sha256(text.as_bytes()));
    let archive_sum = sum_of(&archive);
    for (number, (from, to, lines)) in [
        (
            sum("x srv/d/b"),
            "0".repeat(64),
            vec!["the content of srv/d/b isn't what its index says; it is b.damaged now".to_owned()],
        ),
        (
            "\"mode\":\"0555\"".into(),
            "\"mode\":\"0755\"".into(),
            vec!["srv/d has another kind, size, target, time, mode, owner or attribute in the index".into()],
        ),
        (
            "\"path\":\"srv/d\"".into(),
            "\"path\":\"srv/e\"".into(),
            vec![format!("the index {shown} is of another archive: it has srv/e where the archive has srv/d")],
        ),
        (
            "\"path\":\"srv/d\"".into(),
            "\"path\":\"/srv\"".into(),
            vec![format!("reading the index {shown}: line 4: \"/srv\" is no name inside a snapshot")],
        ),
        (archive_sum, "0".repeat(64), vec!["the archive's SHA-256 isn't the one in its index".into()]),
        (
            "\"type\":\"trailer\"".into(),
            "\"type\":\"file\"".into(),
            vec![format!("reading the index {shown}: the last line: it isn't as it should be: missing field `mtime`")],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        change(&index, &from, &to);
        let to = folder.path().join(format!("to{number}"));
        let restored = restored(&archive, &to);
        assert_eq!(restored.trouble.lines, lines);
        let whole = if number == 0 { 2 } else { 3 };
        assert_eq!((restored.files, restored.folders), (whole, 2));
        assert_eq!(to.join("srv/d/b").exists(), number != 0);
        fs::write(&index, &good).unwrap();
    }
    let to = folder.path().join("to0");
    assert_eq!(fs::read_to_string(to.join("srv/d/b.damaged")).unwrap(), "x srv/d/b");
}

fn sum_of(path: &Path) -> String {
    crate::digest::sha256_of(path).unwrap()
}

#[test]
fn the_verdict_names_the_archive_and_every_trouble() {
    let (folder, archive) = snapshot("s", "x");
    change(&folder.path().join("s.index.jsonl.zst"), &sum_of(&archive), &"0".repeat(64));
    let error = restored(&archive, &folder.path().join("to")).verdict().unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        format!(
            "restoring {}: not everything is there or as it was archived\n  the archive's SHA-256 isn't the one in its index\n\
             hint: another snapshot may have what is named here (`vaultberry snapshot list`); behind a damaged place of the archive, \
             what is asked for by its path is read from its own place",
            archive.display()
        )
    );
}

#[test]
fn what_a_broken_archive_no_longer_has_is_named() {
    let (folder, archive) = snapshot("s", "x");
    // What gzip packs well, cut short, is still a whole tar: cut the tar, and pack it anew.
    let mut tar = Vec::new();
    std::io::copy(&mut flate2::read::MultiGzDecoder::new(File::open(&archive).unwrap()), &mut tar).unwrap();
    // srv, srv/a with its content, srv/d, srv/d/b, and 3 bytes of its content
    let mut gzip = GzEncoder::new(File::create(&archive).unwrap(), Compression::default());
    gzip.write_all(&tar[..512 * 5 + 3]).unwrap();
    gzip.finish().unwrap();
    let size = fs::metadata(&archive).unwrap().len();
    let said = unpack(&fs::read(folder.path().join("s.index.jsonl.zst")).unwrap());
    let said = said.split("\"archive\":{\"size\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let to = folder.path().join("to");
    let restored = restored(&archive, &to);
    assert_eq!(
        restored.trouble.lines,
        [
            "the content of srv/d/b was cut short; it is b.damaged now".to_owned(),
            "the archive is damaged and can't be read to its end: 6 bytes of a file are missing".to_owned(),
            "srv/z is missing".to_owned(),
            format!("the archive has {size} bytes, and its index says {said}"),
        ]
    );
    assert_eq!((restored.files, fs::read_to_string(to.join("srv/d/b.damaged")).unwrap().as_str()), (1, "x s"));
    // also the folders that were open got their modes
    assert_eq!(fs::metadata(to.join("srv/d")).unwrap().permissions().mode() & 0o777, 0o555);
}

#[test]
fn names_that_are_there_twice_or_below_a_file_are_not_restored_and_the_rest_is() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("s.tar.gz");
    let mut tar = Builder::new(GzEncoder::new(File::create(&archive).unwrap(), Compression::fast()));
    for (name, content) in [("srv/a", "first"), ("srv/a", "second"), ("srv/a/below", "x"), ("srv/b", "b")] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    let to = folder.path().join("to");
    let restored = restored(&archive, &to);
    assert_eq!(
        restored.trouble.lines,
        ["srv/a is not restored: something has this name already", "srv/a/below is not restored: Not a directory"]
    );
    assert_eq!(fs::read_to_string(to.join("srv/a")).unwrap(), "first");
    assert_eq!(fs::read_to_string(to.join("srv/b")).unwrap(), "b");
}

#[test]
fn a_stop_in_the_middle_of_a_file_leaves_no_half_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = folder.path().join("mirror");
    fs::create_dir(&mirror).unwrap();
    // Random bytes stay as many in the archive, which is read in blocks of 256 KiB.
    let mut content = vec![0; 1 << 20];
    openssl::rand::rand_bytes(&mut content).unwrap();
    fs::write(mirror.join("big"), &content).unwrap();
    let request = Request {
        source: "web",
        name: "s",
        folder: folder.path(),
        roots: &[Root { base: mirror.clone(), path: PathBuf::from("big") }],
        owners: &Owners::default(),
        outcome: Outcome::Complete,
        warnings: Warnings::default(),
    };
    let archive = create(request, &Stop::default(), &Progress::default()).unwrap().archive;
    let stop = Stop::default();
    let asked = stop.clone();
    let progress = Progress::new(move |step| {
        assert_eq!(step.doing, "restoring");
        if step.done > step.total.unwrap() / 2 {
            asked.request();
        }
    });
    let to = folder.path().join("to");
    let error = restore(&archive, &[], &to, &progress, &stop).unwrap_err();
    assert!(format!("{error:#}").ends_with("interrupted by a signal"), "{error:#}");
    assert!(!to.join("big").exists());
    let half = fs::read(to.join("big.damaged")).unwrap();
    assert!((256 << 10..1 << 20).contains(&half.len()) && content.starts_with(&half), "{}", half.len());
}
