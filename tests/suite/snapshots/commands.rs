//! `vaultberry snapshot …` over real snapshots.

use std::fs;

use serde_json::Value;
use vaultberry::outcome::Outcome;

use super::{appliance, keep, plain_mirror};
use crate::support::appliance::{Appliance, Run};

fn snapshot(appliance: &Appliance, arguments: &[&str]) -> Run {
    Run::of(appliance.command(&[&["snapshot"], arguments].concat()).output().unwrap())
}

/// What a command says in JSON lines.
fn lines(appliance: &Appliance, arguments: &[&str]) -> Vec<Value> {
    let run = snapshot(appliance, &[arguments, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Two snapshots, with a change between them.
fn two() -> Appliance {
    let (appliance, mirror) = (appliance(), plain_mirror());
    keep(&appliance, mirror.path(), "20261122T023000Z", Outcome::Complete);
    let srv = mirror.path().join("srv");
    fs::write(srv.join("new.jpg"), "new").unwrap();
    fs::write(srv.join("www2"), "changed").unwrap();
    fs::remove_dir_all(srv.join("www")).unwrap();
    keep(&appliance, mirror.path(), "20261123T023000Z", Outcome::Complete);
    appliance
}

#[test]
fn a_difference_is_told_entry_by_entry() {
    let appliance = two();
    let run = snapshot(&appliance, &["diff", "web/20261122T023000Z", "web/latest"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected = ["~ /srv  (time)", "+ /srv/new.jpg", "- /srv/www", "~ /srv/www2  (content, time)"];
    let said: Vec<&str> = run.stdout.lines().collect();
    assert!(expected.iter().all(|line| said.contains(line)), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("- /srv/www/")), "{said:?}");
    assert!(said.iter().all(|line| !line.starts_with("+ ") || *line == "+ /srv/new.jpg"), "{said:?}");
    assert_eq!(snapshot(&appliance, &["diff", "web/latest", "web/latest"]).stdout, "");
    let changed = lines(&appliance, &["diff", "web/20261122T023000Z", "web/latest"]);
    assert!(changed.iter().any(|line| line["change"] == "added" && line["path"] == "srv/new.jpg"), "{changed:?}");
}

#[test]
fn files_are_found_in_every_snapshot_the_newest_first() {
    let appliance = two();
    let found = lines(&appliance, &["find", "www2"]);
    let names: Vec<&str> = found.iter().map(|line| line["snapshot"].as_str().unwrap()).collect();
    assert_eq!(names, ["20261123T023000Z", "20261122T023000Z"]);
    assert_eq!(found[0]["path"], "srv/www2");
    let run = snapshot(&appliance, &["find", "*.jpg"]);
    assert!(run.stdout.starts_with("web/20261123T023000Z  ") && run.stdout.ends_with("/srv/new.jpg\n"), "{run:?}");
    assert_eq!(lines(&appliance, &["find", "www2", "web/20261122T023000Z"]).len(), 1);
    let run = snapshot(&appliance, &["find", "nowhere"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), "error: finding \"nowhere\": no snapshot has such a file\n"));
}

#[test]
fn a_snapshot_is_shown_whole() {
    let appliance = two();
    let run = snapshot(&appliance, &["show", "web/latest"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for part in ["snapshot  web/20261123T023000Z", "outcome   complete", "holds     srv", "largest "] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
    let shown = &lines(&appliance, &["show", "web/latest"])[0];
    assert_eq!(
        (&shown["outcome"], &shown["kinds"]["file"]),
        (&"complete".into(), &shown["largest"].as_array().unwrap().len().into())
    );
}

#[test]
fn damage_is_found_whole_and_by_sample_and_what_is_good_is_called_so() {
    let appliance = two();
    let run = snapshot(&appliance, &["verify"]);
    assert_eq!((run.code, run.stdout.lines().count()), (Some(0), 2), "{run:?}");
    assert!(run.stdout.lines().all(|line| line.contains(": good; ")), "{run:?}");
    let run = snapshot(&appliance, &["verify", "web", "--sample", "100%"]);
    assert!(run.code == Some(0) && run.stdout.contains(": good; a sample of "), "{run:?}");
    let archive = appliance.backup("snapshots/web/20261123T023000Z.tar.gz");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&archive, bytes).unwrap();
    for options in [&["verify", "web/latest"][..], &["verify", "web/latest", "--sample", "100"]] {
        let run = snapshot(&appliance, options);
        assert!(run.code == Some(1) && run.stdout.contains(": DAMAGED; "), "{run:?}");
    }
    let run = snapshot(&appliance, &["verify", "--json"]);
    let outcomes: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].clone()).collect();
    assert_eq!((run.code, outcomes), (Some(1), vec!["failed".into(), "complete".into()]));
}

#[test]
fn what_the_rules_say_is_told_and_done_and_a_pin_stays() {
    let (mut appliance, mirror) = (appliance(), plain_mirror());
    for day in ["20200101", "20200102", "20200201", "20200202", "20200203"] {
        keep(&appliance, mirror.path(), &format!("{day}T023000Z"), Outcome::Complete);
    }
    appliance.source_settings("keep = { last = 1, monthly = 2 }");
    let run = snapshot(&appliance, &["pin", "web/20200101T023000Z", "--reason", "before the move", "--json"]);
    assert!(run.stdout.ends_with("\"pin\":\"before the move\"}\n"), "{run:?}");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(snapshot(&appliance, &["list"]).stdout.contains("  pinned: before the move\n"));
    let told: Vec<(String, bool)> = lines(&appliance, &["prune", "--dry-run"])
        .iter()
        .map(|line| (line["snapshot"].as_str().unwrap()[..8].to_owned(), line["remove"].as_bool().unwrap()))
        .collect();
    let expected = [("20200101", false), ("20200102", false), ("20200201", true), ("20200202", true), ("20200203", false)];
    assert_eq!(told, expected.map(|(day, gone)| (day.to_owned(), gone)));
    assert_eq!(appliance.archives("web").len(), 5);
    let run = snapshot(&appliance, &["prune"]);
    assert!(run.code == Some(0) && run.stdout.contains("web/20200203T023000Z  stays    last, month 2020-02"), "{run:?}");
    assert_eq!(appliance.archives("web").len(), 3);
    let told: serde_json::Value =
        serde_json::from_str(&snapshot(&appliance, &["unpin", "web/20200101T023000Z", "--json"]).stdout).unwrap();
    assert!(told["archive"].as_str().unwrap().ends_with("20200101T023000Z.tar.gz") && told["pin"].is_null(), "{told}");
    assert_eq!(lines(&appliance, &["prune"]).iter().filter(|line| line["remove"] == true).count(), 1);
    assert_eq!(appliance.snapshots("web").len(), 4);
}
