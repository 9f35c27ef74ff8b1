//! `vaultberry backup run` as its owner meets it: the real program, a real sshd, and GNU tar to look at what came of it.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::appliance::{Appliance, Run, index, names, rsync_of};
use crate::support::assert_same;
use crate::support::peer::Peer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

/// An appliance and one server that it may log in to.
fn pair() -> (Appliance, Peer) {
    let appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    (appliance, peer)
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_good_night_restores_byte_for_byte_with_gnu_tar() {
    let (mut appliance, peer) = pair();
    peer.write("plain", "content");
    peer.write("empty", "");
    peer.write("-rf", vec![0x5a; 300_000]);
    peer.write("with space/'quote' \"double\" *", "glob");
    peer.write("new\nline\x1b[31m", "red");
    peer.write(OsStr::from_bytes(b"latin \xe9t\xe9"), "not UTF-8");
    peer.write(["d".repeat(120), "e".repeat(120), "f".repeat(120)].join("/"), "deep");
    fs::create_dir(peer.data().join("nothing in it")).unwrap();
    symlink("plain", peer.data().join("link")).unwrap();
    symlink("/nowhere/at//all/", peer.data().join("dangling")).unwrap();
    symlink("/etc", peer.data().join("outside")).unwrap();
    appliance.pull_from("web", &peer);

    let run = appliance.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stdout.lines().count() == 2 && run.stdout.contains("  web  complete  "), "{}", run.stdout);
    let archives = appliance.archives("web");
    assert_eq!(archives.len(), 1);
    let (_folder, restored) = appliance.unpack(&archives[0], &peer.data());
    assert_same(&peer.data(), &restored);

    let index = index(&archives[0]);
    let trailer = index.last().unwrap();
    assert_eq!((trailer["outcome"].as_str(), trailer["entries"].as_u64()), (Some("complete"), Some(index.len() as u64 - 2)));
    assert_eq!(trailer["archive"]["sha256"], sha256(&archives[0]));
    assert_eq!(trailer["archive"]["size"], fs::metadata(&archives[0]).unwrap().len());
    let plain = index.iter().find(|line| line["path"].as_str().is_some_and(|path| path.ends_with("/plain"))).unwrap();
    assert_eq!(
        (plain["uid"].as_u64(), plain["gid"].as_u64()),
        (Some(peer.user.uid.as_raw().into()), Some(peer.user.gid.as_raw().into()))
    );
    assert_eq!((plain["sha256"].as_str(), plain["size"].as_u64()), (Some(sha256(&peer.data().join("plain")).as_str()), Some(7)));
    assert!(index.iter().any(|line| line["path_hex"].as_str().is_some_and(|path| path.ends_with("6c6174696e20e974e9"))));

    let word = appliance.last_run();
    assert_eq!((word["outcome"].as_str(), word["sources"][0]["outcome"].as_str()), (Some("complete"), Some("complete")));
    let name = word["run"].as_str().unwrap();
    assert_eq!(names(&appliance.backup("logs")), [format!("{name}.log")]);
    assert_eq!(names(&appliance.backup("")), ["current", "logs", "snapshots"]);
}

#[test]
fn what_is_deleted_at_the_source_leaves_mirror_and_next_snapshot_but_not_the_old_one() {
    let (mut appliance, peer) = pair();
    peer.write("stays", "1");
    let goes = peer.write("folder/goes", "2");
    appliance.pull_from("web", &peer);
    assert_eq!(appliance.run().code, Some(0));
    fs::remove_dir_all(goes.parent().unwrap()).unwrap();
    // what an earlier run that was cut short has left
    for name in ["20200101T000000Z.tar.gz.part", "20200101T000000Z.index.jsonl.zst"] {
        fs::write(appliance.backup("snapshots/web").join(name), "half").unwrap();
    }
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");

    let mirror = appliance.backup("current/web/files").join(peer.data().strip_prefix("/").unwrap());
    assert_eq!(names(&mirror), ["stays"]);
    let archives = appliance.archives("web");
    assert_eq!((archives.len(), appliance.snapshots("web").len()), (2, 4), "{:?}", appliance.snapshots("web"));
    assert_eq!(names(&appliance.unpack(&archives[0], &peer.data()).1), ["folder", "stays"]);
    assert_eq!(names(&appliance.unpack(&archives[1], &peer.data()).1), ["stays"]);
}

#[test]
fn an_unreadable_file_is_named_and_does_not_make_a_night_bad() {
    let (mut appliance, peer) = pair();
    peer.write("readable", "1");
    let secret = peer.write("secret", "2");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    appliance.pull_from("web", &peer);
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    let warning = format!("unreadable on the server and not pulled: {}", secret.display());
    assert!(run.stdout.contains("web  complete") && run.stdout.contains(&warning), "{}", run.stdout);
    let archives = appliance.archives("web");
    assert_eq!(names(&appliance.unpack(&archives[0], &peer.data()).1), ["readable"]);
    let trailer = index(&archives[0]).pop().unwrap();
    assert_eq!((trailer["outcome"].as_str(), trailer["warnings"][0].as_str()), (Some("complete"), Some(warning.as_str())));
}

#[test]
fn a_pipe_comes_along_and_a_socket_is_named_and_neither_makes_a_night_bad() {
    let (mut appliance, peer) = pair();
    peer.write("file", "1");
    nix::unistd::mkfifo(&peer.data().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(peer.data().join("socket\x1b")).unwrap();
    appliance.pull_from("web", &peer);
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("/socket\\u{1b} is a socket and left out"), "{}", run.stdout);
    assert_eq!(names(&appliance.unpack(&appliance.archives("web")[0], &peer.data()).1), ["file", "pipe"]);
}

#[test]
fn a_file_a_link_to_a_folder_and_a_name_with_wildcards_are_paths_too() {
    let (mut appliance, peer) = pair();
    let file = peer.write("etc/hostname", "peer\n");
    peer.write("etc/other", "not asked for");
    peer.write("real/inside", "behind a link");
    peer.write("a[1] *?/x", "literal");
    peer.write("a1 bb/x", "matched");
    let slash = peer.write("back\\slash \\*", "file");
    let link = peer.data().join("www");
    symlink("real", &link).unwrap();
    let wild = peer.data().join("a[1] *?");
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[&file, &link, &wild, &slash]);
    for night in 0..2 {
        let run = appliance.run();
        assert_eq!(run.code, Some(0), "{run:?}");
        let (_folder, restored) = appliance.unpack(&appliance.archives("web")[night], &peer.data());
        assert_eq!(names(&restored), ["a[1] *?", "back\\slash \\*", "etc", "www"]);
        assert_eq!(fs::read_to_string(restored.join("back\\slash \\*")).unwrap(), "file");
        assert_eq!(fs::read_to_string(restored.join("etc/hostname")).unwrap(), "peer\n");
        assert_eq!(names(&restored.join("etc")), ["hostname"]);
        assert_eq!(fs::read_to_string(restored.join("www/inside")).unwrap(), "behind a link");
        assert_eq!(fs::read_to_string(restored.join("a[1] *?/x")).unwrap(), "literal");
    }
}

#[test]
fn what_was_a_folder_or_a_link_yesterday_is_the_file_of_today() {
    let (mut appliance, peer) = pair();
    let path = peer.write("thing/inside", "1").parent().unwrap().to_owned();
    appliance.source("web", peer.port, &peer.user.name, &peer.host_key(), &[&path]);
    assert_eq!(appliance.run().code, Some(0));
    fs::remove_dir_all(&path).unwrap();
    peer.write("thing", "now a file");
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    let place = appliance.backup("current/web/files").join(path.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(&place).unwrap(), "now a file");

    // A link that a hostile server has put into the mirror is replaced, never followed.
    let precious = tempfile::tempdir().unwrap();
    fs::remove_file(&place).unwrap();
    symlink(precious.path(), &place).unwrap();
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(names(precious.path()).is_empty());
    assert_eq!(fs::read_to_string(&place).unwrap(), "now a file");
    assert!(fs::symlink_metadata(&place).unwrap().is_file());
}

#[test]
fn a_path_that_is_not_there_makes_it_partial_and_no_path_at_all_failed() {
    let (mut appliance, peer) = pair();
    peer.write("here/x", "1");
    let (here, gone) = (peer.data().join("here"), peer.data().join("gone"));
    appliance.source("some", peer.port, &peer.user.name, &peer.host_key(), &[&here, &gone]);
    appliance.source("none", peer.port, &peer.user.name, &peer.host_key(), &[&gone]);
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    let word = appliance.last_run();
    assert_eq!(
        (word["sources"][0]["outcome"].as_str(), word["sources"][1]["outcome"].as_str()),
        (Some("partial"), Some("failed"))
    );
    assert!(
        run.stdout.contains(&format!("{} was not pulled, the snapshot has nothing of it: ", gone.display())),
        "{}",
        run.stdout
    );
    assert_eq!((appliance.archives("some").len(), appliance.snapshots("none").len()), (1, 0));
    let error = word["sources"][1]["error"].as_str().unwrap();
    assert!(error.contains(&format!("{} was not pulled: ", gone.display())) && !error.contains("snapshot has"), "{error}");
}

#[test]
fn a_changed_host_key_fails_and_leaves_the_old_snapshot_alone() {
    let (mut appliance, mut peer) = pair();
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    assert_eq!(appliance.run().code, Some(0));
    let before = (appliance.snapshots("web"), sha256(&appliance.archives("web")[0]));
    peer.change_host_key();
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    let place = format!("connecting to web ({}@127.0.0.1:{}): the server's host key is none of", peer.user.name, peer.port);
    assert!(run.stdout.contains(&place) && run.stdout.contains("hint: compare"), "{}", run.stdout);
    assert_eq!((appliance.snapshots("web"), sha256(&appliance.archives("web")[0])), before);
}

#[test]
fn a_server_that_does_not_know_the_key_is_told_of_with_the_remedy() {
    let (mut appliance, _peer) = pair();
    let stranger = Peer::start("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEaV8BmNh0Xrs4sSZvtDQvGU4bqnJZ7qkWdZV0bTYb1R other", None);
    appliance.pull_from("web", &stranger);
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("Permission denied (publickey") && run.stdout.contains("`vaultberry source key`"), "{run:?}");
    let key = Run::of(appliance.command(&["source", "key"]).output().unwrap());
    assert_eq!((key.code, key.stdout.trim_end()), (Some(0), appliance.public_key().as_str()));
}

#[test]
fn one_dead_source_does_not_stop_the_other() {
    let (mut appliance, peer) = pair();
    peer.write("file", "1");
    // a port that nobody listens on
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    appliance.source("dead", port, "backup", &peer.host_key(), &[Path::new("/srv")]);
    appliance.pull_from("web", &peer);
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains(&format!("connecting to dead (backup@127.0.0.1:{port}): ")), "{}", run.stdout);
    assert!(run.stdout.contains("Connection refused"), "{}", run.stdout);
    assert!(appliance.snapshots("dead").is_empty());
    let archives = appliance.archives("web");
    assert_same(&peer.data(), &appliance.unpack(&archives[0], &peer.data()).1);
    assert_eq!(index(&archives[0]).pop().unwrap()["outcome"], "complete");
}

#[test]
fn a_disk_that_is_not_mounted_fails_the_run_and_nothing_is_written_under_it() {
    let mut appliance = Appliance::new(true);
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("file", "1");
    appliance.pull_from("web", &peer);
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stdout.contains("the backup disk is not mounted at ") && run.stdout.contains("`vaultberry disk open`"),
        "{run:?}"
    );
    assert!(names(&appliance.backup("")).is_empty(), "{:?}", names(&appliance.backup("")));
    assert_eq!(appliance.last_run()["outcome"], "failed");
}

#[test]
fn a_second_run_is_skipped_and_a_signal_ends_the_first_with_its_children() {
    let mut appliance = Appliance::new(false);
    // A server that lets us in, listens and never answers: the first run waits for it.
    let peer = Peer::start(&appliance.public_key(), Some("exec cat >/dev/null"));
    appliance.pull_from("web", &peer);
    let mut command = appliance.command(&["backup", "run"]);
    let mut first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = first.id();
    wait_for(|| rsync_of(pid).is_some(), "the first run is at its rsync");

    let before = (names(&appliance.backup("")), appliance.last_run());
    // The word of a run that is going on, as it would stay if the run were killed.
    assert_eq!((&before.1["outcome"], &before.1["ended"]), (&"failed".into(), &serde_json::Value::Null));
    let second = appliance.run();
    assert_eq!(second.code, Some(4), "{second:?}");
    assert!(second.stdout.contains(&format!("another run is at work (pid {pid}, since 20")), "{}", second.stdout);
    assert_eq!((names(&appliance.backup("")), appliance.last_run()), before);

    let started = Instant::now();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
    wait_for(|| first.try_wait().unwrap().is_some(), "the first run ends");
    assert!(started.elapsed() < Duration::from_secs(10));
    let first = Run::of(first.wait_with_output().unwrap());
    assert_eq!(first.code, Some(1), "{first:?}");
    assert!(first.stdout.contains("interrupted by a signal"), "{}", first.stdout);
    assert_eq!(appliance.last_run()["error"], "interrupted by a signal");
    assert!(appliance.snapshots("web").is_empty());
    // the lock went with the run: no child still has it
    drop(peer);
    assert_eq!(appliance.run().code, Some(1));
}

#[test]
fn a_run_that_is_killed_takes_its_rsync_with_it() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), Some("exec cat >/dev/null"));
    appliance.pull_from("web", &peer);
    let mut run = appliance.command(&["backup", "run"]).stdout(Stdio::null()).spawn().unwrap();
    wait_for(|| rsync_of(run.id()).is_some(), "the run is at its rsync");
    let rsync = rsync_of(run.id()).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    // A dead program that nobody has waited for yet has no command line any more.
    let command_line = Path::new("/proc").join(&rsync).join("cmdline");
    wait_for(|| fs::read(&command_line).map_or(true, |line| line.is_empty()), "rsync ends with the run");
}

#[test]
fn the_helper_of_a_pull_is_not_root_and_sees_of_the_backup_its_mirror_alone() {
    let mut appliance = Appliance::new(false);
    let quick = Peer::start(&appliance.public_key(), None);
    let peer = Peer::start(&appliance.public_key(), Some("exec cat >/dev/null"));
    appliance.pull_from("quick", &quick);
    quick.write("file", "1");
    assert_eq!(appliance.run().code, Some(0));
    appliance.pull_from("web", &peer);
    let mut run = appliance.command(&["backup", "run"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(|| appliance.archives("quick").len() == 2, "the other pull is done");
    wait_for(|| rsync_of(run.id()).is_some(), "the run is at its rsync");
    let rsync = fs::read_to_string(Path::new("/proc").join(rsync_of(run.id()).unwrap()).join("status")).unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let helper = field(&rsync, "PPid:").remove(0);
    let status = fs::read_to_string(Path::new("/proc").join(&helper).join("status")).unwrap();
    // It has no terminal, and nothing of the environment.
    assert_eq!(field(&status, "NSsid:"), [helper.as_str()]);
    let environment = fs::read(Path::new("/proc").join(&helper).join("environ")).unwrap();
    let names: Vec<&[u8]> =
        environment.split(|byte| *byte == 0).filter_map(|entry| entry.split(|byte| *byte == b'=').next()).collect();
    assert!(names.iter().all(|name| [&b"PATH"[..], b"TMPDIR", b"LC_ALL", b""].contains(name)), "{names:?}");
    if Uid::current().is_root() {
        assert_eq!(field(&status, "Uid:"), ["60707"; 4]);
        assert_eq!(field(&status, "Groups:"), [""; 0]);
        assert_eq!(
            (field(&status, "CapEff:"), field(&status, "NoNewPrivs:")),
            (vec!["0000000000000000".into()], vec!["1".into()])
        );
        let backup = appliance.backup("");
        let inside = |line: &str| {
            let mut command = Command::new("nsenter");
            command.args([
                "--mount",
                "--target",
                &helper,
                "setpriv",
                "--reuid=60707",
                "--regid=60707",
                "--clear-groups",
                "sh",
                "-c",
            ]);
            let output = command.arg(line).current_dir("/").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let listed =
            inside(&format!("cd {} && find . -maxdepth 2 | sort; touch current/web/mine && echo mine", backup.display()));
        assert_eq!(listed, ".\n./current\n./current/web\nmine\n");
        assert_eq!(inside(&format!("cat {}", appliance.state("ssh/id_ed25519").display())), "");
        assert!(inside("cat /etc/passwd").contains("vaultberry-60707:x:60707:60707:"));
        fs::remove_file(appliance.backup("current/web/mine")).unwrap();
    }
    // One that dies is no night that never ends.
    kill(Pid::from_raw(helper.parse().unwrap()), Signal::SIGKILL).unwrap();
    wait_for(|| run.try_wait().unwrap().is_some(), "the run ends");
    let run = Run::of(run.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("the helper that deals with the server ended without a word: signal: 9"), "{run:?}");
}

fn wait_for(mut done: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(50));
    }
}
