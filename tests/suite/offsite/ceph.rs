//! A push to a real Ceph, whose bucket was made by what `vaultberry offsite policy` printed, word for word.

use std::fs;

use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene, key};
use crate::support::ceph::{APPLIANCE, Ceph, OWNER, run_as_owner};
use crate::support::gnupg::GnuPg;
use crate::support::store::BUCKET;

/// An appliance with a bucket there, as the policy wants it, with these lines more in `[offsite]`.
fn scene(ceph: &Ceph, more: &str) -> Scene {
    let scene = Scene::new(GnuPg::new());
    scene.configure_s3cmd(ceph.port);
    scene.config_at(&format!("http://127.0.0.1:{}", ceph.port), more);
    let policy = scene.vaultberry(&["offsite", "policy", "--for", "ceph"], "");
    assert_eq!(policy.code, Some(0), "{policy:?}");
    fs::write(scene.path("policy.sh"), policy.stdout).unwrap();
    run_as_owner(&scene.path("policy.sh"), scene.folder.path());
    scene
}

#[test]
fn what_is_broken_off_at_a_ceph_goes_on_is_proven_and_comes_back() {
    let ceph = Ceph::start();
    scene(&ceph, "").there_and_back(ceph.port, "");
}

#[test]
fn what_a_ceph_has_stays_whatever_an_intruder_does_with_the_appliance_s_key() {
    let (ceph, locked) = (Ceph::start(), "locked = \"30d\"");
    let scene = scene(&ceph, locked);
    let run = scene.vaultberry(&["doctor"], "");
    for said in [
        "ok       store: it can be listed, written and read, as a push does",
        "WARNING  store: it doesn't know If-None-Match\n",
        "WARNING  store: the access key can write over an object; the old version stays\n",
        "ok       store: the access key can't delete an object\n",
        "ok       store: the access key can't delete a version of an object\n",
        "ok       store: what comes is locked, this until ",
    ] {
        assert!(run.stdout.contains(said), "{said}: {run:?}");
    }

    let config = scene.config_at(&format!("http://127.0.0.1:{}", ceph.port), locked);
    let archive = scene.snapshot(MONDAY, 1 << 20, Outcome::Complete);
    assert_eq!(scene.push(&config, &archive, Outcome::Complete).unwrap().problem, None);
    let sealed = key(MONDAY, "tar.gz.pgp");
    let at = |key: &str| format!("--bucket {BUCKET} --key {key}");
    let listed = format!("list-object-versions --bucket {BUCKET} --prefix {sealed} --query Versions[0].VersionId --output text");
    let version = ceph.aws(OWNER, &listed).unwrap().trim().to_owned();
    for forbidden in [
        format!("delete-object {}", at(&sealed)),
        format!("delete-object {} --version-id={version}", at(&sealed)),
        format!("put-object-retention {} --retention Mode=COMPLIANCE,RetainUntilDate=2126-01-01T00:00:00", at(&sealed)),
        format!("put-object-acl {} --acl public-read", at(&sealed)),
        format!("put-object-tagging {} --tagging TagSet=[{{Key=a,Value=b}}]", at(&sealed)),
        format!("put-object-legal-hold {} --legal-hold Status=ON", at(&sealed)),
        format!("put-object {}", at("elsewhere")),
        String::from("create-bucket --bucket junk"),
        format!("delete-bucket-policy --bucket {BUCKET}"),
        format!("put-bucket-versioning --bucket {BUCKET} --versioning-configuration Status=Suspended"),
        format!("delete-bucket-lifecycle --bucket {BUCKET}"),
    ] {
        let error = ceph.aws(APPLIANCE, &forbidden).expect_err(&forbidden);
        assert!(error.contains("AccessDenied"), "{forbidden}: {error}");
    }
    // What the policy says that it can't forbid.
    let far = "--object-lock-mode COMPLIANCE --object-lock-retain-until-date 2126-01-01T00:00:00 --acl public-read";
    ceph.aws(APPLIANCE, &format!("put-object {} {far}", at("vaultberry/junk"))).unwrap();
    // The owner's key may delete; the lock holds all the same.
    let error = ceph.aws(OWNER, &format!("delete-object {} --version-id={version}", at(&sealed))).unwrap_err();
    assert!(error.contains("AccessDenied"), "{error}");

    // It may write over it, which verifying finds, and the version that was there brings the copy back.
    let run = scene.vaultberry(&["offsite", "verify"], "");
    assert_eq!(run.code, Some(0), "{run:?}");
    ceph.aws(APPLIANCE, &format!("put-object {} --body {}", at(&sealed), scene.path("policy.sh").display())).unwrap();
    let run = scene.vaultberry(&["offsite", "verify"], "");
    assert!(run.code == Some(1) && run.stdout.contains(&format!("web/{MONDAY}  BAD: ")), "{run:?}");
    let older = scene.path("older.pgp");
    ceph.aws(OWNER, &format!("get-object {} --version-id={version} {}", at(&sealed), older.display())).unwrap();
    assert!(scene.owner.decrypt(&older) == fs::read(&archive).unwrap());
}
