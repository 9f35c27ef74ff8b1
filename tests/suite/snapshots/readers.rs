//! Everything that a file can be, out of a mirror as rsync makes it, through an archive, and back by four programs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use vaultberry::outcome::Outcome;

use super::{appliance, facts, keep, restore};

/// What rsync's `--fake-super` leaves of `path`.
fn disguise(path: &Path, stat: &str) {
    xattr::set(path, "user.rsync.%stat", stat.as_bytes()).unwrap();
}

/// A mirror as rsync makes it, and a name of a long one in it that isn't UTF-8.
fn mirror() -> TempDir {
    let mirror = tempfile::tempdir().unwrap();
    let srv = mirror.path().join("srv");
    fs::create_dir(&srv).unwrap();
    let file = |name: &str, content: &[u8], stat: &str| {
        let path = srv.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        disguise(&path, stat);
        path
    };
    file("owned", b"#!/bin/sh\n", "104755 0,0 4711:4712");
    file("big numbers", b"x", "100640 0,0 3000000:4000000");
    file("link", b"../owned", "120777 0,0 7:8");
    file("pipe", b"", "10644 0,0 5:6");
    file("null", b"", "20666 1,3 0:0");
    file("disk", b"", "60660 8,17 0:6");
    file("folder/inside", b"in it", "100600 0,0 0:0");
    disguise(&srv.join("folder"), "41777 0,0 4711:0");
    let first = file("one name", b"the same file", "100644 0,0 0:0");
    fs::hard_link(&first, srv.join("two names")).unwrap();
    for name in [["é".repeat(60).as_bytes(), b"/", &b"f".repeat(255)].concat(), [&b"g".repeat(120)[..], b"/\xff\xfe\n"].concat()]
    {
        let path = srv.join(OsStr::from_bytes(&name));
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(path, "a long name").unwrap();
    }

    let attributes = file("attributes", b"x", "100644 0,0 0:0");
    xattr::set(&attributes, "user.comment", b"a=b\n\0c").unwrap();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(file("capable", b"x", "100755 0,0 0:0"), "user.rsync.security.capability", &capability).unwrap();
    let list = |entries: &[u32]| entries.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let lists = file("lists", b"x", "100670 0,0 0:0");
    xattr::set(lists, "user.rsync.%aacl", &list(&[0x80, 4, 7, 0x80, 1234, 5 | 1 << 31, 77, 6])).unwrap();
    xattr::set(srv.join("folder"), "user.rsync.%dacl", &list(&[7, 5, 5, 0, 9, 5 | 1 << 31])).unwrap();

    let sparse = File::create(srv.join("sparse")).unwrap();
    for stretch in 0..30_u8 {
        sparse.write_all_at(&[stretch + 1; 5000], u64::from(stretch) << 20).unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    File::create(srv.join("a hole")).unwrap().set_len(10 << 20).unwrap();

    let at = |name: &str, time| File::open(srv.join(name)).unwrap().set_modified(time).unwrap();
    at("owned", SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789));
    at("big numbers", SystemTime::UNIX_EPOCH - Duration::new(300_000_000, 250_000_000));
    mirror
}

/// What getfattr(1), getfacl(1) and the file system say of all below `folder`: attributes, lists, and whether holes are holes.
fn attributes(folder: &Path) -> String {
    let script = "cd \"$1\"; getfattr -Rd -m '^user\\.|^security\\.cap' -e hex --absolute-names . | sort; getfacl -Rns .; \
                  find . -type f -printf '%P %n\\n' | sort";
    let said = Command::new("sh").args(["-c", script, "sh"]).arg(folder).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

fn extracted(program: &str, options: &[&str], archive: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    let ended = Command::new(program).args(options).arg(archive).arg("-C").arg(to).env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(ended.status.success(), "{program}: {ended:?}");
    to.join("srv")
}

#[test]
fn everything_comes_back_as_it_was_by_our_own_restore_by_gnu_tar_and_by_bsdtar() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("not run: only root gives files away and makes devices");
        return;
    }
    let (appliance, mirror, out) = (appliance(), mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    let run = restore(&appliance, &["web/latest"], &out.path().join("ours"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let ours = out.path().join("ours/srv");

    let seen = |name: &str| fs::symlink_metadata(ours.join(name)).unwrap();
    let owned = seen("owned");
    assert_eq!((owned.mode() & 0o7777, owned.uid(), owned.gid()), (0o4755, 4711, 4712));
    assert_eq!((owned.mtime(), owned.mtime_nsec()), (1_700_000_000, 123_456_789));
    let numbers = seen("big numbers");
    assert_eq!(
        (numbers.uid(), numbers.gid(), numbers.mtime(), numbers.mtime_nsec()),
        (3_000_000, 4_000_000, -300_000_001, 750_000_000)
    );
    assert_eq!(fs::read_link(ours.join("link")).unwrap(), Path::new("../owned"));
    assert_eq!(
        (seen("link").uid(), seen("pipe").mode(), seen("null").mode(), seen("disk").mode()),
        (7, 0o10644, 0o20666, 0o60660)
    );
    assert_eq!((seen("null").rdev(), seen("disk").rdev()), (nix::sys::stat::makedev(1, 3), nix::sys::stat::makedev(8, 17)));
    assert_eq!((seen("folder").mode() & 0o7777, seen("folder").uid()), (0o1777, 4711));
    assert_eq!(seen("one name").ino(), seen("two names").ino());
    assert!(seen("sparse").blocks() * 512 < 1 << 20 && seen("sparse").size() == 64 << 20 && seen("a hole").blocks() == 0);
    assert!(fs::read(ours.join("sparse")).unwrap() == fs::read(mirror.path().join("srv/sparse")).unwrap());
    let said = attributes(&ours);
    for part in [
        "user.comment=0x613d620a0063",
        "security.capability=0x0100000200200000000000000000000000000000",
        "user:1234:r-x",
        "group:77:rw-",
        "default:user:9:r-x",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    let gnu = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpzf"];
    let gnu = extracted("tar", &gnu, &archive, &out.path().join("gnu"));
    assert_eq!(facts(&gnu), facts(&ours));
    assert_eq!(attributes(&gnu), said);
    assert!(fs::metadata(gnu.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    let bsd = extracted("bsdtar", &["--xattrs", "--acls", "--numeric-owner", "-xpf"], &archive, &out.path().join("bsd"));
    // libarchive takes half a second before a time before 1970 for half a second after it.
    let known =
        |folder: &Path| facts(folder).into_iter().filter(|fact| !fact.as_bytes().starts_with(b"big numbers")).collect::<Vec<_>>();
    assert_eq!(known(&bsd), known(&ours));
    assert_eq!(attributes(&bsd), said);
    assert!(fs::metadata(bsd.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn seven_zip_unpacks_every_content() {
    let (appliance, mirror, out) = (appliance(), mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    let script = "cd \"$1\" && 7z x -y -bd \"$2\" >/dev/null && 7z x -y -bd *.tar";
    let ended =
        Command::new("sh").args(["-c", script, "sh"]).arg(out.path()).arg(&archive).env("LC_ALL", "C.UTF-8").output().unwrap();
    // It warns of attributes that aren't text, and makes no link that leads upwards.
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.code().is_some_and(|code| code <= 2), "{said} {ended:?}");
    for name in ["owned", "big numbers", "folder/inside", "one name", "two names", "sparse", "a hole", "attributes"] {
        let there = fs::read(out.path().join("srv").join(name));
        assert!(
            there.unwrap_or_else(|error| panic!("{name}: {error} {said}"))
                == fs::read(mirror.path().join("srv").join(name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_part_comes_with_its_own_content_though_that_stands_under_another_name() {
    let (appliance, mirror, out) = (appliance(), mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    // Only what is needed is read: all before it may be gone.
    let place = crate::support::appliance::index(&archive).into_iter().find(|line| line["path"] == "srv/one name").unwrap();
    assert!(place["block"].is_u64() && place["skip"].as_u64().unwrap() > 0, "{place}");
    let to = out.path().join("to");
    let run = restore(&appliance, &["web/latest", "/srv/two names", "/srv/sparse"], &to);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(fs::read_to_string(to.join("srv/two names")).unwrap(), "the same file");
    assert!(!to.join("srv/one name").exists());
    assert!(fs::read(to.join("srv/sparse")).unwrap() == fs::read(mirror.path().join("srv/sparse")).unwrap());
}

/// A thing in a made-up tree: its name, what it is, and how long or which mode.
#[derive(Clone, Debug)]
struct Thing {
    name: Vec<u8>,
    kind: u8,
    size: usize,
    mode: u32,
    time: i64,
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    // Few letters, so that names meet; what is hard to write among them.
    let letter =
        prop_oneof![Just(b'a'), Just(b'-'), Just(b'.'), Just(b' '), Just(b'\n'), Just(0x1b), Just(0xe9), Just(0xff), Just(b'\'')];
    let name = vec(letter, 1..3).prop_flat_map(|begin| {
        prop_oneof![4 => Just(0_usize), 1 => 90..120_usize, 1 => 200..250_usize]
            .prop_map(move |more| [begin.clone(), vec![b'x'; more]].concat())
    });
    let size = prop_oneof![Just(0_usize), 1..2000_usize, Just(512), Just(1 << 20), 100_000..2_000_000_usize];
    let thing = (name, 0..8_u8, size, 0..0o7777_u32, -1_000_000..2_000_000_000_i64);
    vec(thing.prop_map(|(name, kind, size, mode, time)| Thing { name, kind, size, mode, time }), 1..25)
}

/// Makes them below `folder`, each in the last folder that was made; what can't be is left out.
fn make(folder: &Path, things: &[Thing]) {
    let mut inside = folder.to_owned();
    let mut first = None;
    for Thing { name, kind, size, mode, time } in things {
        if matches!(name.as_slice(), b"." | b"..") {
            continue;
        }
        let path = inside.join(OsStr::from_bytes(name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match kind {
            0 => {
                fs::create_dir(&path).unwrap();
                inside = path;
                continue;
            }
            1 => inside.clone_from(&folder.to_owned()),
            2 => symlink(OsStr::from_bytes(name), &path).unwrap(),
            3 if first.is_some() => fs::hard_link(first.as_ref().unwrap(), &path).unwrap(),
            4 => File::create(&path).unwrap().set_len(*size as u64).unwrap(),
            _ => fs::write(&path, name.repeat(size / name.len())).unwrap(),
        }
        if *kind >= 4 {
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode | 0o400)).unwrap();
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::new(time.unsigned_abs(), 987_654_321)).unwrap();
            File::open(&path).unwrap().set_modified(time).unwrap();
            first = Some(path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_by_gnu_tar_and_by_our_own_restore(things in things()) {
        let (appliance, mirror, out) = (appliance(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let srv = mirror.path().join("srv");
        fs::create_dir(&srv).unwrap();
        make(&srv, &things);
        let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
        let gnu = extracted("tar", &["--numeric-owner", "-xpzf"], &archive, &out.path().join("gnu"));
        let run = restore(&appliance, &["web/latest"], &out.path().join("ours"));
        prop_assert_eq!(run.code, Some(0), "{:?}", run);
        for restored in [gnu, out.path().join("ours/srv")] {
            prop_assert_eq!(facts(&restored), facts(&srv));
            super::assert_same(&restored, &srv);
        }
    }
}
