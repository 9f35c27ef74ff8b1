//! A push to a real Garage: `make test-garage` builds it first, which takes a quarter of an hour.

use std::fs;
use std::sync::{Arc, Mutex};

use vaultberry::outcome::Outcome;
use vaultberry::stop::Stop;

use super::scene::{MONDAY, Scene, TUESDAY, key};
use crate::support::appliance::names;
use crate::support::assert_same;
use crate::support::garage::{Garage, REGION};
use crate::support::gnupg::GnuPg;
use crate::support::store::BUCKET;
use crate::support::way::{Fate, Way};

fn scene(garage: &Garage) -> Scene {
    let scene = Scene::new(GnuPg::new());
    fs::write(scene.path("s3"), Garage::credentials()).unwrap();
    fs::write(scene.path("s3cfg"), garage.s3cfg()).unwrap();
    scene
}

fn region(more: &str) -> String {
    format!("region = \"{REGION}\"\n{more}")
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn what_is_broken_off_at_a_garage_goes_on_is_proven_and_comes_back() {
    let garage = Garage::start();
    let scene = scene(&garage);
    let archive = scene.snapshot(MONDAY, 41 << 20, Outcome::Complete);
    let (stop, parts) = (Stop::default(), Arc::new(Mutex::new(Vec::new())));
    let (asked, seen) = (stop.clone(), Arc::clone(&parts));
    let way = Way::to(garage.port, move |line| {
        let mut seen = seen.lock().unwrap();
        seen.extend(line.split_once("partNumber=").map(|(_, rest)| rest.split(['&', ' ']).next().unwrap().to_owned()));
        if seen.len() == 2 {
            asked.request();
        }
        Fate::Pass
    });
    let config = scene.config_at(&format!("http://127.0.0.1:{}", way.port), &region("parallel = 1"));
    scene.push_until(&config, &archive, Outcome::Complete, &stop).unwrap_err();
    let pushed = scene.push(&config, &archive, Outcome::Complete).unwrap();
    let mut parts = parts.lock().unwrap().clone();
    parts.sort();
    assert!(parts.len() >= 3 && parts.len() <= 4, "only what was in flight is sent again: {parts:?}");
    parts.dedup();
    assert_eq!(parts, ["1", "2", "3"]);
    let multiparts = scene.s3cmd(&["multipart", &format!("s3://{BUCKET}")]);
    assert!(!multiparts.contains("tar.gz.pgp"), "{multiparts}");

    let config = scene.config_at(&format!("http://127.0.0.1:{}", garage.port), &region(""));
    let run = scene.vaultberry(&["offsite", "list"], "");
    assert!(run.code == Some(0) && run.stdout.contains(MONDAY), "{run:?}");
    let run = scene.vaultberry(&["offsite", "verify"], "");
    assert_eq!(run.code, Some(0), "{run:?}");
    let run = scene.fetch(&format!("web/{MONDAY}"), "fetched", Some(&scene.owner.private_key()), "");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(names(&scene.path("fetched")).iter().any(|name| name.ends_with(".tar.gz")));

    // And without vaultberry.
    let sealed = scene.path("sealed.pgp");
    scene.s3cmd(&["get", &format!("s3://{BUCKET}/{}", key(MONDAY, "tar.gz.pgp")), sealed.to_str().unwrap()]);
    assert!(fs::metadata(&sealed).unwrap().len() < pushed.bytes);
    fs::write(scene.path("opened.tar.gz"), scene.owner.decrypt(&sealed)).unwrap();
    assert!(fs::read(scene.path("opened.tar.gz")).unwrap() == fs::read(&archive).unwrap());

    let from = format!("s3://{BUCKET}/vaultberry/web/{MONDAY}");
    let (private, to) = (scene.owner.private_key(), scene.path("restored"));
    let run = scene.vaultberry(&["restore", &from, "--to", to.to_str().unwrap(), "--key", private.to_str().unwrap()], "");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_same(&scene.path("mirror"), &to);

    let again = scene.snapshot(TUESDAY, 1000, Outcome::Complete);
    scene.push(&config, &again, Outcome::Complete).unwrap();
    let listed = scene.s3cmd(&["ls", &format!("s3://{BUCKET}/vaultberry/web/")]);
    assert_eq!(listed.matches(".commit.json").count(), 2, "{listed}");
}

#[test]
#[ignore = "needs Garage: make test-garage"]
fn what_a_garage_cannot_do_is_told() {
    let garage = Garage::start();
    let scene = scene(&garage);
    let endpoint = format!("http://127.0.0.1:{}", garage.port);
    scene.config_at(&endpoint, &region(""));
    let run = scene.vaultberry(&["doctor"], "");
    assert!(run.stdout.contains("the access key can delete an object, and nothing of it stays"), "{run:?}");
    assert!(run.stdout.contains("the access key can write over an object, and no version of it stays"), "{run:?}");
    assert!(run.stdout.contains("what comes isn't locked"), "{run:?}");

    let config = scene.config_at(&endpoint, &region("locked = \"30d\""));
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let problem = scene.push(&config, &archive, Outcome::Complete).unwrap().problem.unwrap();
    assert!(problem.contains("tar.gz.pgp isn't locked\nhint: "), "{problem}");
}
