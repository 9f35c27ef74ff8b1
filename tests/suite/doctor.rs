//! `vaultberry doctor` on appliances that are well and that aren't.

use serde_json::Value;

use crate::support::appliance::{Appliance, Run};
use crate::support::gnupg::GnuPg;
use crate::support::mailbox::Mailbox;
use crate::support::peer::Peer;
use crate::support::servers::CREDENTIALS;
use crate::support::store::{BUCKET, Store};
use crate::support::way::{Fate, Way};

fn appliance(port: u16, owner: &GnuPg) -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    let credentials = appliance.secret("s3", CREDENTIALS);
    appliance.settings(&format!(
        "[openpgp]\nrecipients = [\"\"\"{}\"\"\"]\n[offsite]\nbucket = \"{BUCKET}\"\nprefix = \"attic\"\n\
         endpoint = \"http://127.0.0.1:{}\"\ncredentials = \"{}\"\n",
        owner.certificate(),
        port,
        credentials.display()
    ));
    appliance.pull_from("web", &peer);
    (appliance, peer)
}

fn examine(appliance: &Appliance) -> (Option<i32>, Vec<(String, String, String)>) {
    let run = Run::of(appliance.command(&["doctor", "--json"]).output().unwrap());
    assert_eq!(run.stderr, "");
    let checks = run.stdout.lines().map(|line| {
        let check: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        (text("about"), text("state"), text("told"))
    });
    (run.code, checks.collect())
}

#[test]
fn what_an_intruder_could_do_is_tried_with_a_probe_and_told() {
    let owner = GnuPg::new();
    let store = Store::start();
    store.put("attic/web/precious", "keep me");
    let (appliance, _peer) = appliance(store.port, &owner);
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(3), "{checks:?}");
    let told = |part: &str| checks.iter().find(|(.., told)| told.contains(part)).map(|(_, state, _)| state.as_str());
    assert_eq!(told("with a key that is pinned"), Some("ok"));
    assert_eq!(told("all 1 can be sealed for"), Some("ok"));
    assert_eq!(told("as a push does"), Some("ok"));
    assert_eq!(told("(If-None-Match)"), Some("ok"));
    assert_eq!(told("can write over an object, and no version of it stays\nhint: "), Some("warning"));
    assert_eq!(told("can delete an object, and nothing of it stays\nhint: "), Some("warning"));
    assert_eq!(told("what comes isn't locked"), Some("warning"));
    assert_eq!(store.keys(), ["attic/web/precious"], "only the probe was touched, and it's gone");

    let run = Run::of(appliance.command(&["doctor"]).output().unwrap());
    assert!(run.stdout.starts_with("ok       state: ") && run.stdout.contains(" takes files\n"), "{run:?}");
    assert!(run.stdout.contains("\nok       certificate: all 1 can be sealed for\nok       source web: "), "{run:?}");
    assert!(run.stdout.contains("WARNING  store: ") && run.stdout.contains("\n         hint: "), "{run:?}");
}

#[test]
fn a_bucket_that_locks_keeps_versions_whoever_asks() {
    let owner = GnuPg::new();
    let store = Store::start_locking(30);
    let (appliance, _peer) = appliance(store.port, &owner);
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(3), "{checks:?}");
    let told = |part: &str| checks.iter().any(|(_, state, told)| told.contains(part) && state == "ok");
    assert!(told("the access key can't delete a version of an object"), "{checks:?}");
    assert!(told("what comes is locked, this until "), "{checks:?}");
    assert!(checks.iter().any(|(.., told)| told.contains("can write over an object; the old version stays")), "{checks:?}");
}

#[test]
fn what_minio_says_of_a_locked_version_is_a_no_and_trouble_keeps_nothing_from_being_tried() {
    for (answer, state, expected) in [
        (
            "InvalidRequest: Object is WORM protected and cannot be overwritten",
            "ok",
            "the access key can't delete a version of an object",
        ),
        ("InvalidRequest: no such thing", "failed", "the store answers InvalidRequest: no such thing (HTTP 400)"),
    ] {
        let store = Store::start_locking(30);
        let deletes = |line: &str| line.starts_with("DELETE ") && line.contains("versionId=");
        let way = Way::to(store.port, move |line| if deletes(line) { Fate::Answer(400, answer) } else { Fate::Pass });
        let (appliance, _peer) = appliance(way.port, &GnuPg::new());
        let (_, checks) = examine(&appliance);
        let told = |part: &str, wanted: &str| checks.iter().any(|(_, state, told)| told.contains(part) && state == wanted);
        assert!(told(expected, state), "{checks:?}");
        assert!(told("what comes is locked, this until ", "ok"), "{checks:?}");
    }
}

#[test]
fn what_is_broken_is_found_and_the_rest_is_tried_all_the_same() {
    let owner = GnuPg::expired();
    let mut store = Store::start();
    let (appliance, mut peer) = appliance(store.port, &owner);
    store.end();
    peer.change_host_key();
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(1));
    let failed: Vec<&str> = checks.iter().filter(|(_, state, _)| state == "failed").map(|(about, ..)| about.as_str()).collect();
    assert_eq!(failed, ["certificate", "source web", "store"], "{checks:?}");
    let helps = |told: &str| told.contains("it isn't valid now") || told.contains("\nhint: ");
    assert!(checks.iter().all(|(_, state, told)| state == "ok" || helps(told)), "{checks:?}");
}

#[test]
fn the_clocks_of_appliance_and_store_are_compared() {
    for (ahead, state, told) in [
        (0, "ok", "it agrees with the store's"),
        (7200, "warning", "this machine's is about 2h behind the store's\nhint: `timedatectl` tells"),
        (-600, "warning", "this machine's is about 10m ahead of the store's\nhint: "),
    ] {
        let store = Store::start_ahead(ahead);
        let (appliance, _peer) = appliance(store.port, &GnuPg::new());
        let (_, checks) = examine(&appliance);
        let clock = checks.iter().find(|(about, ..)| about == "clock").unwrap();
        assert!(clock.1 == state && clock.2.starts_with(told), "{clock:?}");
    }
}

#[test]
fn each_mail_server_is_greeted_as_for_a_mail_and_gets_none() {
    let owner = GnuPg::new();
    let store = Store::start();
    let (mut appliance, _peer) = appliance(store.port, &owner);
    let login = ["--user", "pi", "--password", "correct-horse"];
    let (right, wrong) = (Mailbox::start(&login), Mailbox::start(&login));
    let (clear, mut down) = (Mailbox::start(&["--clear", "--size", "1000000"]), Mailbox::start(&[]));
    down.end();
    let credentials = appliance.secret("smtp", "user = \"pi\"\npassword = \"correct-horse\"\n");
    let other = appliance.secret("smtp-other", "user = \"pi\"\npassword = \"battery-staple\"\n");
    let server = |mailbox: &Mailbox, credentials: Option<&std::path::Path>| {
        let credentials = credentials.map_or(String::new(), |path| format!("credentials = \"{}\"\n", path.display()));
        format!("server = \"127.0.0.1\"\nport = {}\nca = \"\"\"{}\"\"\"\n{credentials}", mailbox.port, mailbox.authority())
    };
    appliance.settings(&format!(
        "[report]\nto = [\"owner@example.org\"]\nfrom = \"pi@example.net\"\n{}\
         [[report.fallback]]\n{}[[report.fallback]]\n{}[[report.fallback]]\nserver = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\n",
        server(&right, Some(&credentials)),
        server(&wrong, Some(&other)),
        server(&down, None),
        clear.port,
    ));
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(1), "{checks:?}");
    let of = |port: u16| {
        let check = checks.iter().find(|(about, ..)| *about == format!("mail server 127.0.0.1:{port}")).unwrap();
        (check.1.as_str(), check.2.as_str())
    };
    assert_eq!(of(right.port), ("ok", "it proves who it is by TLS, and takes the login"));
    let told = "it takes mails of 1000000 bytes, and [report] size_limit is 1048576\nhint: ";
    assert!(of(clear.port).0 == "warning" && of(clear.port).1.starts_with(told), "{checks:?}");
    assert!(of(wrong.port).0 == "failed" && of(wrong.port).1.contains("says 535 5.7.8\nhint: look at user"), "{checks:?}");
    assert!(of(down.port).0 == "failed" && of(down.port).1.contains("\nhint: "), "{checks:?}");
    for mailbox in [&right, &wrong, &clear] {
        assert_eq!(mailbox.mails(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_server_that_does_not_let_the_appliance_in_is_found() {
    let store = Store::start();
    let (appliance, peer) = appliance(store.port, &GnuPg::new());
    peer.let_nobody_in();
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(1), "{checks:?}");
    let source = checks.iter().find(|(about, ..)| about == "source web").unwrap();
    assert!(source.1 == "failed" && source.2.contains("Permission denied") && source.2.contains("\nhint: "), "{source:?}");
}
