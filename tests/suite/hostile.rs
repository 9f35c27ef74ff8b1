//! Servers that want more than to be backed up.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::unistd::Uid;

use crate::support::appliance::{Appliance, index, names};
use crate::support::peer::Peer;

fn pair() -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    appliance.pull_from("web", &peer);
    (appliance, peer)
}

/// Puts `script` before the server's rsync.
fn instead_of_rsync(peer: &mut Peer, script: &str) {
    let path = format!("{}:/usr/bin:/bin", peer.program("rsync", script).display());
    peer.set_environment(&[("PATH", &path)]);
}

#[test]
fn an_rsync_in_the_servers_hands_reaches_nothing_but_its_own_mirror() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    // With a path that isn't there nothing is tidied, and what was done can be looked at.
    for name in ["web", "other"] {
        appliance.source(name, peer.port, &peer.user.name, &peer.host_key(), &[&peer.data(), Path::new("/not/there")]);
    }
    peer.write("file", "content");
    assert_eq!(appliance.run().code, Some(3));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "secret").unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o644)).unwrap();
    // What it can is written where it may write, for us to look at.
    let other = appliance.backup("current/other/files");
    let script = format!(
        "#!/bin/bash\n\
         for last; do :; done\n\
         try() {{ if \"$@\" 2>/dev/null; then echo \"$*\" >>\"$last/../../../did\"; fi; }}\n\
         case $* in *--list-only*) ;; *) [ -w \"$last\" ] && echo began >>\"$last/../../../did\"\n\
         for file in {secret} {key} {other} {state} /root /proc/1/environ; do try cat \"$file\"; try ls \"$file/\"; done\n\
         for folder in {snapshots} {state} {other} /tmp /var/tmp /dev/shm /run/lock; do\n\
         case $last in $folder/*) ;; *) try touch \"$folder/planted{port}\";; esac; done\n\
         try eval 'exec 3<>/dev/tcp/127.0.0.1/{port}'\n\
         try kill -0 $PPID\n\
         try kill -0 1\n\
         try mount -t tmpfs none /mnt\n\
         setsid sleep {port}{port} <&- >&- 2>&- &\n\
         ;; esac\n\
         exec /usr/bin/rsync \"$@\"\n",
        secret = secret.path().display(),
        key = appliance.state("ssh/id_ed25519").display(),
        other = other.display(),
        state = appliance.state("").display(),
        snapshots = appliance.backup("snapshots").display(),
    );
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("rsync");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = appliance.command(&["backup", "run", "-v"]);
    let run = command.env("PATH", format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap())).output().unwrap();
    let did = appliance.backup("current/web/files/did");
    if Uid::current().is_root() {
        let asleep = Command::new("pgrep").arg("-f").arg(format!("sleep {port}{port}")).output().unwrap();
        assert_eq!(String::from_utf8(asleep.stdout).unwrap(), "", "what it started outlives the pull");
    }
    assert_eq!(fs::read_to_string(&did).unwrap_or_else(|_| panic!("{run:?}")), "began\n", "{run:?}");
    for folder in [&other, &appliance.state(""), Path::new("/tmp"), Path::new("/var/tmp"), Path::new("/dev/shm")] {
        assert!(!folder.join(format!("planted{port}")).exists(), "{}", folder.display());
    }
}

#[test]
fn each_source_has_a_user_of_its_own_and_the_archive_the_servers_owners() {
    let (mut appliance, peer) = pair();
    appliance.pull_from("other", &peer);
    peer.write("below/file", "content");
    assert_eq!(appliance.run().code, Some(0));
    let owner = |path: &str| fs::metadata(appliance.backup(path)).unwrap().uid();
    let (web, other) = (owner("current/web/files"), owner("current/other/files"));
    if Uid::current().is_root() {
        assert!(web != other && [web, other].iter().all(|uid| (60_706..60_769).contains(uid)), "{web} {other}");
        let file = peer.data().strip_prefix("/").unwrap().join("below/file");
        assert_eq!(owner(&format!("current/web/files/{}", file.display())), web);
        assert_eq!((owner("current/web"), owner("current/web/owners.json")), (web, web));
        for ours in ["current", "snapshots/web"] {
            assert_eq!(owner(ours), 0, "{ours}");
        }
    }
    assert_eq!(appliance.run().code, Some(0));
    assert_eq!((owner("current/web/files"), owner("current/other/files")), (web, other));
    let lines = index(&appliance.archives("web")[1]);
    let file = lines.iter().find(|line| line["path"].as_str().is_some_and(|path| path.ends_with("below/file"))).unwrap();
    assert_eq!(file["uid"], peer.user.uid.as_raw());
}

#[test]
fn names_that_lead_out_of_the_mirror_are_refused() {
    let (appliance, mut peer) = pair();
    peer.write("outoutout/planted", "1");
    peer.write("file", "2");
    // What a server that lies would send: another name of the same length, in the middle of a true list.
    let lie = "import os\nwhile True:\n    block = os.read(0, 1 << 20)\n    if not block: break\n    \
               os.write(1, block.replace(b'outoutout', b'../../../'))";
    instead_of_rsync(&mut peer, &format!("/usr/bin/rsync \"$@\" | exec python3 -c \"{lie}\""));
    let run = appliance.run();
    assert!(matches!(run.code, Some(1 | 3)), "{run:?}");
    let found = Command::new("find").arg(appliance.backup("")).args(["-name", "planted"]).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "", "{run:?}");
}

#[test]
fn links_out_of_the_mirror_are_kept_as_links_and_never_followed() {
    let (appliance, peer) = pair();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "kept").unwrap();
    peer.write("file", "1");
    symlink(outside.path(), peer.data().join("away")).unwrap();
    assert_eq!(appliance.run().code, Some(0));
    fs::remove_file(peer.data().join("away")).unwrap();
    peer.write("away/precious", "planted");
    assert_eq!(appliance.run().code, Some(0));
    assert_eq!(fs::read_to_string(outside.path().join("precious")).unwrap(), "kept");
    let lines = index(&appliance.archives("web")[0]);
    let link = lines.iter().find(|line| line["path"].as_str().is_some_and(|path| path.ends_with("/away"))).unwrap();
    assert_eq!((link["type"].as_str(), link["link"].as_str()), (Some("symlink"), outside.path().to_str()));
}

#[test]
fn more_than_the_quota_is_stopped_in_the_middle_and_leaves_no_litter() {
    let (mut appliance, peer) = pair();
    peer.write("small", "1");
    appliance.source_settings("quota = \"24 MiB\"");
    assert_eq!(appliance.run().code, Some(0));
    // A sparse file of zeros would take nothing.
    let mut noise = vec![0; 200 << 20];
    noise.chunks_mut(1 << 20).for_each(|chunk| openssl::rand::rand_bytes(chunk).unwrap());
    let file = peer.write("endless", &noise);
    appliance.source_settings("bandwidth = \"20 MiB\"");
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("which is more than its quota of 24.0 MiB") && run.stdout.contains("raise `quota`"), "{run:?}");
    assert_eq!(names(&appliance.backup("current/web")), ["files", "owners.json"]);
    let mirror = appliance.backup("current/web/files").join(peer.data().strip_prefix("/").unwrap());
    assert_eq!(names(&mirror), ["small"]);
    // What is there already counts: a quota that is met keeps the next night good.
    fs::remove_file(file).unwrap();
    assert_eq!(appliance.run().code, Some(0));
}

#[test]
fn an_endless_dump_ends_at_the_quota_and_the_rest_is_kept() {
    let (mut appliance, peer) = pair();
    peer.write("small", "1");
    appliance.source_settings("quota = \"24 MiB\"\n[[source.command]]\nname = \"endless\"\nrun = \"yes\"");
    let run = appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("the output of endless was not dumped"), "{run:?}");
    assert!(run.stdout.contains("which is more than its quota of 24.0 MiB"), "{run:?}");
    assert_eq!(names(&appliance.backup("current/web/dumps/command")), [""; 0]);
    assert_eq!(appliance.archives("web").len(), 1);
}

#[test]
fn what_a_killed_run_left_with_a_key_in_it_goes_at_the_next_start() {
    let (appliance, peer) = pair();
    peer.write("file", "1");
    let base = appliance.backup("").parent().unwrap().to_owned();
    let left = base.join("vaultberry-cell-abcdef");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("key"), "secret").unwrap();
    if Uid::current().is_root() {
        // Its helper isn't root, and takes a folder that takes its files.
        fs::set_permissions(&base, fs::Permissions::from_mode(0o1777)).unwrap();
        for path in [left.join("key"), left.clone()] {
            std::os::unix::fs::chown(path, Some(60_706), Some(60_706)).unwrap();
        }
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
    fs::File::open(&left).unwrap().set_modified(old).unwrap();
    assert_eq!(appliance.run().code, Some(0));
    assert!(names(&base).iter().all(|name| !name.starts_with("vaultberry-")), "{:?}", names(&base));
}
