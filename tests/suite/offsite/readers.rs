//! Other programs that open what was sealed: sq, and the GnuPG of Debian 13 beside that of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene, key};
use crate::support::cached;
use crate::support::gnupg::GnuPg;
use crate::support::store::Store;

/// A sealed archive of some parts, as it came into the store, and what is in it.
fn sealed(scene: &Scene) -> (PathBuf, Vec<u8>) {
    let store = Store::start();
    let archive = scene.snapshot(MONDAY, 17 << 20, Outcome::Complete);
    scene.push(&scene.config(store.port), &archive, Outcome::Complete).unwrap();
    let sealed = scene.path("sealed.pgp");
    fs::write(&sealed, store.get(&key(MONDAY, "tar.gz.pgp")).unwrap()).unwrap();
    (sealed, fs::read(archive).unwrap())
}

#[test]
fn sq_opens_a_copy() {
    let scene = Scene::new(GnuPg::new());
    let (sealed, content) = sealed(&scene);
    let mut sq = Command::new("sq");
    sq.args(["decrypt", "--recipient-key"]).arg(scene.owner.private_key()).arg("--output").arg(scene.path("opened")).arg(&sealed);
    let output = sq.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(scene.path("opened")).unwrap() == content);
}

/// A program of the tree that `tools/setup` has unpacked, with the tree's own libraries.
fn of_trixie(folder: &Path, program: &str) -> PathBuf {
    let tree = cached("gnupg-trixie", "test").join("tree");
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let script = folder.join(program);
    let start = format!(
        "#!/bin/sh\nexec {} --library-path {} {} \"$@\"\n",
        tree.join("usr/lib64/ld-linux-x86-64.so.2").display(),
        libraries.display(),
        tree.join("usr/bin").join(program).display()
    );
    fs::write(&script, start).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn the_gnupg_of_debian_13_opens_a_copy() {
    let scene = Scene::new(GnuPg::new());
    let (sealed, content) = sealed(&scene);
    let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
    let (gpg, agent) = (of_trixie(home.path(), "gpg"), of_trixie(home.path(), "gpg-agent"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&gpg);
        command.env("GNUPGHOME", home.path()).arg("--agent-program").arg(&agent).args(["--batch", "--yes"]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let version = String::from_utf8(run(&["--version"])).unwrap();
    assert!(version.starts_with("gpg (GnuPG) 2.4"), "{version}");
    run(&["--import", scene.owner.private_key().to_str().unwrap()]);
    let opened = run(&["--decrypt", sealed.to_str().unwrap()]);
    let _ = Command::new("gpgconf").env("GNUPGHOME", home.path()).args(["--kill", "gpg-agent"]).status();
    assert!(opened == content);
}
