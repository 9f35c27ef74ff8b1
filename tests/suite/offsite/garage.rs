//! A push to a real Garage: `make test-garage` builds it first, which takes a quarter of an hour.

use std::fs;

use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene};
use crate::support::garage::{Garage, REGION};
use crate::support::gnupg::GnuPg;

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
    scene(&garage).there_and_back(garage.port, &region(""));
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
