//! `vaultberry doctor` on appliances that are well and that aren't.

use serde_json::Value;

use crate::support::appliance::{Appliance, Run};
use crate::support::gnupg::GnuPg;
use crate::support::peer::Peer;
use crate::support::servers::CREDENTIALS;
use crate::support::store::{BUCKET, Store};

fn appliance(store: &Store, owner: &GnuPg) -> (Appliance, Peer) {
    let mut appliance = Appliance::new(false);
    let peer = Peer::start(&appliance.public_key(), None);
    let credentials = appliance.secret("s3", CREDENTIALS);
    appliance.settings(&format!(
        "[openpgp]\nrecipients = [\"\"\"{}\"\"\"]\n[offsite]\nbucket = \"{BUCKET}\"\nprefix = \"attic\"\n\
         endpoint = \"http://127.0.0.1:{}\"\ncredentials = \"{}\"\n",
        owner.certificate(),
        store.port,
        credentials.display()
    ));
    appliance.pull_from("web", &peer);
    (appliance, peer)
}

fn examine(appliance: &Appliance) -> (Option<i32>, Vec<(String, String, String)>) {
    let run = Run::of(appliance.command(&["doctor", "--json"]).output().unwrap());
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
    let (appliance, _peer) = appliance(&store, &owner);
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
    assert!(run.stdout.starts_with("ok       certificate: all 1 can be sealed for\nok       source web: "), "{run:?}");
    assert!(run.stdout.contains("WARNING  store: ") && run.stdout.contains("\n         hint: "), "{run:?}");
}

#[test]
fn a_bucket_that_locks_keeps_versions_whoever_asks() {
    let owner = GnuPg::new();
    let store = Store::start_locking(30);
    let (appliance, _peer) = appliance(&store, &owner);
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(3), "{checks:?}");
    let told = |part: &str| checks.iter().any(|(_, state, told)| told.contains(part) && state == "ok");
    assert!(told("the access key can't delete a version of an object"), "{checks:?}");
    assert!(told("what comes is locked, this until "), "{checks:?}");
    assert!(checks.iter().any(|(.., told)| told.contains("can write over an object; the old version stays")), "{checks:?}");
}

#[test]
fn what_is_broken_is_found_and_the_rest_is_tried_all_the_same() {
    let owner = GnuPg::expired();
    let mut store = Store::start();
    let (appliance, mut peer) = appliance(&store, &owner);
    store.end();
    peer.change_host_key();
    let (code, checks) = examine(&appliance);
    assert_eq!(code, Some(1));
    let failed: Vec<&str> = checks.iter().filter(|(_, state, _)| state == "failed").map(|(about, ..)| about.as_str()).collect();
    assert_eq!(failed, ["certificate", "source web", "store"], "{checks:?}");
    assert!(checks.iter().all(|(.., told)| told.contains("it isn't valid now") || told.contains("\nhint: ")), "{checks:?}");
}
