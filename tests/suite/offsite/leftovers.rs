//! Uploads in parts that won't be completed: whose they are, and what becomes of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vaultberry::offsite;
use vaultberry::outcome::Outcome;
use vaultberry::progress::Progress;
use vaultberry::stop::Stop;

use super::scene::{MONDAY, Scene, TUESDAY, key};
use crate::support::appliance::names;
use crate::support::gnupg::GnuPg;
use crate::support::store::{self, Store};
use crate::support::way::{Fate, Way};

#[test]
fn uploads_of_others_are_left_alone() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    // Under the very key, and beside it.
    let foreign = [key(MONDAY, "tar.gz.pgp"), key(MONDAY, "tar.gz.pgp.other"), key(TUESDAY, "tar.gz.pgp")];
    for key in &foreign {
        store.begin_upload(key);
    }
    let answers = AtomicUsize::new(0);
    let way = Way::to(store.port, move |line| {
        // The store begins one, and its answer is lost: that one is ours.
        let begins = line.starts_with("POST ") && line.contains("?uploads");
        if begins && answers.fetch_add(1, Ordering::SeqCst) == 0 { Fate::Lose } else { Fate::Pass }
    });
    scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap();
    assert_eq!(store.uploads(), foreign);
}

#[test]
fn a_second_upload_is_thrown_away_also_by_the_run_after_the_one_that_completed_the_first() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 17 << 20, Outcome::Complete);
    let (answers, completed, stop) = (AtomicUsize::new(0), AtomicBool::new(false), Stop::default());
    let asked = stop.clone();
    let way = Way::to(store.port, move |line| {
        // The answer to the first is lost, and the request made again. The run ends with the request that comes after the store
        // has put the parts together.
        let begins = line.starts_with("POST ") && line.contains("?uploads");
        if completed.load(Ordering::SeqCst) {
            asked.request();
        }
        completed.fetch_or(line.starts_with("POST ") && line.contains("tar.gz.pgp?uploadId="), Ordering::SeqCst);
        if begins && answers.fetch_add(1, Ordering::SeqCst) == 0 { Fate::Lose } else { Fate::Pass }
    });
    let error = scene.push_until(&scene.config(way.port), &archive, Outcome::Complete, &stop).unwrap_err();
    assert!(error.contains("interrupted by a signal"), "{error}");
    assert_eq!((store.keys().len(), store.uploads()), (2, vec![key(MONDAY, "tar.gz.pgp")]));
    scene.readdress(way.port, store.port);
    scene.push(&scene.config(store.port), &archive, Outcome::Complete).unwrap();
    assert_eq!((store.keys().len(), store.uploads()), (3, vec![]));
}

#[test]
fn a_push_for_others_or_elsewhere_is_given_up_with_what_it_had_begun() {
    let (mut scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    let broken = |scene: &Scene| {
        scene.break_off(&store, &archive, "");
        assert_eq!(store.uploads(), [key(MONDAY, "tar.gz.pgp")]);
    };
    broken(&scene);
    scene.owner = GnuPg::new();
    let config = scene.config(store.port);
    assert_eq!(offsite::resume(&config, "web", &Stop::default(), &Progress::default()).unwrap(), None);
    assert_eq!((store.uploads(), names(&scene.path("backup/outbox/web"))), (vec![], vec![]));

    store::delete(store.port, &key(MONDAY, "index.jsonl.zst.pgp"));
    broken(&scene);
    assert_eq!(offsite::give_up_others(&config, &["web"], &Stop::default()).unwrap(), Vec::<String>::new());
    assert_eq!(offsite::give_up_others(&config, &["mail"], &Stop::default()).unwrap(), ["web"]);
    assert_eq!((store.uploads(), names(&scene.path("backup/outbox/web"))), (vec![], vec![]));

    // What lies in another store can't be thrown away from here; it isn't forgotten by that store's owner.
    store::delete(store.port, &key(MONDAY, "index.jsonl.zst.pgp"));
    broken(&scene);
    let mut elsewhere = scene.config(store.port);
    elsewhere.offsite.as_mut().unwrap().prefix = "elsewhere".into();
    assert_eq!(offsite::resume(&elsewhere, "web", &Stop::default(), &Progress::default()).unwrap(), None);
    assert_eq!((store.uploads().len(), names(&scene.path("backup/outbox/web"))), (1, vec![]));
}

#[test]
fn parts_that_the_store_keeps_from_being_thrown_away_hold_nothing_up() {
    let (mut scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    scene.break_off(&store, &archive, "");
    scene.owner = GnuPg::new();
    let resumed = |fate: Fate| {
        let way = Way::to(store.port, move |line| if line.starts_with("DELETE ") { fate } else { Fate::Pass });
        scene.readdress(store.port, way.port);
        let resumed = offsite::resume(&scene.config(way.port), "web", &Stop::default(), &Progress::default());
        if resumed.is_err() {
            scene.readdress(way.port, store.port);
        }
        resumed.map_err(|error| format!("{error:#}"))
    };
    // Trouble of the moment: the next run asks again.
    let error = resumed(Fate::Answer(503, "ServiceUnavailable")).unwrap_err();
    assert!(error.contains("throwing away the parts of ") && names(&scene.path("backup/outbox/web")) == ["push.json"], "{error}");
    assert_eq!(resumed(Fate::Answer(403, "AccessDenied")), Ok(None));
    assert_eq!((store.uploads().len(), names(&scene.path("backup/outbox/web"))), (1, vec![]));
    let tuesday = scene.snapshot(TUESDAY, 1000, Outcome::Complete);
    scene.push(&scene.config(store.port), &tuesday, Outcome::Complete).unwrap();
}
