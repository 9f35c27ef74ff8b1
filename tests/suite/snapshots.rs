//! `vaultberry snapshot list` and `vaultberry restore` as their owner meets them, with GNU tar as the judge.

mod commands;
mod damage;
mod readers;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;
use vaultberry::config::Keep;
use vaultberry::outcome::Outcome;
use vaultberry::progress::Progress;
use vaultberry::snapshot::retention::Rules;
use vaultberry::snapshot::{self, Request, clean, create, prune};
use vaultberry::source::Root;
use vaultberry::source::owners::Owners;
use vaultberry::stop::Stop;
use vaultberry::warnings::Warnings;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::peer::Peer;

const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEaV8BmNh0Xrs4sSZvtDQvGU4bqnJZ7qkWdZV0bTYb1R";

/// An appliance with one source `web`, which nobody asks.
fn appliance() -> Appliance {
    let mut appliance = Appliance::new(false);
    appliance.source("web", 22, "backup", HOST_KEY, &[Path::new("/srv")]);
    appliance
}

/// Makes a snapshot of `mirror/srv` as a run does.
fn keep(appliance: &Appliance, mirror: &Path, name: &str, outcome: Outcome) -> PathBuf {
    let mut warnings = Warnings::default();
    if outcome == Outcome::Partial {
        warnings.push("srv/secret was not pulled: Permission denied".into());
    }
    let request = Request {
        source: "web",
        name,
        folder: &appliance.backup("snapshots/web"),
        roots: &[Root { base: mirror.to_owned(), path: PathBuf::from("srv") }],
        owners: &Owners::default(),
        outcome,
        warnings,
    };
    create(request, &Stop::default(), &Progress::default()).unwrap().archive
}

/// Sets the time of everything below `folder`, to whole seconds, which is what a snapshot keeps.
fn age(folder: &Path) {
    let touch = ["-depth", "-exec", "touch", "-h", "-d", "2001-02-03 04:05:06 UTC", "{}", "+"];
    assert!(Command::new("find").arg(folder).args(touch).status().unwrap().success());
}

/// A mirror with a few plain files.
fn plain_mirror() -> TempDir {
    let mirror = tempfile::tempdir().unwrap();
    let srv = mirror.path().join("srv");
    fs::create_dir_all(srv.join("www/sub")).unwrap();
    for (name, content) in [("www/index.html", "hello"), ("www/sub/deep", "deep"), ("www2", "not asked for"), ("other", "other")]
    {
        fs::write(srv.join(name), content).unwrap();
    }
    age(&srv);
    mirror
}

/// A mirror with everything that is hard to get right.
fn odd_mirror() -> TempDir {
    let mirror = tempfile::tempdir().unwrap();
    let srv = mirror.path().join("srv");
    let long = ["d".repeat(120), "e".repeat(150), "f".repeat(255)].join("/");
    for (name, content) in [
        (b"latin \xe9t\xe9".as_slice(), "not UTF-8".as_bytes()),
        (b"new\nline\x1b[31m", b"red"),
        (b"-rf", &vec![0x5a; 300_000]),
        (b"empty", b""),
        (b"suid", b"#!/bin/sh\n"),
        (b"closed", b"nobody may read it"),
        (long.as_bytes(), b"deep"),
        (b"shut/inside", b"in a folder without write permission"),
        (&[&b"g".repeat(99)[..], b"/\xff\xfe"].concat(), b"at the edge of a header"),
    ] {
        let path = srv.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::create_dir_all(srv.join("nothing in it/nor here")).unwrap();
    symlink("empty", srv.join("link")).unwrap();
    symlink("/nowhere/at//all/", srv.join("dangling")).unwrap();
    symlink("../".repeat(70) + "etc", srv.join("long link")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), srv.join("odd link")).unwrap();
    let modes = [("suid", 0o4755), ("closed", 0o000), ("empty", 0o2640), ("nothing in it", 0o1777), ("shut", 0o555)];
    for (name, mode) in modes {
        let path = srv.join(name);
        if Uid::current().is_root() {
            chown(&path, Some(4711), Some(4712)).unwrap();
        }
        // An ordinary user couldn't make a snapshot of a file that he can't read.
        let mode = if mode == 0 && !Uid::current().is_root() { 0o400 } else { mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    age(&srv);
    mirror
}

/// Every name below `folder` with its kind, mode, owner, time, size and target, as find(1) sees it.
fn facts(folder: &Path) -> Vec<OsString> {
    let find = Command::new("find")
        .arg(folder)
        .args(["-mindepth", "1", "(", "-type", "d", "-printf", "%P %y %m %U %G %T@\\0", "-o", "-printf"])
        .args(["%P %y %m %U %G %T@ %s %l\\0", ")"])
        .output()
        .unwrap();
    assert!(find.status.success(), "{find:?}");
    let mut facts: Vec<OsString> = find.stdout.split(|&byte| byte == 0).map(|fact| OsStr::from_bytes(fact).to_owned()).collect();
    facts.sort();
    facts
}

fn assert_same(left: &Path, right: &Path) {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([left, right]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    assert_eq!(facts(left), facts(right));
}

/// `vaultberry restore ARGUMENTS --to TO`.
fn restore(appliance: &Appliance, arguments: &[&str], to: &Path) -> Run {
    Run::of(appliance.command(&[&["restore"], arguments].concat()).arg("--to").arg(to).output().unwrap())
}

#[test]
fn an_odd_tree_comes_back_as_it_was_and_as_gnu_tar_gives_it() {
    let (appliance, mirror, out) = (appliance(), odd_mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    let (ours, gnu) = (out.path().join("ours"), out.path().join("gnu"));
    let run = restore(&appliance, &["web/latest"], &ours);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.stdout, format!("restored 9 files (293.0 KiB), 7 folders and 4 links to {}\n", ours.display()));
    fs::create_dir(&gnu).unwrap();
    let tar = Command::new("tar").arg("-xzpf").arg(&archive).arg("-C").arg(&gnu).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    assert_same(&gnu, &ours);
    assert_same(&mirror.path().join("srv"), &ours.join("srv"));
    // The path of the archive alone does too, without a configuration.
    let program = env!("CARGO_BIN_EXE_vaultberry");
    let bare = out.path().join("bare");
    let run = Run::of(Command::new(program).args(["restore", "--to"]).arg(&bare).arg(&archive).output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(facts(&bare), facts(&ours));
}

#[test]
fn an_ordinary_user_gets_the_modes_that_gnu_tar_gives_him() {
    let (appliance, mirror, out) = (appliance(), odd_mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    // Where another user can reach them: program, archive, index.
    for (from, name) in [
        (PathBuf::from(env!("CARGO_BIN_EXE_vaultberry")), "vaultberry"),
        (archive.clone(), "s.tar.gz"),
        (archive.to_str().unwrap().replace(".tar.gz", ".index.jsonl.zst").into(), "s.index.jsonl.zst"),
    ] {
        fs::copy(from, out.path().join(name)).unwrap();
        fs::set_permissions(out.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(out.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let script = "umask 027; cd \"$1\"; mkdir gnu; tar -xzf s.tar.gz -C gnu; ./vaultberry restore s.tar.gz --to ours";
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh"]).arg(out.path());
    if Uid::current().is_root() {
        shell.uid(65534).gid(65534);
    }
    let run = Run::of(shell.output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(facts(&out.path().join("ours")), facts(&out.path().join("gnu")));
    let suid = fs::metadata(out.path().join("ours/srv/suid")).unwrap().permissions().mode();
    assert_eq!(suid & 0o7777, 0o750);
}

#[test]
fn a_night_is_listed_and_restored() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("folder/file", "content");
    appliance.pull_from("web", &peer);
    assert_eq!(appliance.run().code, Some(0));
    let name = appliance.last_run()["run"].as_str().unwrap().to_owned();
    let list = Run::of(appliance.command(&["snapshot", "list"]).output().unwrap());
    assert_eq!((list.code, list.stderr.as_str()), (Some(0), ""), "{list:?}");
    let lines: Vec<&str> = list.stdout.lines().collect();
    assert_eq!(lines[0], "SNAPSHOT              TIME (UTC)        OUTCOME   ENTRIES    FILES    ARCHIVE");
    assert!(
        lines.len() == 2 && lines[1].starts_with(&format!("web/{name}  20")) && lines[1].contains("  complete  "),
        "{lines:?}"
    );
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("made/here");
    let data = peer.data();
    let run = restore(&appliance, &[&format!("web/{name}"), data.to_str().unwrap()], &to);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let diff = Command::new("diff").arg("-r").arg(&data).arg(to.join(data.strip_prefix("/").unwrap())).status().unwrap();
    assert!(diff.success());
}

#[test]
fn parts_are_restored_and_what_is_not_there_is_named_before_anything_is_written() {
    let (appliance, mirror, out) = (appliance(), plain_mirror(), tempfile::tempdir().unwrap());
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    let one = out.path().join("one");
    let run = restore(&appliance, &["web/latest", "/srv/www/index.html"], &one);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.stdout, format!("restored 1 file (5 bytes), 0 folders and 0 links to {}\n", one.display()));
    assert_eq!(
        (names(&one), names(&one.join("srv")), names(&one.join("srv/www"))),
        (vec!["srv".into()], vec!["www".into()], vec!["index.html".into()])
    );

    let folder = out.path().join("folder");
    let run = restore(&appliance, &["web/20261123T023000Z", "srv/www/", "/srv/other"], &folder);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(names(&folder.join("srv")), ["other", "www"]);
    assert_eq!(facts(&folder.join("srv/www")), facts(&mirror.path().join("srv/www")));

    let none = out.path().join("none");
    let run = restore(&appliance, &["web/latest", "/srv/other", "/srv/nothing", "/srv/ww"], &none);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    let expected =
        format!("error: restoring {}: not in the snapshot: /srv/nothing, /srv/ww\nhint: it holds srv\n", archive.display());
    assert_eq!(run.stderr, expected);
    assert!(!none.exists());

    // Without an index that can only be told at the end.
    fs::remove_file(appliance.backup("snapshots/web/20261123T023000Z.index.jsonl.zst")).unwrap();
    let archive = archive.to_str().unwrap();
    let run = restore(&appliance, &[archive, "/srv/nothing"], &none);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("/srv/nothing is not in the snapshot") && !none.exists(), "{run:?}");
    let run = restore(&appliance, &[archive, "/srv/nothing", "/srv/other"], &none);
    assert_eq!((run.code, names(&none.join("srv"))), (Some(1), vec!["other".into()]), "{run:?}");
}

#[test]
fn a_folder_that_is_not_empty_is_refused_and_untouched() {
    let (appliance, mirror, out) = (appliance(), plain_mirror(), tempfile::tempdir().unwrap());
    keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    fs::create_dir(out.path().join("srv")).unwrap();
    let run = restore(&appliance, &["web/latest"], out.path());
    let expected = format!(
        "error: restoring to {}: the folder isn't empty, and nothing in it may be overwritten\nhint: name a new folder\n",
        out.path().display()
    );
    assert_eq!((run.code, run.stdout.as_str(), run.stderr), (Some(1), "", expected));
    assert!(names(&out.path().join("srv")).is_empty());
}

#[test]
fn what_is_not_known_is_answered_with_what_is() {
    let (appliance, mirror, out) = (appliance(), plain_mirror(), tempfile::tempdir().unwrap());
    let fails = |arguments: &[&str], expected: &str| {
        let run = Run::of(appliance.command(arguments).output().unwrap());
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", expected));
    };
    let to = out.path().join("to");
    let to = to.to_str().unwrap();
    let run = Run::of(appliance.command(&["snapshot", "list"]).output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "web: no snapshot yet\n"), "{run:?}");
    fails(&["restore", "web/latest", "--to", to], "error: there is no complete snapshot of web\nhint: web has no snapshot yet\n");
    keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Partial);
    // What was taken out of the configuration is there all the same.
    fs::create_dir(appliance.backup("snapshots/old")).unwrap();
    let newest = "hint: the newest are 20261123T023000Z (partial); `vaultberry snapshot list web` shows all\n";
    fails(&["snapshot", "list", "wbe"], "error: there is no source \"wbe\"\nhint: there are old, web\n");
    fails(&["restore", "../web/latest", "--to", to], "error: there is no source \"..\"\nhint: there are old, web\n");
    fails(&["restore", "web/latest", "--to", to], &format!("error: there is no complete snapshot of web\n{newest}"));
    fails(
        &["restore", "web/20261122T023000Z", "--to", to],
        &format!("error: there is no snapshot \"20261122T023000Z\" of web\n{newest}"),
    );
    fails(
        &["restore", "web", "--to", to],
        "error: \"web\" names no snapshot\nhint: write SOURCE/NAME, SOURCE/latest, or the path of an archive, with .tar.gz at its end\n",
    );
    fails(&["restore", "/gone.tar.gz", "--to", to], "error: restoring /gone.tar.gz: No such file or directory (os error 2)\n");
    assert!(!out.path().join("to").exists());

    let run = restore(&appliance, &["web/20261123T023000Z"], &out.path().join("to"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("this snapshot is partial") && run.stderr.contains("srv/secret was not pulled"), "{run:?}");
}

#[test]
fn the_list_hides_nothing_and_a_program_can_read_it() {
    let (appliance, mirror) = (appliance(), plain_mirror());
    keep(&appliance, mirror.path(), "20261122T023000Z", Outcome::Complete);
    let archive = keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Partial);
    fs::write(appliance.backup("snapshots/web/by-hand.tar.gz"), "1234").unwrap();
    let run = Run::of(appliance.command(&["snapshot", "list", "web", "--json"]).output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["snapshot"].as_str().unwrap()).collect();
    assert_eq!(names, ["20261122T023000Z", "20261123T023000Z", "by-hand"]);
    let partial = &lines[1];
    assert_eq!((partial["outcome"].as_str(), partial["time"].as_str()), (Some("partial"), Some("2026-11-23T02:30:00Z")));
    assert_eq!((partial["entries"].as_u64(), partial["bytes"].as_u64()), (Some(7), Some(27)));
    assert_eq!(
        (partial["archive_bytes"].as_u64(), partial["warnings"].as_u64()),
        (Some(fs::metadata(archive).unwrap().len()), Some(1))
    );
    assert_eq!((&lines[2]["outcome"], lines[2]["trouble"].as_str()), (&Value::Null, Some("it has no index")));
    let text = Run::of(appliance.command(&["snapshot", "list"]).output().unwrap()).stdout;
    assert!(text.lines().count() == 4 && text.contains("by-hand") && text.contains("it has no index"), "{text}");
}

#[test]
fn without_the_disk_nothing_is_said_to_be_there_or_not() {
    let mut appliance = Appliance::new(true);
    appliance.source("web", 22, "backup", HOST_KEY, &[Path::new("/srv")]);
    for arguments in [&["snapshot", "list"][..], &["restore", "web/latest", "--to", "/nowhere/at/all"]] {
        let run = Run::of(appliance.command(arguments).output().unwrap());
        let expected = format!(
            "error: the backup disk is not mounted at {}\nhint: plug the disk in and run `vaultberry disk open`\n",
            appliance.backup("").canonicalize().unwrap().display()
        );
        assert_eq!((run.code, run.stdout.as_str(), run.stderr), (Some(1), "", expected), "{arguments:?}");
    }
}

#[test]
fn pruning_keeps_the_newest_and_a_cut_leaves_only_what_the_next_run_cleans() {
    let (appliance, mirror) = (appliance(), plain_mirror());
    let folder = appliance.backup("snapshots/web");
    for (day, outcome) in
        (20..).zip([Outcome::Complete, Outcome::Partial, Outcome::Complete, Outcome::Partial, Outcome::Complete])
    {
        keep(&appliance, mirror.path(), &format!("202011{day}T023000Z"), outcome);
    }
    let before: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let prune = |last, protect: &[&str]| {
        let keep = Keep { last, ..Keep::NONE };
        prune(&folder, &Rules { keep, protect, zone: &TimeZone::UTC, now: Timestamp::now() })
    };
    assert_eq!(prune(2, &[]).unwrap(), ["20201120T023000Z"]);
    assert_eq!(prune(1, &["20201121T023000Z"]).unwrap(), ["20201122T023000Z"]);
    let left: Vec<String> = snapshot::list::of(&folder).unwrap().into_iter().map(|found| found.name).collect();
    assert_eq!(left, ["20201121T023000Z", "20201123T023000Z", "20201124T023000Z"]);
    assert_eq!(names(&folder).len(), 6);
    // As a power cut leaves it: the archives are gone, an index isn't.
    let (index, bytes) = before.iter().find(|(path, _)| path.ends_with("20201120T023000Z.index.jsonl.zst")).unwrap();
    fs::write(index, bytes).unwrap();
    let list = Run::of(appliance.command(&["snapshot", "list"]).output().unwrap());
    assert!(!list.stdout.contains("20201120T023000Z"), "{list:?}");
    assert_eq!(&clean(&folder).unwrap(), std::slice::from_ref(index));
}
