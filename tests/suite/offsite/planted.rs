//! What others put into the bucket, or take out of it: told, and no hindrance for the rest.

use std::fs;

use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene, TUESDAY, key};
use crate::support::gnupg::GnuPg;
use crate::support::store::{self, Store};

/// One complete copy of `web`.
fn pushed(store: &Store) -> Scene {
    let scene = Scene::new(GnuPg::new());
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    scene.push(&scene.config(store.port), &archive, Outcome::Complete).unwrap();
    scene
}

#[test]
fn a_proven_copy_that_is_gone_is_missed_and_what_is_no_copy_is_no_alarm() {
    let store = Store::start();
    let scene = pushed(&store);
    let verify = |name: &[&str]| scene.vaultberry(&[&["offsite", "verify"], name].concat(), "");
    assert_eq!(verify(&[]).code, Some(0));
    // Nothing is known of a copy that was never there, nor of one in a store that doesn't answer.
    let unknown = verify(&[&format!("web/{TUESDAY}")]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("there is no proven copy of it\nhint: "), "{unknown:?}");
    assert!(!unknown.stdout.contains("BAD") && !unknown.stderr.contains("who changed"), "{unknown:?}");
    assert_eq!(verify(&["--sample", "0"]).code, Some(2));

    store::delete(store.port, &key(MONDAY, "commit.json"));
    let missed = verify(&[]);
    assert!(missed.stdout.contains(&format!("web/{MONDAY}  BAD: it was proven to be here, and isn't any more\n")), "{missed:?}");
    assert!(missed.code == Some(1) && missed.stderr.contains("1 of 1 copies aren't what was proven"), "{missed:?}");

    scene.config_at("http://127.0.0.1:1", "");
    let away = verify(&[&format!("web/{MONDAY}")]);
    assert!(away.code == Some(1) && away.stderr.contains("no connection to the store"), "{away:?}");
    assert!(!away.stdout.contains("BAD") && !away.stderr.contains("who changed"), "{away:?}");
}

#[test]
fn junk_in_the_bucket_hides_no_copy() {
    let store = Store::start();
    let scene = pushed(&store);
    // A key that XML can't hold, a commit object without an end, and a name that is none.
    store.put("vaultberry/web/e%1B%5B31m", "junk");
    store.put(&key(TUESDAY, "commit.json"), vec![b' '; 70_000]);
    let listed = scene.vaultberry(&["offsite", "list"], "");
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(MONDAY) && lines[0].contains("complete"), "{listed:?}");
    assert!(lines[1].contains("unproven") && lines[1].contains("it has more than 65536 bytes"), "{listed:?}");
    let private = scene.owner.private_key();
    let fetched = scene.fetch("web/latest", "fetched", Some(&private), "");
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let nothing = scene.vaultberry(&["offsite", "list", "mail"], "");
    assert!(nothing.code == Some(1) && nothing.stderr.contains("there is no copy of a source \"mail\""), "{nothing:?}");
}

#[test]
fn a_copy_under_another_name_is_refused() {
    let store = Store::start();
    let scene = pushed(&store);
    for end in ["tar.gz.pgp", "index.jsonl.zst.pgp"] {
        store.put(&key(TUESDAY, end), store.get(&key(MONDAY, end)).unwrap());
    }
    let commit = String::from_utf8(store.get(&key(MONDAY, "commit.json")).unwrap()).unwrap();
    store.put(&key(TUESDAY, "commit.json"), commit.replace(MONDAY, TUESDAY));
    let private = scene.owner.private_key();
    let told = format!("is one of web/{MONDAY}: somebody has put it there\nhint: ");
    let fetched = scene.fetch("web/latest", "fetched", Some(&private), "");
    assert!(fetched.code == Some(1) && fetched.stderr.contains(&told), "{fetched:?}");
    assert_eq!(fs::read_dir(scene.path("fetched")).unwrap().count(), 0);
    let (key, to) = (private.to_str().unwrap(), scene.path("restored"));
    let place = "s3://backups/vaultberry/web/latest";
    let restored = scene.vaultberry(&["restore", place, "--key", key, "--to", to.to_str().unwrap()], "");
    assert!(restored.code == Some(1) && restored.stderr.contains(&told) && !to.exists(), "{restored:?}");
    let verified = scene.vaultberry(&["offsite", "verify", "--key", key], "");
    assert!(verified.stdout.contains(&format!("web/{TUESDAY}  BAD: ")), "{verified:?}");
    assert!(verified.stdout.contains(&format!("web/{MONDAY}  as it was proven")), "{verified:?}");
}
