//! What an account may not read: named and left out, with a real sshd, `find` and rsync.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::appliance::{Appliance, index, names};
use crate::support::peer::Peer;

fn forbid(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The warnings in the index of the last snapshot.
fn warnings(appliance: &Appliance) -> Vec<String> {
    let trailer = index(appliance.archives("web").last().unwrap()).pop().unwrap();
    let mut lines: Vec<String> =
        trailer["warnings"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn unreadable_names_of_every_kind_are_left_out_and_named_and_the_night_stays_good() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    let odd: [&[u8]; 7] = [b"new\nline", b"star *", b"a[1]", b"back\\slash", b"back\\*", b"-rf", b"latin \xe9"];
    for beside in ["star x", "a1", "backslash", "deep/star *", "deep/a[1]"] {
        peer.write(beside, "kept");
    }
    let files = odd.map(|name| peer.write(OsStr::from_bytes(name), "secret"));
    let closed = peer.write("closed [*]/inside", "secret").parent().unwrap().to_owned();
    let listed = peer.write("listed only/inside", "secret").parent().unwrap().to_owned();
    symlink("/nowhere", peer.data().join("dangling")).unwrap();
    symlink(&files[0], peer.data().join("to a secret")).unwrap();
    // The path is a link to the folder, so that nothing is found without following it.
    let link = peer.data().with_file_name("link");
    symlink(peer.data(), &link).unwrap();
    for file in &files {
        forbid(file, 0o000);
    }
    forbid(&closed, 0o300);
    forbid(&listed, 0o600);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[&link]);

    let run = appliance.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let kept = ["a1", "backslash", "dangling", "deep", "star x", "to a secret"];
    let (_folder, restored) = appliance.unpack(&appliance.archives("web")[0], &link);
    assert_eq!(names(&restored), kept);
    assert_eq!(names(&restored.join("deep")), ["a[1]", "star *"]);
    let shown = ["-rf", "a[1]", "back\\*", "back\\slash", "closed [*]", "latin \\xe9", "listed only", "new\\nline", "star *"];
    let expected = shown.map(|name| format!("unreadable on the server and not pulled: {}/{name}", link.display()));
    assert_eq!(warnings(&appliance), expected);

    // Readable for a night: all is there. Then closed again: the mirror keeps it as it was, and deletes what has gone beside it.
    for file in &files {
        forbid(file, 0o600);
    }
    forbid(&closed, 0o700);
    forbid(&listed, 0o700);
    assert_eq!(appliance.run().code, Some(0));
    assert!(warnings(&appliance).is_empty());
    forbid(&files[2], 0o000);
    forbid(&closed, 0o000);
    fs::remove_file(peer.data().join("a1")).unwrap();
    let rehearsed = appliance.rehearse();
    assert_eq!((rehearsed.outcome.as_str(), rehearsed.warnings.len()), ("complete", 2));
    assert_eq!(rehearsed.lines, [format!("{}: 0 files and 0 bytes would be transferred, 1 entries deleted", link.display())]);
    assert_eq!(appliance.run().code, Some(0));
    assert_eq!(warnings(&appliance).len(), 2);
    let (_folder, restored) = appliance.unpack(&appliance.archives("web")[2], &link);
    assert_eq!(fs::read_to_string(restored.join("a[1]")).unwrap(), "secret");
    assert_eq!(names(&restored.join("closed [*]")), ["inside"]);
    assert!(!restored.join("a1").exists());
    forbid(&closed, 0o700);
}

#[test]
fn a_source_of_which_half_cannot_be_read_is_partial() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    let files: Vec<_> = (0..12).map(|number| peer.write(format!("closed/{number}"), "1")).collect();
    for number in 0..12 {
        peer.write(format!("open/{number}"), "1");
    }
    appliance.pull_from("web", &peer);
    for file in &files {
        forbid(file, 0o000);
    }
    let told = "12 of its 24 files can't be read on the server";
    let rehearsed = appliance.rehearse();
    assert_eq!((rehearsed.outcome.as_str(), rehearsed.lines.last().map(String::as_str)), ("partial", Some(told)));
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    let user = format!("; hint: let the account {} read them there", peer.user.name);
    assert!(run.stdout.contains(&format!("      {told}: ")) && run.stdout.contains(&user), "{}", run.stdout);

    // Of what is behind a folder that can't be entered, the mirror knows how much it is.
    for file in &files {
        forbid(file, 0o600);
    }
    assert_eq!(appliance.run().code, Some(0));
    let closed = files[0].parent().unwrap();
    forbid(closed, 0o000);
    let run = appliance.run();
    forbid(closed, 0o700);
    assert!(run.code == Some(3) && run.stdout.contains(&format!("      {told}: ")), "{run:?}");
}

#[test]
fn a_path_that_is_unreadable_itself_was_not_pulled() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("open/file", "1");
    let folder = peer.write("closed/file", "1").parent().unwrap().to_owned();
    let file = peer.write("secret", "1");
    forbid(&folder, 0o000);
    forbid(&file, 0o000);
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[&peer.data().join("open"), &folder, &file]);
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    let why = "was not pulled, the snapshot has nothing of it: it is unreadable on the server";
    assert_eq!(warnings(&appliance), [&folder, &file].map(|path| format!("{} {why}", path.display())));
    assert_eq!(names(&appliance.unpack(&appliance.archives("web")[0], &peer.data()).1), ["open"]);
    forbid(&folder, 0o700);
}

#[test]
fn with_a_key_that_may_run_rsync_only_an_unreadable_file_is_named_too_and_why_it_was_met_is_said() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), Some("rrsync -ro /"));
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(warnings(&appliance).is_empty());

    let secret = peer.write("secret", "2");
    forbid(&secret, 0o000);
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("\n      not pulled: 1 unreadable (1 more than last time)\n"), "{}", run.stdout);
    let said = warnings(&appliance);
    assert!(said.iter().any(|line| line.contains(secret.to_str().unwrap()) && line.contains("Permission denied")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("the server lets this key run no `find`")), "{said:?}");

    appliance.source_settings("postgresql = [\"wiki\"]");
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("this key may run nothing but rsync: take the `command=`"), "{}", run.stdout);
}
