//! What comes into a mirror, what goes from it, and what the mirror guard keeps there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::unistd::Uid;

use crate::support::appliance::{Appliance, Run, index, names};
use crate::support::peer::Peer;

fn pair() -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    appliance.pull_from("web", &peer);
    (appliance, peer)
}

/// Where the server's data stand in the mirror.
fn mirror(appliance: &Appliance, peer: &Peer) -> PathBuf {
    appliance.backup("current/web/files").join(peer.data().strip_prefix("/").unwrap())
}

fn files(peer: &Peer, numbers: std::ops::Range<u32>) {
    numbers.for_each(|number| drop(peer.write(format!("many/{number}"), "x")));
}

fn accepting(appliance: &Appliance, source: &str) -> Run {
    Run::of(appliance.command(&["backup", "run", "--accept-deletions", source]).output().unwrap())
}

#[test]
fn too_many_deletions_are_refused_until_they_are_accepted_once() {
    let (appliance, peer) = pair();
    files(&peer, 0..40);
    assert_eq!(appliance.run().code, Some(0));
    for number in 0..15 {
        fs::remove_file(peer.data().join(format!("many/{number}"))).unwrap();
    }
    peer.write("new", "new");
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    let shown = peer.data().display().to_string();
    let refused =
        format!("{shown}: nothing was deleted in the mirror: 15 of its 40 files are gone on the server, which is more than 20 %");
    assert!(run.stdout.contains("web  partial") && run.stdout.contains(&refused), "{}", run.stdout);
    assert!(run.stdout.contains("--accept-deletions web"), "{}", run.stdout);
    // All else came.
    assert_eq!(names(&mirror(&appliance, &peer).join("many")).len(), 40);
    assert_eq!(names(&mirror(&appliance, &peer)), ["many", "new"]);
    let rehearsed = Run::of(appliance.command(&["backup", "run", "--dry-run"]).output().unwrap());
    assert!(rehearsed.code == Some(3) && rehearsed.stdout.contains("nothing would be deleted: 15 of"), "{rehearsed:?}");

    let unknown = accepting(&appliance, "wbe");
    assert_eq!(unknown.stderr, "error: accepting what seems wrong: there is no source wbe\nhint: there are web\n");
    let run = accepting(&appliance, "web");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(names(&mirror(&appliance, &peer).join("many")).len(), 25);
}

#[test]
fn a_share_is_counted_in_files_and_a_folder_that_became_a_file_is_guarded_too() {
    let (mut appliance, peer) = pair();
    // As many folders as files: counted together, a third would look like less.
    (0..60).for_each(|number| drop(peer.write(format!("many/{number}/file"), "x")));
    peer.write("sentinel", "");
    assert_eq!(appliance.run().code, Some(0));
    (0..20).for_each(|number| fs::remove_dir_all(peer.data().join(format!("many/{number}"))).unwrap());
    let run = appliance.run();
    assert!(run.code == Some(3) && run.stdout.contains("20 of its 61 files are gone on the server"), "{run:?}");
    assert_eq!(accepting(&appliance, "web").code, Some(0));

    let aside = peer.data().with_file_name("aside");
    fs::rename(peer.data(), &aside).unwrap();
    fs::write(peer.data(), "").unwrap();
    let run = appliance.run();
    assert!(run.code == Some(3) && run.stdout.contains("is a file on the server and was a folder, which stays"), "{run:?}");
    assert_eq!(names(&mirror(&appliance, &peer).join("many")).len(), 40);
    let rehearsed = appliance.rehearse();
    assert!(
        rehearsed.outcome == "partial" && rehearsed.lines.concat().contains("nothing would be deleted: 41 of"),
        "{rehearsed:?}"
    );
    appliance.source_settings(&format!("sentinels = [{:?}]", peer.data().join("sentinel")));
    let run = accepting(&appliance, "web");
    assert!(run.code == Some(3) && run.stdout.contains("a sentinel is not on the server"), "{run:?}");
    assert_eq!(names(&mirror(&appliance, &peer).join("many")).len(), 40);
    fs::remove_file(peer.data()).unwrap();
    fs::rename(aside, peer.data()).unwrap();
    assert_eq!(appliance.run().code, Some(0));
}

#[test]
fn what_the_configuration_names_no_more_goes_from_the_mirror_after_a_good_night() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("one/file", "1");
    peer.write("two/file", "2");
    let folder = |name: &str| peer.data().join(name);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[&folder("one"), &folder("two")]);
    assert_eq!(appliance.run().code, Some(0));
    appliance.instead(&format!(", {:?}", folder("two")), "");
    assert_eq!(appliance.run().code, Some(0));
    assert_eq!(names(&mirror(&appliance, &peer)), ["one"]);
}

#[test]
fn an_empty_source_and_a_missing_sentinel_delete_nothing() {
    let (mut appliance, peer) = pair();
    let sentinel = peer.write("mounted", "");
    peer.write("file", "1");
    appliance.source_settings(&format!("sentinels = [{:?}]\nmax_deletions = 100", sentinel.to_str().unwrap()));
    assert_eq!(appliance.run().code, Some(0));
    fs::rename(peer.data().join("file"), peer.data().join("other")).unwrap();
    fs::remove_file(&sentinel).unwrap();
    let run = accepting(&appliance, "web");
    assert_eq!(run.code, Some(3), "{run:?}");
    let why = format!("nothing was deleted in the mirror: the sentinel {} is not on the server", sentinel.display());
    assert!(run.stdout.contains(&why), "{}", run.stdout);
    assert_eq!(names(&mirror(&appliance, &peer)), ["file", "mounted", "other"]);

    let (appliance, peer) = pair();
    peer.write("file", "1");
    assert_eq!(appliance.run().code, Some(0));
    fs::remove_file(peer.data().join("file")).unwrap();
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("there is nothing in it on the server, and the mirror isn't empty"), "{}", run.stdout);
    assert_eq!(names(&mirror(&appliance, &peer)), ["file"]);
}

#[test]
fn what_is_excluded_goes_from_the_mirror_and_what_is_too_large_is_named() {
    let (mut appliance, peer) = pair();
    for name in ["a.tmp", "keep/b.tmp", "cache/x", "keep/cache/x", "small"] {
        peer.write(name, "x");
    }
    assert_eq!(appliance.run().code, Some(0));
    peer.write("large", vec![7; 5000]);
    let cache = format!("{}/cache", peer.data().display());
    appliance.source_settings(&format!("exclude = [\"*.tmp\", {cache:?}]\nlargest_file = \"4 KiB\"\none_file_system = true"));
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("large is over max-size"), "{}", run.stdout);
    let mirror = mirror(&appliance, &peer);
    assert_eq!((names(&mirror), names(&mirror.join("keep"))), (vec!["keep".into(), "small".into()], vec!["cache".into()]));
}

#[test]
fn owners_modes_links_lists_holes_and_times_reach_the_archive() {
    let (appliance, peer) = pair();
    let data = peer.data();
    let program = peer.write("program", "#!/bin/sh\n");
    symlink("/etc/passwd", data.join("link")).unwrap();
    symlink("loop", data.join("loop")).unwrap();
    fs::hard_link(&program, data.join("again")).unwrap();
    let sparse = File::create(data.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 10 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    let mode = |command: &str, arguments: &[&str]| {
        assert!(Command::new(command).args(arguments).arg(&program).status().unwrap().success(), "{command}");
    };
    mode("setfacl", &["-m", "u:1234:r-x"]);
    mode("setfattr", &["-n", "user.comment", "-v", "kept"]);
    if Uid::effective().is_root() {
        mode("chown", &["4711:4712"]);
    }
    mode("chmod", &["4755"]);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 7);
    File::open(&program).unwrap().set_modified(time).unwrap();
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");

    // In the mirror all of it is harmless.
    let there = fs::symlink_metadata(mirror(&appliance, &peer).join("program")).unwrap();
    assert!(there.is_file() && there.mode() & 0o7000 == 0, "{:o}", there.mode());
    assert!(fs::symlink_metadata(mirror(&appliance, &peer).join("link")).unwrap().is_file());
    let to = appliance.backup("../to");
    let restored = Run::of(appliance.command(&["restore", "web/latest"]).arg("--to").arg(&to).output().unwrap());
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let back = to.join(data.strip_prefix("/").unwrap());
    let (was, is) = (fs::metadata(&program).unwrap(), fs::metadata(back.join("program")).unwrap());
    let facts = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid(), of.mtime(), of.mtime_nsec(), of.nlink());
    assert_eq!(facts(&is), facts(&was));
    assert_eq!(fs::read_link(back.join("link")).unwrap(), PathBuf::from("/etc/passwd"));
    assert_eq!(fs::read_link(back.join("loop")).unwrap(), PathBuf::from("loop"));
    assert!(fs::metadata(back.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    assert!(fs::read(back.join("sparse")).unwrap() == fs::read(data.join("sparse")).unwrap());
    let list = Command::new("getfacl").args(["-cn"]).arg(back.join("program")).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("user:1234:r-x"), "{list:?}");
    assert_eq!(xattr::get(back.join("program"), "user.comment").unwrap().unwrap(), b"kept");
    // The names of owners come from the server.
    let root = index(&appliance.archives("web")[0]).into_iter().find(|line| line["uid"] == peer.user.uid.as_raw()).unwrap();
    assert_eq!(root["user"].as_str(), Some(peer.user.name.as_str()));
}

#[test]
fn hostile_names_come_back_byte_for_byte_and_nothing_raw_is_said() {
    let (appliance, peer) = pair();
    let long = [b'n'; 255];
    let hostile: [&[u8]; 9] =
        [b"new\nline", b"-rf", b"..x", b" blank ", b"\x1b[31mred\x07", b"latin \xe9\xff", b"*?[a]\\", b"'\"$(id)`", &long];
    for name in hostile {
        let path = peer.data().join(OsStr::from_bytes(name)).join(OsStr::from_bytes(name));
        peer.write(path.strip_prefix(peer.data()).unwrap(), name);
    }
    let secret = peer.write(OsStr::from_bytes(b"sec\x1b[2Jret\n"), "x");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    let said = [run.stdout.as_str(), &run.stderr].concat();
    assert!(
        said.contains("sec\\u{1b}[2Jret\\n") && said.chars().all(|letter| letter == '\n' || !letter.is_control()),
        "{said:?}"
    );
    let told = fs::read_dir(appliance.state("logs")).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read_to_string(told).unwrap().chars().all(|letter| letter == '\n' || !letter.is_control()));
    fs::remove_file(&secret).unwrap();
    let (_folder, unpacked) = appliance.unpack(&appliance.archives("web")[0], &peer.data());
    let diff = Command::new("diff").arg("-r").arg(peer.data()).arg(unpacked).output().unwrap();
    assert!(diff.status.success(), "{diff:?}");
}

#[test]
fn a_transfer_that_breaks_makes_it_partial_and_the_next_goes_on_where_it_was() {
    let (appliance, mut peer) = pair();
    peer.write("first", "1");
    let mut noise = vec![0; 40 << 20];
    openssl::rand::rand_bytes(&mut noise).unwrap();
    peer.write("large", &noise);
    // Breaks off after some 30 MiB.
    let some = "import os\nleft = 30 << 20\nwhile left > 0:\n    block = os.read(0, min(left, 65536))\n    if not block: break\n    \
                os.write(1, block)\n    left -= len(block)";
    let folder = peer.program("rsync", &format!("/usr/bin/rsync \"$@\" | exec python3 -c '{some}'"));
    let path = format!("{}:/usr/bin:/bin", folder.display());
    peer.set_environment(&[("PATH", &path)]);
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("the transfer broke, and the snapshot has a mix of old and new"), "{}", run.stdout);
    let partial = appliance.backup("current/web/partial/large");
    assert!(fs::metadata(&partial).unwrap().len() > 20 << 20);
    // Counts what passes.
    let count = peer.data().with_file_name("count");
    let all = format!(
        "import os\nsent = 0\nwhile True:\n    block = os.read(0, 65536)\n    if not block: break\n    sent += os.write(1, block)\n\
         open(\"{}\", \"a\").write(\"%d\\n\" % sent)",
        count.display()
    );
    peer.program("rsync", &format!("/usr/bin/rsync \"$@\" | exec python3 -c '{all}'"));
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    let sent: u64 = fs::read_to_string(count).unwrap().lines().map(|line| line.parse::<u64>().unwrap()).sum();
    assert!((10 << 20..16 << 20).contains(&sent), "{sent}");
    assert!(fs::read(mirror(&appliance, &peer).join("large")).unwrap() == noise);
    assert!(!partial.exists());
}
