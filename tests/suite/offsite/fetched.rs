//! Copies that are fetched, listed and refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;
use vaultberry::openpgp::Recipients;
use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene, TUESDAY, key};
use crate::support::appliance::names;
use crate::support::gnupg::GnuPg;
use crate::support::store::{self, Store};

#[test]
fn a_copy_is_fetched_opened_and_never_put_over_a_file() {
    let (scene, store) = (Scene::new(GnuPg::locked("correct horse")), Store::start());
    let config = scene.config(store.port);
    let monday = scene.snapshot(MONDAY, 20 << 20, Outcome::Complete);
    let tuesday = scene.snapshot(TUESDAY, 1000, Outcome::Partial);
    scene.push(&config, &monday, Outcome::Complete).unwrap();
    scene.push(&config, &tuesday, Outcome::Partial).unwrap();
    assert_eq!(scene.clock()["sources"]["web"]["complete"]["snapshot"], MONDAY);
    assert_eq!(scene.clock()["sources"]["web"]["any"]["snapshot"], TUESDAY);

    let run = scene.fetch("web/latest", "wrong", Some(&scene.owner.private_key()), "wrong\n");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.ends_with("private.asc: the passphrase is wrong\n"), "{run:?}");
    assert!(!scene.path("wrong").exists());

    // The newest complete one is Monday's.
    let run = scene.fetch("web/latest", "open", Some(&scene.owner.private_key()), "correct horse\n");
    assert_eq!(run.code, Some(0), "{run:?}");
    let files = ["tar.gz", "index.jsonl.zst"].map(|end| scene.path("open").join(format!("{MONDAY}.{end}")));
    assert_eq!(run.stdout, format!("{}\n{}\n", files[0].display(), files[1].display()));
    assert_eq!(names(&scene.path("open")), [format!("{MONDAY}.index.jsonl.zst"), format!("{MONDAY}.tar.gz")]);
    assert!(fs::read(&files[0]).unwrap() == fs::read(&monday).unwrap(), "the archive isn't the one that was pushed");
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);

    fs::write(&files[0], "mine").unwrap();
    let run = scene.fetch(&format!("web/{MONDAY}"), "open", Some(&scene.owner.private_key()), "correct horse\n");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(&format!("{} is there already", files[0].display())), "{run:?}");
    assert_eq!(fs::read(&files[0]).unwrap(), b"mine");

    // What looks newer and isn't whole, as it is listed, is passed over.
    let (newer, sealed) =
        ("20261126T023000Z", ["tar.gz.pgp", "index.jsonl.zst.pgp"].map(|end| store.get(&key(MONDAY, end)).unwrap()));
    let forged = String::from_utf8(store.get(&key(MONDAY, "commit.json")).unwrap()).unwrap().replace(MONDAY, newer);
    store.put(&key(newer, "commit.json"), forged);
    let latest = |to: &str| {
        let run = scene.fetch("web/latest", to, Some(&scene.owner.private_key()), "correct horse\n");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(names(&scene.path(to)), [format!("{MONDAY}.index.jsonl.zst"), format!("{MONDAY}.tar.gz")]);
    };
    latest("without-archive");
    store.put(&key(newer, "tar.gz.pgp"), &sealed[0][1..]);
    store.put(&key(newer, "index.jsonl.zst.pgp"), &sealed[1]);
    latest("with-another");

    // Without the key the sealed ones come, and gpg opens them.
    let run = scene.fetch(&format!("web/{TUESDAY}"), "sealed", None, "");
    assert_eq!(run.code, Some(0), "{run:?}");
    let opened = format!("to open one: gpg --output {TUESDAY}.tar.gz --decrypt {TUESDAY}.tar.gz.pgp\n");
    assert!(run.stdout.ends_with(&opened), "{run:?}");
    assert_eq!(names(&scene.path("sealed")), [format!("{TUESDAY}.index.jsonl.zst.pgp"), format!("{TUESDAY}.tar.gz.pgp")]);
    let sealed = scene.path("sealed").join(format!("{TUESDAY}.tar.gz.pgp"));
    assert!(scene.owner.decrypt(&sealed) == fs::read(&tuesday).unwrap());

    for (snapshot, told) in [
        ("web/20261125T023000Z", "there is no proven copy of it\nhint: `vaultberry offsite list`"),
        ("mail/latest", "there is no proven and complete copy\nhint: `vaultberry offsite list`"),
        ("web", "\"web\" is not a snapshot\nhint: write SOURCE/NAME"),
    ] {
        let run = scene.fetch(snapshot, "none", None, "");
        assert!(run.code == Some(1) && run.stderr.contains(told), "{run:?}");
        assert!(!scene.path("none").exists());
    }
}

#[test]
fn a_changed_copy_is_refused_and_leaves_nothing() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let config = scene.config(store.port);
    let archive = scene.snapshot(MONDAY, 100_000, Outcome::Complete);
    scene.push(&config, &archive, Outcome::Complete).unwrap();
    let good =
        ["tar.gz.pgp", "index.jsonl.zst.pgp", "commit.json"].map(|end| (key(MONDAY, end), store.get(&key(MONDAY, end)).unwrap()));
    // By its name: latest passes over what is cut short.
    let named = format!("web/{MONDAY}");
    let (sealed, content) = (&good[0].0, &good[0].1);
    let mut changed = content.clone();
    changed[50_000] ^= 1;
    // As someone would change it who can write the commit object too: the message itself gives it away.
    let commit: String = String::from_utf8(good[2].1.clone()).unwrap();
    let sums = [content, &changed].map(|bytes| sha256(&scene, bytes));
    let forged = commit.replace(&sums[0], &sums[1]);
    assert_ne!(forged, commit);
    for (objects, told) in [
        (vec![(sealed, changed.clone())], "isn't what was proven to be there: it was changed or cut short"),
        (vec![(sealed, content[..50_000].to_vec())], "isn't what was proven to be there"),
        (vec![(sealed, [content.as_slice(), b"more"].concat())], "bytes that were proven: it was changed"),
        (vec![(sealed, changed.clone()), (&good[2].0, forged.into_bytes())], "opening "),
    ] {
        for (key, content) in &objects {
            store.put(key, content);
        }
        let run = scene.fetch(&named, "out", Some(&scene.owner.private_key()), "");
        assert!(run.code == Some(1) && run.stderr.contains(told), "{told}: {run:?}");
        assert_eq!(names(&scene.path("out")), Vec::<String>::new());
        for (key, content) in &good {
            store.put(key, content);
        }
    }
    // Another archive, properly sealed and with a commit object of its own: the index knows better.
    let mut other = Vec::new();
    let recipients = Recipients::at(&config.recipients, SystemTime::now());
    recipients.seal(&mut &b"another archive"[..], &mut other, false).unwrap();
    let mut commit: Value = serde_json::from_slice(&good[2].1).unwrap();
    commit["archive"]["size"] = other.len().into();
    commit["archive"]["sha256"] = sha256(&scene, &other).into();
    store.put(sealed, &other);
    store.put(&good[2].0, commit.to_string());
    let run = scene.fetch("web/latest", "out", Some(&scene.owner.private_key()), "");
    assert!(run.code == Some(1) && run.stderr.contains("the archive isn't the one that the index speaks of"), "{run:?}");
    assert_eq!(names(&scene.path("out")), Vec::<String>::new());
    for (key, content) in &good {
        store.put(key, content);
    }
    // Nor is anything else taken for an index.
    let mut index = Vec::new();
    recipients.seal(&mut &[&vec![b' '; 17 << 20][..], b"\n"].concat()[..], &mut index, false).unwrap();
    let mut commit: Value = serde_json::from_slice(&good[2].1).unwrap();
    commit["index"]["size"] = index.len().into();
    commit["index"]["sha256"] = sha256(&scene, &index).into();
    store.put(&good[1].0, &index);
    store.put(&good[2].0, commit.to_string());
    let run = scene.fetch("web/latest", "out", Some(&scene.owner.private_key()), "");
    let told = format!("{MONDAY}.index.jsonl.zst: the last line: it has no end: the index was cut short");
    assert!(run.code == Some(1) && run.stderr.contains(&told), "{run:?}");
    assert_eq!(names(&scene.path("out")), Vec::<String>::new());
    for (key, content) in &good {
        store.put(key, content);
    }
    let stranger = GnuPg::new();
    let run = scene.fetch("web/latest", "out", Some(&stranger.private_key()), "");
    assert!(run.code == Some(1) && run.stderr.contains("it isn't sealed for this key"), "{run:?}");
    assert_eq!(names(&scene.path("out")), Vec::<String>::new());
    let run = scene.fetch("web/latest", "out", Some(&scene.owner.private_key()), "");
    assert_eq!(run.code, Some(0), "{run:?}");
}

fn sha256(scene: &Scene, bytes: &[u8]) -> String {
    let path = scene.path("summed");
    fs::write(&path, bytes).unwrap();
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn the_list_tells_proven_from_unproven_beyond_a_thousand_keys() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let config = scene.config(store.port);
    for (name, outcome) in [(MONDAY, Outcome::Complete), (TUESDAY, Outcome::Partial)] {
        let archive = scene.snapshot(name, 1000, outcome);
        scene.push(&config, &archive, outcome).unwrap();
    }
    store.put(&key("20261125T023000Z", "tar.gz.pgp"), "12345");
    store.put(&key("20261125T023000Z", "index.jsonl.zst.pgp"), "678");
    // A page has a thousand keys; these come before ours and aren't ours.
    for number in 0..1000 {
        store.put(&format!("vaultberry/other/{number:04}"), "");
    }
    let run = scene.vaultberry(&["offsite", "list", "--json"], "");
    assert_eq!(run.code, Some(0), "{run:?}");
    let list: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let found: Vec<_> = list.iter().map(|copy| (copy["snapshot"].as_str().unwrap(), &copy["proven"], &copy["outcome"])).collect();
    let (yes, no) = (Value::from(true), Value::from(false));
    assert_eq!(
        found,
        [(MONDAY, &yes, &"complete".into()), (TUESDAY, &yes, &"partial".into()), ("20261125T023000Z", &no, &Value::Null)]
    );
    let run = scene.vaultberry(&["offsite", "list"], "");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("web  {MONDAY}  complete  ")), "{run:?}");
    assert_eq!(lines[2], "web  20261125T023000Z  unproven     8 bytes  there is no commit object");

    // A copy of which something is gone is proven no more.
    store::delete(store.port, &key(MONDAY, "tar.gz.pgp"));
    let run = scene.vaultberry(&["offsite", "list"], "");
    assert!(
        run.stdout.contains(&format!("web  {MONDAY}  unproven  ")) && run.stdout.contains("  the archive isn't there\n"),
        "{run:?}"
    );
}
