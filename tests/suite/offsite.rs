//! Off-site copies: pushed into a real S3 server by the library, opened by GnuPG and GNU tar, and fetched by the program.

mod ceph;
mod far;
mod faults;
mod fetched;
mod garage;
mod killed;
mod leftovers;
mod planted;
mod readers;
mod scene;

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use vaultberry::offsite;
use vaultberry::outcome::Outcome;

use crate::support::certify;
use crate::support::gnupg::GnuPg;
use crate::support::store::{self, Store};
use crate::support::way::{Fate, Way};
use scene::{MONDAY, Scene, TUESDAY, key, with_candidate};

#[test]
fn a_copy_of_several_parts_opens_with_gpg_and_tar_and_sets_the_clock() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let config = scene.config(store.port);
    scene.configure_s3cmd(store.port);
    let archive = scene.snapshot(MONDAY, 41 << 20, Outcome::Complete);
    assert!(with_candidate(&archive, Outcome::Complete, |candidate| offsite::due(&config, &candidate)));

    let pushed = scene.push(&config, &archive, Outcome::Complete).unwrap();
    let commit: Value = serde_json::from_slice(&store.get(&key(MONDAY, "commit.json")).unwrap()).unwrap();
    let sizes = ["archive", "index"].map(|object| commit[object]["size"].as_u64().unwrap());
    assert_eq!(pushed.bytes, sizes[0] + sizes[1]);
    assert_eq!((&commit["outcome"], &commit["snapshot"], &commit["source"]), (&"complete".into(), &MONDAY.into(), &"web".into()));
    assert_eq!(store.keys(), [key(MONDAY, "commit.json"), key(MONDAY, "index.jsonl.zst.pgp"), key(MONDAY, "tar.gz.pgp")]);
    // three parts
    assert!(store.head(&key(MONDAY, "tar.gz.pgp")).contains("-3\""), "{}", store.head(&key(MONDAY, "tar.gz.pgp")));

    for (end, original) in
        [("tar.gz", archive.clone()), ("index.jsonl.zst", archive.with_file_name(format!("{MONDAY}.index.jsonl.zst")))]
    {
        let sealed = scene.path(&format!("{end}.pgp"));
        scene.s3cmd(&[
            "get",
            &format!("s3://{}/{}", store::BUCKET, key(MONDAY, &format!("{end}.pgp"))),
            sealed.to_str().unwrap(),
        ]);
        assert!(scene.owner.decrypt(&sealed) == fs::read(original).unwrap(), "{end} isn't what was pushed");
    }
    let listed = scene.s3cmd(&["ls", &format!("s3://{}/vaultberry/web/", store::BUCKET)]);
    assert!(listed.contains(&key(MONDAY, "commit.json")), "{listed}");
    fs::write(scene.path("opened.tar.gz"), scene.owner.decrypt(&scene.path("tar.gz.pgp"))).unwrap();
    let tar = Command::new("tar").arg("-tzf").arg(scene.path("opened.tar.gz")).output().unwrap();
    assert_eq!(String::from_utf8(tar.stdout).unwrap(), "srv/\nsrv/random\n");

    let target = format!("http://127.0.0.1:{}/{}/vaultberry", store.port, store::BUCKET);
    for of in ["complete", "any"] {
        let push = &scene.clock()["sources"]["web"][of];
        assert_eq!((&push["snapshot"], &push["target"]), (&MONDAY.into(), &target.clone().into()));
    }
    assert!(!with_candidate(&archive, Outcome::Complete, |candidate| offsite::due(&config, &candidate)));

    // A copy that is there isn't sent again, and counts.
    let before = store.get(&key(MONDAY, "index.jsonl.zst.pgp"));
    fs::remove_file(scene.path("state/pushes.json")).unwrap();
    assert_eq!(scene.push(&config, &archive, Outcome::Complete).unwrap(), pushed);
    assert_eq!(store.get(&key(MONDAY, "index.jsonl.zst.pgp")), before);
    assert_eq!(scene.clock()["sources"]["web"]["complete"]["snapshot"], MONDAY);

    // One that says something else of the snapshot doesn't, nor does one that is sealed for others.
    let (committed, end) =
        (store.get(&key(MONDAY, "commit.json")).unwrap(), "nothing is ever overwritten, and the next snapshot has");
    let partial = String::from_utf8(committed.clone()).unwrap().replace("\"complete\"", "\"partial\"");
    store.put(&key(MONDAY, "commit.json"), partial);
    let error = scene.push(&config, &archive, Outcome::Complete).unwrap_err();
    assert!(
        error.contains("says that the copy is partial where the snapshot is complete\nhint: ") && error.contains(end),
        "{error}"
    );
    store.put(&key(MONDAY, "commit.json"), committed);
    let mut others = config.clone();
    others.recipients = Scene::new(GnuPg::new()).config(store.port).recipients;
    let error = scene.push(&others, &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("the copy is sealed for others than [openpgp] recipients names now\nhint: "), "{error}");

    // A commit object whose objects aren't there proves nothing.
    store::delete(store.port, &key(MONDAY, "tar.gz.pgp"));
    let error = scene.push(&config, &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("tar.gz.pgp isn't what it says") && error.contains("\nhint: look who changed the bucket"), "{error}");
}

#[test]
fn no_store_and_no_bucket_are_told_and_leave_no_trace() {
    let (scene, mut store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let port = store.port;
    let mut config = scene.config(port);
    config.offsite.as_mut().unwrap().bucket = "no-such-bucket".into();
    let error = scene.push(&config, &archive, Outcome::Complete).unwrap_err();
    let start = format!("error: pushing web/{MONDAY} to s3://no-such-bucket/vaultberry at http://127.0.0.1:{port}: ");
    assert!(error.starts_with(&start) && error.contains("the store answers NoSuchBucket: "), "{error}");
    assert!(error.ends_with("\nhint: make the bucket, or mend [offsite] bucket\n"), "{error}");

    store.end();
    let error = scene.push(&scene.config(port), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("no connection to the store: ") && error.contains("Connection refused"), "{error}");
    assert!(error.contains("\nhint: look at the network"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(scene.clock(), Value::Null);
}

#[test]
fn an_expired_certificate_is_refused_before_anything_is_sent() {
    let (scene, store) = (Scene::new(GnuPg::expired()), Store::start());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let way = Way::to(store.port, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Fate::Pass
    });
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let error = scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("it isn't valid now") && error.contains("\nhint: extend it with `gpg --quick-set-expire`"), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    assert_eq!((store.keys(), scene.clock()), (Vec::<String>::new(), Value::Null));
}

#[test]
fn what_the_store_lost_or_has_otherwise_is_not_proven() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let port = store.port;
    let mut names = (10..).map(|day| format!("202611{day}T023000Z"));
    for (what, expected) in [
        ("lost", "the store doesn't have it"),
        ("shorter", "bytes were sent, and the store has 5"),
        ("other", "the store gives no SHA-256, and its ETag isn't that of the bytes that were sent: "),
    ] {
        for end in ["tar.gz.pgp", "index.jsonl.zst.pgp"] {
            let name = names.next().unwrap();
            let archive = scene.snapshot(&name, 1000, Outcome::Complete);
            let object = key(&name, end);
            let asked = AtomicUsize::new(0);
            let way = Way::to(port, move |line| {
                // Asked once before it is sent, and once after.
                if line.starts_with("HEAD ") && line.contains(&object) && asked.fetch_add(1, Ordering::SeqCst) == 1 {
                    match what {
                        "lost" => store::delete(port, &object),
                        "shorter" => store::put(port, &object, "short"),
                        _ => store::put(port, &object, vec![0; store::get(port, &object).unwrap().len()]),
                    }
                }
                Fate::Pass
            });
            let error = scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap_err();
            assert!(error.contains(expected), "{what}: {error}");
            assert_eq!((store.get(&key(&name, "commit.json")), scene.clock()), (None, Value::Null), "{what}");
        }
    }
    // A commit object that can't be read back, or comes back otherwise, proves nothing either.
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let commit = key(MONDAY, "commit.json");
    let reads = AtomicUsize::new(0);
    let way = Way::to(port, move |line| {
        if line.starts_with("GET ") && line.contains(&commit) && reads.fetch_add(1, Ordering::SeqCst) == 1 {
            store::put(port, &commit, "{}");
        }
        Fate::Pass
    });
    let error = scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("the store gives back another commit object than was written"), "{error}");
    assert_eq!(scene.clock(), Value::Null);
}

#[test]
fn what_is_there_is_never_overwritten_and_the_next_snapshot_goes_elsewhere() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let config = scene.config(store.port);
    let archive = scene.snapshot(MONDAY, 17 << 20, Outcome::Complete);
    store.put(&key(MONDAY, "tar.gz.pgp"), "somebody's");
    let error = scene.push(&config, &archive, Outcome::Complete).unwrap_err();
    let told = "tar.gz.pgp is in the store, and isn't proven to be what was sealed: ";
    assert!(error.contains(told) && error.contains("bytes were sent, and the store has 10"), "{error}");
    assert_eq!(store.get(&key(MONDAY, "tar.gz.pgp")).unwrap(), b"somebody's");

    // Somebody is a moment faster.
    let tuesday = scene.snapshot(TUESDAY, 17 << 20, Outcome::Complete);
    let (port, faster) = (store.port, key(TUESDAY, "tar.gz.pgp"));
    let way = Way::to(port, move |line| {
        if line.starts_with("POST ") && line.contains("tar.gz.pgp?uploadId=") {
            store::put(port, &faster, "somebody's");
        }
        Fate::Pass
    });
    let error = scene.push(&scene.config(way.port), &tuesday, Outcome::Complete).unwrap_err();
    assert!(error.contains(told), "{error}");
    assert_eq!(store.get(&key(TUESDAY, "tar.gz.pgp")).unwrap(), b"somebody's");
    assert_eq!((store.keys().iter().filter(|key| key.contains("commit")).count(), scene.clock()), (0, Value::Null));

    // What both had begun goes with the next push.
    scene.readdress(way.port, store.port);
    let wednesday = scene.snapshot("20261125T023000Z", 17 << 20, Outcome::Complete);
    scene.push(&config, &wednesday, Outcome::Complete).unwrap();
    assert_eq!(store.uploads(), Vec::<String>::new());
    assert_eq!(scene.clock()["sources"]["web"]["complete"]["snapshot"], "20261125T023000Z");
}

#[test]
fn a_store_that_checks_by_md5_gets_no_newer_header_and_archives_have_their_class() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    let endpoint = format!("http://127.0.0.1:{}", store.port);
    let config = scene.config_at(&endpoint, "checksums = \"md5\"\nstorage_class = \"STANDARD_IA\"\nparallel = 1");
    scene.push(&config, &archive, Outcome::Complete).unwrap();
    let heads = ["tar.gz.pgp", "index.jsonl.zst.pgp", "commit.json"].map(|end| store.head(&key(MONDAY, end)));
    assert!(heads.iter().all(|head| !head.contains("x-amz-checksum-sha256")), "{heads:?}");
    let classes = heads.map(|head| head.contains("x-amz-storage-class: standard_ia"));
    assert_eq!(classes, [true, false, false]);
    let sealed = scene.path("sealed");
    fs::write(&sealed, store.get(&key(MONDAY, "tar.gz.pgp")).unwrap()).unwrap();
    assert!(scene.owner.decrypt(&sealed) == fs::read(archive).unwrap());

    // With SHA-256, which is the default, the store keeps what came along.
    let tuesday = scene.snapshot(TUESDAY, 33 << 20, Outcome::Complete);
    scene.push(&scene.config(store.port), &tuesday, Outcome::Complete).unwrap();
    let head = store.head(&key(TUESDAY, "tar.gz.pgp"));
    assert!(head.contains("x-amz-checksum-sha256"), "{head}");
}

#[test]
fn no_more_is_sent_in_a_second_than_the_bandwidth_says() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 20 << 20, Outcome::Complete);
    let endpoint = format!("http://127.0.0.1:{}", store.port);
    let config = scene.config_at(&endpoint, "bandwidth = \"8 MiB\"");
    let begun = Instant::now();
    scene.push(&config, &archive, Outcome::Complete).unwrap();
    // 20 MiB at 8 MiB a second, by two parts at once.
    assert!(begun.elapsed() >= Duration::from_millis(2400), "{:?}", begun.elapsed());
}

#[test]
fn a_store_without_sums_is_proven_by_its_etag() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let way = Way::to(store.port, |_| Fate::Strip("x-amz-checksum"));
    let archive = scene.snapshot(MONDAY, 20 << 20, Outcome::Complete);
    scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap();
    assert_eq!(store.keys().len(), 3);
}

#[test]
fn a_store_with_nothing_to_prove_by_is_not_sent_the_archive() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let without_sums = Way::to(store.port, |_| Fate::Strip("x-amz-checksum"));
    let way = Way::to(without_sums.port, |_| Fate::Strip("etag"));
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let error = scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap_err();
    let told = "index.jsonl.zst.pgp is in the store, and isn't proven to be what was sealed: the store gives neither a SHA-256 nor an ETag";
    assert!(error.contains(told), "{error}");
    assert_eq!((store.keys(), scene.clock()), (vec![key(MONDAY, "index.jsonl.zst.pgp")], Value::Null));
}

#[test]
fn a_part_that_fails_once_is_sent_again_and_one_that_never_arrives_ends_the_push() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    let tries = Arc::new(AtomicUsize::new(0));
    let failing = |times: usize| {
        tries.store(0, Ordering::SeqCst);
        let tries = Arc::clone(&tries);
        move |line: &str| {
            let hit = line.starts_with("PUT ") && line.contains("partNumber=2");
            if hit && tries.fetch_add(1, Ordering::SeqCst) < times { Fate::Answer(503, "") } else { Fate::Pass }
        }
    };
    let way = Way::to(store.port, failing(usize::MAX));
    let error = scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("uploading part 2 of ") && error.contains("the store answers HTTP 503\nhint: "), "{error}");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    let begun = vec![key(MONDAY, "tar.gz.pgp")];
    let there = vec![key(MONDAY, "index.jsonl.zst.pgp")];
    assert_eq!((store.uploads(), store.keys(), scene.clock()), (begun, there, Value::Null));

    // The next run goes on, and sends only that part.
    let parts = Arc::new(AtomicUsize::new(0));
    let (fail, count) = (failing(2), Arc::clone(&parts));
    let first = way.port;
    let way = Way::to(store.port, move |line| {
        count.fetch_add(usize::from(line.contains("partNumber=")), Ordering::SeqCst);
        fail(line)
    });
    scene.readdress(first, way.port);
    scene.push(&scene.config(way.port), &archive, Outcome::Complete).unwrap();
    assert_eq!((tries.load(Ordering::SeqCst), parts.load(Ordering::SeqCst)), (3, 3));
    assert_eq!((store.uploads(), store.keys().len()), (vec![], 3));
}

#[test]
fn a_stop_breaks_a_push_off_and_the_next_run_goes_on() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let archive = scene.snapshot(MONDAY, 33 << 20, Outcome::Complete);
    let error = scene.break_off(&store, &archive, "");
    assert!(error.contains("interrupted by a signal"), "{error}");
    let (begun, there) = (vec![key(MONDAY, "tar.gz.pgp")], vec![key(MONDAY, "index.jsonl.zst.pgp")]);
    assert_eq!((store.uploads(), store.keys(), scene.clock()), (begun.clone(), there, Value::Null));

    // Changed meanwhile on the disk, it would never be what was sealed: all begins anew.
    let sealed = scene.path("backup/outbox/web").join(format!("{MONDAY}.tar.gz.pgp"));
    let mut changed = fs::read(&sealed).unwrap();
    changed[1 << 20] ^= 1;
    fs::write(&sealed, changed).unwrap();
    let config = scene.config(store.port);
    let error = scene.push(&config, &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("index.jsonl.zst.pgp is in the store, and isn't proven to be what was sealed"), "{error}");
    assert_eq!(store.uploads(), Vec::<String>::new());
    let tuesday = scene.snapshot(TUESDAY, 1000, Outcome::Complete);
    scene.push(&config, &tuesday, Outcome::Complete).unwrap();
    assert_eq!(scene.clock()["sources"]["web"]["complete"]["snapshot"], TUESDAY);
}

#[test]
fn what_the_disk_has_changed_since_it_was_sealed_is_never_committed() {
    let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
    let end = "index.jsonl.zst.pgp";
    for (name, checksums) in [(MONDAY, "md5"), (TUESDAY, "sha256")] {
        let archive = scene.snapshot(name, 1000, Outcome::Complete);
        // By its ETag, which follows from the bytes that arrive.
        let (port, object, sealed) = (store.port, key(name, end), scene.path(&format!("backup/outbox/web/{name}.{end}")));
        let flip = move || {
            let mut content = fs::read(&sealed).unwrap();
            content[100] ^= 1;
            fs::write(&sealed, &content).unwrap();
            content
        };
        let (asked, flips, there) = (AtomicUsize::new(0), flip.clone(), object.clone());
        let way = Way::to(port, move |line| {
            if line.starts_with("HEAD ") && line.contains(&there) && asked.fetch_add(1, Ordering::SeqCst) == 0 {
                flips();
            }
            Fate::Strip("x-amz-checksum")
        });
        let more = format!("checksums = \"{checksums}\"");
        let config = |port: u16| scene.config_at(&format!("http://127.0.0.1:{port}"), &more);
        let changed = format!("{name}.{end} isn't what was sealed any more: the disk has changed it");
        let error = scene.push(&config(way.port), &archive, Outcome::Complete).unwrap_err();
        assert!(error.contains(&changed), "{checksums}: {error}");
        assert_eq!((store.get(&object), store.get(&key(name, "commit.json"))), (None, None), "{checksums}");

        // What is there already is compared with what was sealed, too.
        scene.readdress(way.port, port);
        flip();
        let there = object.clone();
        let way = Way::to(port, move |line| {
            if line.starts_with("HEAD ") && line.contains(&there) {
                store::put(port, &there, flip());
            }
            Fate::Strip("x-amz-checksum")
        });
        scene.readdress(port, way.port);
        let error = scene.push(&config(way.port), &archive, Outcome::Complete).unwrap_err();
        assert!(error.contains(&changed), "{checksums}: {error}");
        assert_eq!((store.get(&key(name, "commit.json")), scene.clock()), (None, Value::Null), "{checksums}");
        scene.readdress(way.port, port);
        // The next push begins anew, and finds somebody else's bytes.
        let error = scene.push(&config(port), &archive, Outcome::Complete).unwrap_err();
        assert!(error.contains("and isn't proven to be what was sealed"), "{checksums}: {error}");
    }
}

#[test]
fn a_copy_that_the_store_does_not_lock_counts_and_is_told_of() {
    for (store, expected, helps) in [
        (Store::start(), "tar.gz.pgp isn't locked", "\nhint: whoever has the appliance's"),
        (Store::start_locking(7), "is locked until ", "\nhint: lengthen the bucket's default retention"),
        (Store::start_locking(30), "", ""),
    ] {
        let scene = Scene::new(GnuPg::new());
        // In one piece: what came in parts this store doesn't lock.
        let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
        let endpoint = format!("http://127.0.0.1:{}", store.port);
        let config = scene.config_at(&endpoint, "locked = \"30d\"");
        let problem = scene.push(&config, &archive, Outcome::Complete).unwrap().problem.unwrap_or_default();
        if expected.is_empty() {
            assert_eq!(problem, "");
        } else {
            assert!(problem.contains(expected) && problem.contains(helps), "{problem}");
        }
        assert_eq!(scene.clock()["sources"]["web"]["complete"]["snapshot"], MONDAY);
        // Asked again, the store says the same.
        fs::remove_file(scene.path("state/pushes.json")).unwrap();
        let again = scene.push(&config, &archive, Outcome::Complete).unwrap().problem.unwrap_or_default();
        assert_eq!(again, problem);
    }
}

#[test]
fn a_store_with_a_certificate_of_its_own_needs_its_authority_in_the_configuration() {
    let scene = Scene::new(GnuPg::new());
    certify(scene.folder.path());
    let store = Store::start_tls(&scene.path("server.pem"), &scene.path("server.key"));
    let archive = scene.snapshot(MONDAY, 1000, Outcome::Complete);
    let endpoint = format!("https://127.0.0.1:{}", store.port);

    let error = scene.push(&scene.config_at(&endpoint, ""), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(
        error.contains("\nhint: put the certificate of the authority that vouches for the store into [offsite] ca\n"),
        "{error}"
    );

    // With it, the store is heard: it has no bucket.
    let ca = format!("ca = \"\"\"{}\"\"\"", fs::read_to_string(scene.path("ca.pem")).unwrap());
    let error = scene.push(&scene.config_at(&endpoint, &ca), &archive, Outcome::Complete).unwrap_err();
    assert!(error.contains("NoSuchBucket"), "{error}");
}
