//! The way to a server: keys, jump hosts, addresses, retries, several servers at once.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::peer::Peer;

fn pair() -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    appliance.pull_from("web", &peer);
    peer.write("file", "content");
    (appliance, peer)
}

#[test]
fn a_jump_host_is_proven_by_its_own_keys_and_passes_everything_on() {
    let (mut appliance, _peer) = pair();
    let mut gate = Peer::start(&appliance.public_key(), None);
    let jump = format!("jump = \"{}@127.0.0.1:{}\"", gate.user.name, gate.port);
    appliance.source_settings(&format!("{jump}\njump_host_keys = [\"{}\"]", gate.host_key()));
    let run = appliance.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(gate.log().contains("Accepted publickey"), "{}", gate.log());
    let trust = Run::of(appliance.command(&["source", "trust", "web"]).output().unwrap());
    assert!(trust.code == Some(0) && trust.stdout.contains("(pinned)"), "{trust:?}");

    gate.change_host_key();
    let run = appliance.run();
    assert!(run.code == Some(1) && run.stdout.contains("by way of 127.0.0.1"), "{run:?}");
    assert!(run.stdout.contains("none of the keys pinned"), "{run:?}");
}

#[test]
fn a_server_is_reached_over_ipv6() {
    let (mut appliance, _peer) = pair();
    appliance.at_host("::1");
    let run = appliance.run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn trust_shows_what_ssh_keygen_shows_on_the_server() {
    let (appliance, mut peer) = pair();
    let shown = |peer: &Peer| {
        let output = Command::new("ssh-keygen").arg("-lf").arg(peer.data().with_file_name("host_key.pub")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    let trust = |arguments: &[&str]| Run::of(appliance.command(&[&["source", "trust"], arguments].concat()).output().unwrap());
    let known = trust(&["web"]);
    let line = format!("  ssh-ed25519 {}  (pinned)\n", shown(&peer));
    assert!(known.code == Some(0) && known.stdout.contains(&line) && !known.stdout.contains("host_keys"), "{known:?}");

    peer.change_host_key();
    let other = trust(&["web"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    let line = format!("  host_keys = [\"{}\"]\n", peer.host_key());
    assert!(other.stdout.contains(&shown(&peer)) && other.stdout.ends_with(&line), "{other:?}");
    assert_eq!(names(&appliance.backup("")), [""; 0]);

    let at = trust(&["--at", &format!("127.0.0.1:{}", peer.port), "--json"]);
    let told: Value = serde_json::from_str(&at.stdout).unwrap();
    assert_eq!((at.code, told["keys"][0]["line"].as_str()), (Some(0), Some(peer.host_key().as_str())));
    let unknown = trust(&["wbe"]);
    assert_eq!(unknown.stderr, "error: asking for host keys: there is no source wbe\nhint: there are web\n");
    peer.end();
    let none = trust(&["web"]);
    assert!(none.code == Some(1) && none.stderr.contains("it shows none: ssh: connect to host 127.0.0.1"), "{none:?}");
}

#[test]
fn a_server_that_starts_late_and_a_transfer_that_breaks_are_tried_again() {
    let (mut appliance, mut peer) = pair();
    appliance.retries(2);
    peer.end();
    let command = appliance.command(&["backup", "run"]);
    let run = thread::scope(|scope| {
        let run = scope.spawn(|| Run::of({ command }.output().unwrap()));
        thread::sleep(Duration::from_millis(700));
        peer.start_again();
        run.join().unwrap()
    });
    assert_eq!(run.code, Some(0), "{run:?}");

    // The first transfer is cut, and its connection with it; what asks for the path's kind isn't.
    let once = peer.data().join("once");
    let script = format!(
        "case $* in *-vlogDtp*|*-slogDtp*|*.iLsfx*) if [ ! -e {0} ]; then touch {0}; kill $PPID; exit 1; fi;; esac; exec /usr/bin/rsync \"$@\"",
        once.display()
    );
    let path = format!("{}:/usr/bin:/bin", peer.program("rsync", &script).display());
    peer.set_environment(&[("PATH", &path)]);
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(once.exists());
    let logs = fs::read_dir(appliance.state("logs")).unwrap().map(|log| fs::read_to_string(log.unwrap().path()).unwrap());
    assert_eq!(logs.filter(|log| log.contains("trying again in 2 s: ")).count(), 2);
}

#[test]
fn a_key_that_is_not_let_in_is_for_good() {
    let (mut appliance, peer) = pair();
    appliance.retries(10);
    peer.let_nobody_in();
    let begun = Instant::now();
    let run = appliance.run();
    assert!(run.code == Some(1) && run.stdout.contains("Permission denied"), "{run:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn servers_are_pulled_at_once_and_one_that_fails_stops_no_other() {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("file", "1");
    let here = peer.data().display().to_string();
    for (name, other) in [("one", "two"), ("two", "one")] {
        appliance.pull_from(name, &peer);
        // Each waits for the other.
        let run = format!("touch {here}/{name}; while [ ! -e {here}/{other} ]; do sleep 0.1; done; echo met");
        appliance.source_settings(&format!("[[source.command]]\nname = \"meet\"\nrun = {run:?}"));
    }
    appliance.source("dead", 1, &peer.user.name, &peer.host_key(), &[&peer.data()]);
    let run = appliance.run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!((appliance.archives("one").len(), appliance.archives("two").len(), appliance.archives("dead").len()), (1, 1, 0));
    let lines: Vec<&str> = run.stdout.lines().filter_map(|line| line.trim().split("  ").next()).collect();
    let at = |name: &str| lines.iter().position(|line| *line == name).unwrap_or_else(|| panic!("{run:?}"));
    assert!(at("one") < at("two") && at("two") < at("dead"), "{lines:?}");
}

#[test]
fn no_more_than_the_bandwidth_is_taken() {
    let (mut appliance, peer) = pair();
    let mut noise = vec![0; 512 << 10];
    openssl::rand::rand_bytes(&mut noise).unwrap();
    let file = peer.write("noise", &noise);
    appliance.source_settings("bandwidth = \"128 KiB\"");
    appliance.source_settings(&format!("[[source.command]]\nname = \"noise\"\nrun = \"cat {}\"", file.display()));
    let begun = Instant::now();
    assert_eq!(appliance.run().code, Some(0));
    // Twice 512 KiB take 8 seconds, or 4 if one of them went unhindered; the last block of each does.
    assert!(begun.elapsed() > Duration::from_millis(6500), "{:?}", begun.elapsed());
}
