//! What a person does with copies on another machine: restoring straight from the store, verifying, and looking whom they are
//! sealed for.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;
use vaultberry::luks::cipher::Cipher;
use vaultberry::luks::{self, Key};
use vaultberry::offsite::{fetch, retrieve, verify};
use vaultberry::outcome::Outcome;
use vaultberry::progress::Progress;
use vaultberry::secret::Secret;
use vaultberry::stop::Stop;

use super::scene::{MONDAY, Scene, TUESDAY, key};
use crate::support::appliance::{Appliance, Run, names};
use crate::support::certify;
use crate::support::gnupg::GnuPg;
use crate::support::peer::Peer;
use crate::support::servers::CREDENTIALS;
use crate::support::store::{self, Store};
use crate::support::way::{Fate, Way};

/// The program on a machine that has no configuration.
fn vaultberry(scene: &Scene, port: u16, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    command.args(arguments).args(["--endpoint", &format!("http://127.0.0.1:{port}"), "--credentials"]).arg(scene.path("s3"));
    Run::of(command.output().unwrap())
}

fn restore(scene: &Scene, port: u16, copy: &str, key: &Path, to: &str, paths: &[&str]) -> Run {
    let (place, key, to) = (format!("s3://{}/vaultberry/{copy}", store::BUCKET), key.to_str().unwrap(), scene.path(to));
    let mut arguments = vec!["restore", &place, "--key", key, "--to", to.to_str().unwrap()];
    arguments.extend(paths);
    vaultberry(scene, port, &arguments)
}

/// A scene with two files and another name of the first, pushed.
fn pushed(store: &Store) -> Scene {
    let scene = Scene::new(GnuPg::new());
    fs::create_dir_all(scene.path("mirror/srv/a")).unwrap();
    fs::write(scene.path("mirror/srv/a/first"), "the content\n").unwrap();
    fs::hard_link(scene.path("mirror/srv/a/first"), scene.path("mirror/srv/other")).unwrap();
    let archive = scene.snapshot(MONDAY, 20 << 20, Outcome::Complete);
    scene.push(&scene.config(store.port), &archive, Outcome::Complete).unwrap();
    scene
}

#[test]
fn a_copy_is_restored_straight_from_the_store() {
    let store = Store::start();
    let scene = pushed(&store);
    let key = scene.owner.private_key();
    let run = restore(&scene, store.port, "web/latest", &key, "all", &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with("restored 2 files (20.0 MiB), "), "{run:?}");
    crate::support::assert_same(&scene.path("mirror"), &scene.path("all"));

    // Parts of it, of which one is another name of what isn't asked for.
    let run = restore(&scene, store.port, &format!("web/{MONDAY}"), &key, "part", &["/srv/other"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!((names(&scene.path("part")), names(&scene.path("part/srv"))), (vec!["srv".to_owned()], vec!["other".to_owned()]));
    assert_eq!(fs::read_to_string(scene.path("part/srv/other")).unwrap(), "the content\n");

    for (arguments, told) in [
        (vec!["restore", "s3://backups", "--key", "x", "--to", "y"], "names no copy\nhint: write s3://BUCKET/PREFIX/SOURCE/NAME"),
        (vec!["restore", "s3://backups/vaultberry/web/latest", "--to", "y"], "is sealed\nhint: name the private key with --key"),
        (vec!["restore", "web/latest", "--to", "y"], "are for copies in one\nhint: write s3://"),
        (vec!["offsite", "list"], "stands in the configuration\nhint: with --store"),
        (vec!["offsite", "list", "--store", "s3://UPPER/x"], "the bucket \"UPPER\" is not a bucket's name\nhint: write 3 to 63"),
    ] {
        let run = vaultberry(&scene, store.port, &arguments);
        assert!(run.code == Some(1) && run.stderr.contains(told), "{arguments:?}: {run:?}");
    }
    // A configuration that speaks of the bucket says how it is reached.
    let (to, private) = (scene.path("by-config"), key.to_str().unwrap());
    let arguments = ["restore", "s3://backups/vaultberry/web/latest", "--key", private, "--to", to.to_str().unwrap()];
    let run = scene.vaultberry(&arguments, "");
    assert_eq!(run.code, Some(0), "{run:?}");
    crate::support::assert_same(&scene.path("mirror"), &to);

    let run = restore(&scene, store.port, "web/latest", &GnuPg::new().private_key(), "stranger", &[]);
    assert!(run.code == Some(1) && run.stderr.contains("it isn't sealed for this key"), "{run:?}");
    assert!(!scene.path("stranger").exists());
}

#[test]
fn a_connection_that_breaks_is_gone_on_with_and_a_changed_copy_is_told() {
    let store = Store::start();
    let scene = pushed(&store);
    let sealed = key(MONDAY, "tar.gz.pgp");
    let (asked, object) = (std::sync::Arc::new(AtomicUsize::new(0)), sealed.clone());
    let count = std::sync::Arc::clone(&asked);
    let way = Way::to(store.port, move |line| {
        let is = line.starts_with("GET ") && line.contains(&object);
        if is && count.fetch_add(1, Ordering::SeqCst) < 2 { Fate::Cut } else { Fate::Pass }
    });
    let run = restore(&scene, way.port, "web/latest", &scene.owner.private_key(), "broken", &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    crate::support::assert_same(&scene.path("mirror"), &scene.path("broken"));

    damage(&store, &sealed);
    let run = restore(&scene, store.port, "web/latest", &scene.owner.private_key(), "changed", &[]);
    assert!(run.code == Some(1) && run.stderr.contains("the archive is damaged"), "{run:?}");
    assert!(run.stderr.contains("\nhint: another copy may have what is named here (`vaultberry offsite list`)"), "{run:?}");
    // Verifying finds it without a key.
    let verified = vaultberry(&scene, store.port, &["offsite", "verify", "--store", "s3://backups/vaultberry"]);
    assert!(verified.code == Some(1) && verified.stdout.starts_with(&format!("web/{MONDAY}  BAD: ")), "{verified:?}");
    assert!(verified.stderr.contains("1 of 1 copies aren't what was proven\nhint: "), "{verified:?}");
}

/// Changes a bit in the middle.
fn damage(store: &Store, key: &str) {
    let mut changed = store.get(key).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    store.put(key, &changed);
}

#[test]
fn what_stands_behind_a_damaged_place_can_be_read_as_the_guide_says() {
    let store = Store::start();
    let scene = pushed(&store);
    fs::write(scene.path("mirror/srv/zz"), "behind\n").unwrap();
    let archive = scene.snapshot(TUESDAY, 20 << 20, Outcome::Complete);
    scene.push(&scene.config(store.port), &archive, Outcome::Complete).unwrap();
    damage(&store, &key(TUESDAY, "tar.gz.pgp"));
    scene.configure_s3cmd(store.port);
    let guide = include_str!("../../../docs/guides/fetch.md");
    let (_, commands) = guide.split_once("## A copy that is damaged").unwrap();
    let (commands, _) = commands.split_once("```sh\n").unwrap().1.split_once("```").unwrap();
    let commands = commands
        .replace("s3://my-backups", &format!("s3://{}", store::BUCKET))
        .replace("20261116T023000Z", TUESDAY)
        .replace("home/me/letters", "srv/zz")
        .replace("s3cmd ", "s3cmd -c s3cfg ")
        .replace("vaultberry restore", concat!(env!("CARGO_BIN_EXE_vaultberry"), " restore"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &commands]).current_dir(scene.path("")).env("GNUPGHOME", scene.owner.home());
    let run = Run::of(shell.output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(fs::read_to_string(scene.path("restored/srv/zz")).unwrap(), "behind\n");
}

#[test]
fn a_download_that_falls_silent_is_gone_on_with() {
    let store = Store::start();
    let scene = pushed(&store);
    let (credentials, private) = (scene.path("s3"), scene.owner.private_key());
    // The answer doesn't come, or ends in its midst: to the first request of each command.
    for (number, fate) in [Fate::Stall, Fate::Hang].into_iter().enumerate() {
        let (asked, object) = (std::sync::Arc::new(AtomicUsize::new(0)), key(MONDAY, "tar.gz.pgp"));
        let count = std::sync::Arc::clone(&asked);
        let way = Way::to(store.port, move |line| {
            let is = line.starts_with("GET ") && line.contains(&object);
            if is && count.fetch_add(1, Ordering::SeqCst) % 2 == 0 { fate } else { Fate::Pass }
        });
        let mut offsite = scene.config(way.port).offsite.unwrap();
        offsite.silence = Duration::from_secs(2);
        let (stop, progress, wanted) = (Stop::default(), Progress::default(), "web/latest".parse().unwrap());
        let (fetched, restored) = (scene.path(&format!("fetched-{number}")), scene.path(&format!("restored-{number}")));
        let request =
            fetch::Request { offsite: &offsite, credentials: &credentials, snapshot: "web/latest", to: &fetched, key: None };
        let archive = fetch::fetch(&request, &stop, &progress).unwrap().archive;
        assert!(fs::read(archive).unwrap() == store.get(&key(MONDAY, "tar.gz.pgp")).unwrap());

        let request =
            verify::Request { offsite: &offsite, credentials: &credentials, wanted: &[], expected: &[], sample: None, key: None };
        let mut problems = Vec::new();
        let mut told = |verified: &verify::Verified| {
            problems.push(verified.problem.clone());
            Ok(())
        };
        verify::verify(&request, &stop, &progress, &mut told).unwrap();
        assert_eq!(problems, [None]);

        let request = retrieve::Request {
            offsite: &offsite,
            credentials: &credentials,
            wanted: &wanted,
            key: &private,
            paths: &[],
            to: &restored,
        };
        retrieve::restore(&request, &stop, &progress).unwrap();
        crate::support::assert_same(&scene.path("mirror"), &restored);
        assert_eq!(asked.load(Ordering::SeqCst), 6, "{fate:?}");
    }
}

#[test]
fn copies_are_verified_all_or_some_sealed_or_opened() {
    let store = Store::start();
    let scene = pushed(&store);
    let tuesday = scene.snapshot(TUESDAY, 1000, Outcome::Partial);
    scene.push(&scene.config(store.port), &tuesday, Outcome::Partial).unwrap();
    let place = ["--store", "s3://backups/vaultberry"];
    let verify = |more: &[&str]| {
        let run = vaultberry(&scene, store.port, &[&["offsite", "verify"], more, &place].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    };
    let all = verify(&[]);
    assert_eq!(all.lines().count(), 2);
    assert!(all.starts_with(&format!("web/{MONDAY}  as it was proven, ")), "{all}");
    assert_eq!(verify(&["--sample", "1"]).lines().count(), 1);
    let opened = verify(&["web/latest", "--key", scene.owner.private_key().to_str().unwrap(), "--json"]);
    let opened: Value = serde_json::from_str(&opened).unwrap();
    assert_eq!((&opened["snapshot"], &opened["problem"]), (&MONDAY.into(), &Value::Null));
    // What the program on the appliance says needs no address.
    let listed = scene.vaultberry(&["offsite", "list", "web"], "");
    assert_eq!(listed.stdout.lines().count(), 2, "{listed:?}");
}

#[test]
fn certificates_are_shown_with_what_helps() {
    let scene = Scene::new(GnuPg::new());
    scene.config_at("http://127.0.0.1:1", "");
    let run = scene.vaultberry(&["offsite", "recipients"], "");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with(&format!("{}  never expires\n  owner@example.org\n", scene.owner.fingerprint())), "{run:?}");
    for (owner, told) in [
        (GnuPg::expired(), "it isn't valid now"),
        (GnuPg::of(["rsa1024", "rsa1024"], &[]), "RSA1024 is not considered secure"),
        (GnuPg::of(["rsa3072", "rsa3072"], &["--cert-digest-algo", "SHA1"]), "SHA1 is not considered secure"),
        (GnuPg::of(["dsa2048", "elg2048"], &[]), "it has no key for encryption that is supported and safe"),
    ] {
        let scene = Scene::new(owner);
        scene.config_at("http://127.0.0.1:1", "");
        let run = scene.vaultberry(&["offsite", "recipients", "--json"], "");
        assert_eq!(run.code, Some(3), "{run:?}");
        let shown: Value = serde_json::from_str(&run.stdout).unwrap();
        let problem = shown[0]["problem"].as_str().unwrap();
        assert!(problem.contains(told) && problem.contains("\nhint: "), "{problem}");
        assert_eq!(shown[0]["usable"], false);
    }
}

#[test]
fn the_page_for_those_without_vaultberry_is_right_word_for_word() {
    let scene = Scene::new(GnuPg::new());
    certify(scene.folder.path());
    let store = Store::start_tls(&scene.path("server.pem"), &scene.path("server.key"));
    let host = format!("127.0.0.1:{}", store.port);
    let ca = format!("ca = \"\"\"{}\"\"\"", fs::read_to_string(scene.path("ca.pem")).unwrap());
    let config = scene.config_at(&format!("https://{host}"), &ca);
    scene.make_bucket(&host);
    let archive = scene.snapshot(MONDAY, 17 << 20, Outcome::Complete);
    scene.push(&config, &archive, Outcome::Complete).unwrap();

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/without-vaultberry.md")).unwrap();
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // What is one's own: the page's example is replaced line by line.
    let own = blocks.next().unwrap().lines().map(|line| match line.split_once('=').unwrap().0 {
        "bucket" => format!("bucket={}\n", store::BUCKET),
        "host" => format!("host={host}\n"),
        "prefix" | "source" | "region" => format!("{line}\n"),
        key => format!("{key}=test\n"),
    });
    let script = own.chain(blocks.map(String::from)).collect::<String>();
    let folder = scene.path("years-later");
    fs::create_dir(&folder).unwrap();
    let mut sh = Command::new("sh");
    sh.args(["-euxc", &script]).current_dir(&folder).env("GNUPGHOME", scene.owner.home()).env("HOME", &folder);
    // One for s3cmd, the other for aws, which shall ask no machine of a cloud for a key.
    sh.env("SSL_CERT_FILE", scene.path("ca.pem")).env("AWS_CA_BUNDLE", scene.path("ca.pem"));
    let output = sh.env("AWS_EC2_METADATA_DISABLED", "true").output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    crate::support::assert_same(&scene.path("mirror"), &folder.join("restored"));
    assert!(told.contains("\"outcome\": \"complete\"") && told.matches("\"sha256\"").count() >= 4, "{told}");
}

#[test]
fn old_copies_go_by_the_rules_and_never_from_the_appliance() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let config = scene.config(store.port);
    let now = Timestamp::now();
    let named = |days: i64| (now - SignedDuration::from_hours(24 * days)).strftime("%Y%m%dT%H%M%SZ").to_string();
    // The oldest comes much too late to be what it says.
    for days in [5, 4, 3, 2, 1, 30] {
        let archive = scene.snapshot(&named(days), 1000, Outcome::Complete);
        scene.push(&config, &archive, Outcome::Complete).unwrap();
    }
    store.put(&key("20261101T033000Z", "tar.gz.pgp"), "under way");
    let configured = scene.path("appliance.toml");
    let text = fs::read_to_string(&configured).unwrap().replace("[openpgp]", "keep = { last = 2 }\n[openpgp]");
    fs::write(&configured, text).unwrap();
    let credentials = scene.path("s3");
    let prune = |more: &[&str]| {
        let arguments = [&["offsite", "prune", "--credentials", credentials.to_str().unwrap()], more].concat();
        scene.vaultberry(&arguments, "")
    };
    let run = prune(&["--yes"]);
    assert!(run.code == Some(1) && run.stderr.contains("this is the appliance: it pushes from here\nhint: "), "{run:?}");
    fs::remove_file(scene.path("state/pushes.json")).unwrap();
    let before = store.keys();
    let run = prune(&[]);
    assert_eq!((run.code, store.keys() == before), (Some(0), true), "{run:?}");
    assert_eq!(run.stdout.matches("  would go\n").count(), 3, "{run:?}");
    let run = prune(&["--yes"]);
    assert_eq!(run.stdout.matches("  removed\n").count(), 3, "{run:?}");
    assert!(run.stdout.contains(&format!("web/{}  stays: ", named(1))), "{run:?}");
    assert!(run.stdout.contains(&format!("web/{}  stays: it came to the store long after its name says", named(30))), "{run:?}");
    // What is unproven isn't judged.
    assert_eq!(store.keys().len(), 3 * 3 + 1);
    assert!(store.get(&key("20261101T033000Z", "tar.gz.pgp")).is_some());
    assert_eq!(prune(&["--yes"]).stdout.matches("removed").count(), 0);
}

#[test]
fn the_guide_for_rebuilding_everything_is_right_word_for_word() {
    let (mut appliance, store, owner) = (Appliance::new(false), Store::start(), GnuPg::new());
    let peer = Peer::start(&appliance.public_key(), None);
    peer.write("letters/first", "hello\n");
    appliance.settings(&format!(
        "[openpgp]\nrecipients = [\"\"\"{}\"\"\"]\n[offsite]\nbucket = \"{}\"\nprefix = \"attic\"\n\
         endpoint = \"http://127.0.0.1:{}\"\ncredentials = \"{}\"\n",
        owner.certificate(),
        store::BUCKET,
        store.port,
        appliance.secret("key", CREDENTIALS).display()
    ));
    appliance.pull_from("web", &peer);
    // Here the backup disk isn't encrypted: the run finds the header of another, as if it had read it there.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (disk, phrase) = (path("disk"), "eight words that nobody else knows");
    fs::File::create(&disk).unwrap().set_len(20 << 20).unwrap();
    let secret = Secret::new(phrase.to_owned());
    luks::format(&disk, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Passphrase(&secret)]).unwrap();
    let collected = appliance.backup("current/_appliance/appliance");
    fs::create_dir_all(&collected).unwrap();
    fs::write(collected.join("backup-disk.luks-header"), luks::read_header(&disk).unwrap()).unwrap();
    let run = appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");

    // Another machine, and the disk with a spoiled header.
    fs::copy(owner.private_key(), path("private.asc")).unwrap();
    fs::copy(appliance.secret("key", CREDENTIALS), path("s3")).unwrap();
    fs::OpenOptions::new().write(true).open(&disk).unwrap().write_all(&vec![0; 1 << 20]).unwrap();

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/rebuild.md")).unwrap();
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let (config, data, broken) = (blocks.next().unwrap(), blocks.next().unwrap(), blocks.next().unwrap());
    let script = format!("{config}\n{data}\n{broken}");
    let program = Path::new(env!("CARGO_BIN_EXE_vaultberry")).parent().unwrap();
    let mut sh = Command::new("sh");
    sh.args(["-euxc", &script]).current_dir(folder.path()).env("bucket", store::BUCKET).env("prefix", "attic");
    sh.env("endpoint", format!("http://127.0.0.1:{}", store.port)).env("disk", &disk);
    sh.env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()));
    let mut child = sh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(phrase.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(path("old/appliance/appliance.toml")).unwrap(), fs::read(appliance.config()).unwrap());
    let data = path("web").join(peer.data().strip_prefix("/").unwrap());
    crate::support::assert_same(&peer.data(), &data);
}

#[test]
fn a_push_gets_by_with_what_the_policy_allows_and_no_more_is_allowed() {
    // From its seventh request on, this store asks who may do what.
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start_guarded(6));
    let configured = || scene.config_at(&format!("http://127.0.0.1:{}", store.port), "locked = \"30d\"");
    configured();
    let policy = scene.vaultberry(&["offsite", "policy"], "");
    assert_eq!(policy.code, Some(0), "{policy:?}");
    store.apply(&policy.stdout, &scene.path("s3"));
    // Broken off in the midst of its parts, and gone on with.
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    let error = scene.break_off(&store, &archive, "locked = \"30d\"\nparallel = 1");
    assert!(error.contains("interrupted by a signal"), "{error}");
    scene.push(&configured(), &archive, Outcome::Complete).unwrap();
    let run = scene.vaultberry(&["doctor"], "");
    for refused in ["can't delete an object", "can't delete a version of an object"] {
        assert!(run.stdout.contains(&format!("ok       store: the access key {refused}")), "{run:?}");
    }
}
