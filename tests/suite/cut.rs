//! What is cut short: by a kill at each step, and by a disk that is full at any byte.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vaultberry::outcome::Outcome;
use vaultberry::progress::Progress;
use vaultberry::snapshot::{Request, create};
use vaultberry::source::Root;
use vaultberry::source::owners::Owners;
use vaultberry::stop::Stop;
use vaultberry::warnings::Warnings;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::assert_same;
use crate::support::peer::Peer;
use crate::support::small_disk::SmallDisk;

/// What changes names or makes them last. Between two of these a kill finds nothing new.
const STEPS: [&str; 5] = ["fsync", "rename", "unlink", "unlinkat", "mkdir"];

/// No run has so many of one kind.
const MOST: u32 = 60;

/// Runs the whole program, and kills each of its processes at its `number`th call of `step`; tells whether one was.
fn run_and_kill(appliance: &Appliance, step: &str, number: u32) -> bool {
    let log = appliance.backup("").with_file_name("strace");
    let command = appliance.command(&["backup", "run"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-o"]).arg(&log).arg("-e").arg(format!("trace={step}"));
    strace.arg("-e").arg(format!("inject={step}:signal=KILL:when={number}"));
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        strace.env(name, value.unwrap());
    }
    let output = strace.output().expect("strace is installed");
    // strace ends as its program does.
    output.status.signal() == Some(9) || fs::read_to_string(&log).unwrap().contains("killed by SIGKILL")
}

/// The archives, each of which has its index and is whole.
fn whole_archives(appliance: &Appliance) -> BTreeSet<PathBuf> {
    let archives: BTreeSet<PathBuf> = appliance.archives("web").into_iter().collect();
    for archive in &archives {
        let verified = Run::of(appliance.command(&["snapshot", "verify"]).arg(archive).output().unwrap());
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
    archives
}

#[test]
fn a_run_that_is_killed_at_any_step_loses_nothing_and_the_next_one_is_as_if_it_had_not_been() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    appliance.pull_from("web", &peer);
    appliance
        .source_settings("[[source.command]]\nname = \"list\"\nrun = \"echo begin; date +%N; echo end\"\nends_with = \"end\"");
    appliance.keep(2);
    let mut content = 0;
    let mut change = || {
        content += 1;
        for name in ["a", "below/b", "c"] {
            peer.write(name, format!("content {content} of {name}"));
        }
        fs::remove_file(peer.data().join(format!("gone {}", content - 1))).unwrap_or_default();
        peer.write(format!("gone {content}"), "x");
    };
    change();
    assert_eq!(appliance.run().code, Some(0));
    let mut kills = 0;
    for step in STEPS {
        for number in 1..=MOST {
            change();
            let before = whole_archives(&appliance);
            let killed = run_and_kill(&appliance, step, number);
            let after = whole_archives(&appliance);
            // With two to be kept the newest that was there stays, whatever the rest came to.
            assert!(after.contains(before.last().unwrap()), "{step} {number}: {before:?} {after:?}");
            if !killed {
                break;
            }
            kills += 1;
            assert!(number < MOST);
            let run = appliance.run();
            assert_eq!(run.code, Some(0), "{step} {number}: {run:?}");
            let archive = whole_archives(&appliance).pop_last().unwrap();
            let (_folder, restored) = appliance.unpack(&archive, &peer.data());
            assert_same(&peer.data(), &restored);
            let (_folder, dumps) = appliance.unpack(&archive, Path::new("/dumps/command"));
            assert_eq!(names(&dumps), ["list"]);
            let litter =
                Command::new("find").arg(appliance.backup("")).args(["-name", "*.part", "-o", "-name", ".*.??????"]).output();
            assert_eq!(String::from_utf8(litter.unwrap().stdout).unwrap(), "", "{step} {number}");
            assert_eq!(names(&appliance.backup("current/web")), ["dumps", "files", "owners.json"], "{step} {number}");
        }
    }
    assert!(kills > 15, "{kills}");
}

#[test]
fn a_disk_that_is_full_at_any_byte_leaves_a_whole_snapshot_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 24) else { return };
    let mirror = tempfile::tempdir().unwrap();
    fs::create_dir(mirror.path().join("srv")).unwrap();
    for number in 0..400 {
        let mut noise = vec![0; 7000];
        openssl::rand::rand_bytes(&mut noise).unwrap();
        fs::write(mirror.path().join(format!("srv/{number}")), noise).unwrap();
    }
    let snapshots = disk.path().join("web");
    let keep = |name: &str| {
        let request = Request {
            source: "web",
            name,
            folder: &snapshots,
            roots: &[Root { base: mirror.path().to_owned(), path: PathBuf::from("srv") }],
            owners: &Owners::default(),
            outcome: Outcome::Complete,
            warnings: Warnings::default(),
        };
        create(request, &Stop::default(), &Progress::default())
    };
    let first = keep("20261123T000000Z").unwrap();
    let good = fs::read(&first.archive).unwrap();
    let (mut full, mut whole) = (0, 0);
    // An archive takes 2.8 MB, an index some 50 kB.
    for step in 0..40 {
        let left = 77_777 * step + 1;
        disk.leave("filler", left);
        let before = names(&snapshots);
        match keep("20261123T010000Z") {
            Ok(made) => {
                whole += 1;
                assert_eq!(names(&snapshots).len(), before.len() + 2);
                let tar = Command::new("tar").arg("-tzf").arg(&made.archive).output().unwrap();
                assert_eq!(String::from_utf8(tar.stdout).unwrap().lines().count(), 401);
                fs::remove_file(&made.archive).unwrap();
                fs::remove_file(made.archive.with_file_name("20261123T010000Z.index.jsonl.zst")).unwrap();
            }
            Err(error) => {
                full += 1;
                let said = format!("{error:#}");
                assert!(said.contains("No space left on device") && said.contains("20261123T010000Z"), "{left}: {said}");
                assert_eq!(names(&snapshots), before, "{left}");
            }
        }
        assert!(fs::read(&first.archive).unwrap() == good);
        fs::remove_file(disk.path().join("filler")).unwrap();
    }
    assert!(full > 20 && whole > 0, "{full} {whole}");
}
