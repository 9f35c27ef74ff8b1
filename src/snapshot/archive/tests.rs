//! What GNU tar and our own reading make of an archive.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{Archived, Written, write};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::stop::Stop;

fn archive(mirror: &Path) -> (Vec<u8>, Written, Vec<String>) {
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    let root = Root { base: mirror.to_owned(), path: PathBuf::from("srv") };
    let mut each = |_, archived: &Archived| {
        seen.push(super::shown(&archived.entry.path));
        Ok(())
    };
    let written = write(&mut out, &[root], &Owners::default(), 2, &Stop::default(), &mut each).unwrap();
    (out, written, seen)
}

fn odd_mirror(mirror: &Path) {
    let srv = mirror.join("srv");
    // A name of more than 100 bytes whose hundredth falls inside `..`, and that isn't UTF-8.
    let long = [&b"d".repeat(94)[..], b"/..hidden\xff".as_slice()].concat();
    fs::create_dir_all(srv.join(OsStr::from_bytes(&long))).unwrap();
    fs::write(srv.join(OsStr::from_bytes(b"new\nline \xe9")), "odd").unwrap();
    fs::write(srv.join("-rf"), vec![7; 100_000]).unwrap();
    fs::write(srv.join("empty"), "").unwrap();
    // Targets are kept byte for byte, dangling, doubled slashes and all, also beyond a header's 100 bytes.
    symlink("a//b/./c/", srv.join("link")).unwrap();
    symlink("../".repeat(60) + "x//y/", srv.join("long link")).unwrap();
    symlink("/etc", srv.join("etc")).unwrap();
    fs::set_permissions(srv.join("empty"), fs::Permissions::from_mode(0o2751)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(981_173_106);
    File::open(srv.join("-rf")).unwrap().set_modified(old).unwrap();
}

#[test]
fn gnu_tar_gives_back_every_odd_thing() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = folder.path().join("mirror");
    odd_mirror(&mirror);
    let (bytes, written, _) = archive(&mirror);
    assert!(!written.damaged && written.warnings.lines.is_empty(), "{written:?}");
    assert_eq!((written.entries, written.bytes), (9, 100_003));
    let file = folder.path().join("a.tar.gz");
    fs::write(&file, &bytes).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    assert!(Command::new("tar").arg("-xzpf").arg(&file).arg("-C").arg(&out).status().unwrap().success());
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).arg(&mirror).arg(&out).output().unwrap();
    assert!(diff.status.success(), "{diff:?}");
    assert_eq!(fs::metadata(out.join("srv/empty")).unwrap().permissions().mode() & 0o7777, 0o2751);
    let times = [&mirror, &out].map(|side| fs::metadata(side.join("srv/-rf")).unwrap().modified().unwrap());
    assert_eq!(times[0], times[1]);
    assert_eq!(written.archive.size, bytes.len() as u64);
    assert_eq!(written.archive.sha256, openssl::sha::sha256(&bytes));
}

#[test]
fn the_same_mirror_makes_the_same_bytes_in_byte_order() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["srv/b/x", "srv/a", "srv/B", "srv/b-1"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let (first, _, order) = archive(folder.path());
    assert_eq!(order, ["srv", "srv/B", "srv/a", "srv/b", "srv/b/x", "srv/b-1"]);
    assert_eq!(first, archive(folder.path()).0);
}

#[test]
fn sockets_are_left_out_and_missing_roots_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("srv")).unwrap();
    let _socket = UnixListener::bind(folder.path().join("srv/sock\x1b")).unwrap();
    let (_, written, _) = archive(folder.path());
    assert_eq!(written.warnings.lines, ["srv/sock\\u{1b} is a socket and left out"]);
    assert!(!written.damaged);

    let empty = tempfile::tempdir().unwrap();
    let (_, written, _) = archive(empty.path());
    assert!(written.damaged);
    assert_eq!(written.warnings.lines, ["srv is not in the snapshot: reading it from the mirror: No such file or directory"]);
}
