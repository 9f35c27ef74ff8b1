//! A push is disturbed at each of its requests in turn. Whatever happens, a copy counts only when it is whole, and a later
//! push gets through.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openssl::sha::sha256;
use serde_json::Value;
use vaultberry::config::{Checksums, Config};
use vaultberry::digest::hex;
use vaultberry::outcome::Outcome;

use super::scene::{MONDAY, Scene, key};
use crate::support::gnupg::GnuPg;
use crate::support::store::Store;
use crate::support::way::{Fate, Way};

/// A store, and a way to it on which one request meets a fault.
struct Disturbed {
    scene: Scene,
    store: Store,
    way: Way,
    seen: Arc<AtomicUsize>,
    /// The number of the request that meets it, from 1; none at 0.
    hit: Arc<AtomicUsize>,
    archive: PathBuf,
    config: Config,
}

impl Disturbed {
    fn new(fault: Fate) -> Self {
        let (scene, store) = (Scene::new(GnuPg::new()), Store::start());
        let (seen, hit) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, which) = (Arc::clone(&seen), Arc::clone(&hit));
        let way = Way::to(store.port, move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            if number == which.load(Ordering::SeqCst) { fault } else { Fate::Pass }
        });
        // Two parts, one after the other.
        let archive = scene.snapshot(MONDAY, 17 << 20, Outcome::Complete);
        let config = scene.config_at(&format!("http://127.0.0.1:{}", way.port), "parallel = 1");
        Self { scene, store, way, seen, hit, archive, config }
    }

    /// The same snapshot under a name of its own.
    fn snapshot(&self, number: usize) -> (String, PathBuf) {
        let name = format!("202612{:02}T{:02}3000Z", number / 24 + 1, number % 24);
        let archive = self.archive.with_file_name(format!("{name}.tar.gz"));
        fs::hard_link(&self.archive, &archive).unwrap();
        let index = |name: &str| self.archive.with_file_name(format!("{name}.index.jsonl.zst"));
        fs::hard_link(index(MONDAY), index(&name)).unwrap();
        (name, archive)
    }

    /// Pushes with the fault at the request `number`; gives what came of it and how many requests there were.
    fn push(&self, archive: &std::path::Path, number: usize) -> (Result<(), String>, usize) {
        self.seen.store(0, Ordering::SeqCst);
        self.hit.store(number, Ordering::SeqCst);
        let pushed = self.scene.push(&self.config, archive, Outcome::Complete).map(drop);
        self.hit.store(0, Ordering::SeqCst);
        (pushed, self.seen.load(Ordering::SeqCst))
    }

    /// How many requests a push has that nothing disturbs.
    fn requests(&self) -> usize {
        let (pushed, requests) = self.push(&self.archive, 0);
        pushed.unwrap();
        assert!((12..20).contains(&requests), "{requests}");
        requests
    }

    /// That a copy which counts is whole.
    fn assert_honest(&self, name: &str) -> bool {
        let Some(commit) = self.store.get(&key(name, "commit.json")) else { return false };
        let commit: Value = serde_json::from_slice(&commit).unwrap();
        for object in ["archive", "index"] {
            let content = self.store.get(commit[object]["key"].as_str().unwrap()).unwrap();
            let sha256 = hex(&sha256(&content));
            assert_eq!(commit[object]["sha256"], sha256, "{name} {object}");
        }
        true
    }

    /// Opens a copy with GnuPG.
    fn assert_opens(&self, name: &str) {
        let sealed = self.scene.path("sealed");
        fs::write(&sealed, self.store.get(&key(name, "tar.gz.pgp")).unwrap()).unwrap();
        assert!(self.scene.owner.decrypt(&sealed) == fs::read(&self.archive).unwrap());
    }

    /// Disturbs each request of a push in turn. `mends`: the push itself gets over it.
    fn disturb_each(&self, mends: impl Fn(usize, &str) -> bool) {
        let mut name = String::new();
        for number in 1..=self.requests() {
            let archive;
            (name, archive) = self.snapshot(number);
            let (pushed, _) = self.push(&archive, number);
            let counts = self.assert_honest(&name);
            match &pushed {
                Ok(()) => assert!(counts, "{number}"),
                Err(error) => {
                    assert!(!mends(number, error), "{number}: {error}");
                    assert!(error.starts_with(&format!("error: pushing web/{name} to s3://")), "{error}");
                }
            }
            self.push(&archive, 0).0.unwrap_or_else(|error| panic!("{number}: {pushed:?}, and then {error}"));
            assert!(self.assert_honest(&name), "{number}");
            assert_eq!(self.store.uploads(), Vec::<String>::new(), "{number}");
            assert_eq!(self.scene.clock()["sources"]["web"]["complete"]["snapshot"], *name);
        }
        self.assert_opens(&name);
        assert!(self.way.port > 0);
    }
}

#[test]
fn a_server_error_at_any_request_is_got_over() {
    Disturbed::new(Fate::Answer(500, "InternalError")).disturb_each(|_, _| true);
}

#[test]
fn a_store_that_asks_to_slow_down_at_any_request_gets_what_it_wants() {
    Disturbed::new(Fate::Answer(503, "SlowDown")).disturb_each(|_, _| true);
}

#[test]
fn a_store_that_is_busy_with_the_same_key_at_any_request_is_asked_again() {
    for code in ["ConditionalRequestConflict", "OperationAborted"] {
        Disturbed::new(Fate::Answer(409, code)).disturb_each(|_, _| true);
    }
}

#[test]
fn a_connection_that_breaks_before_any_request_is_made_anew() {
    Disturbed::new(Fate::Break).disturb_each(|_, _| true);
}

#[test]
fn an_answer_that_is_lost_at_any_request_does_no_harm() {
    Disturbed::new(Fate::Lose).disturb_each(|_, _| true);
}

#[test]
fn an_answer_that_is_cut_at_any_request_does_no_harm() {
    // The content of an object isn't asked for again from its middle: the next push does that.
    Disturbed::new(Fate::Cut).disturb_each(|_, error| !error.contains("broke off") && !error.contains("can't be understood"));
}

#[test]
fn a_refusal_at_any_request_is_not_asked_again() {
    for (status, code, told) in [
        (403, "AccessDenied", "let the access key list the bucket"),
        (403, "RequestTimeTooSkewed", "and at the clock"),
        (400, "InvalidRequest", "the store answers InvalidRequest"),
    ] {
        let disturbed = Disturbed::new(Fate::Answer(status, code));
        for number in 1..=disturbed.requests() {
            let (name, archive) = disturbed.snapshot(number);
            let (pushed, requests) = disturbed.push(&archive, number);
            // Only broken-off uploads of earlier tries are looked for after the object is there: that may fail.
            if let Err(error) = pushed {
                // The answer to HEAD has no body that could tell more.
                assert!(error.contains(told) || error.contains(&format!("answers HTTP {status}")), "{number}: {error}");
                assert_eq!(requests, number, "{code} {number}: {error}");
            } else {
                assert!(disturbed.assert_honest(&name), "{number}");
            }
            disturbed.push(&archive, 0).0.unwrap();
            assert!(disturbed.assert_honest(&name), "{number}");
        }
    }
}

#[test]
fn what_is_changed_on_its_way_never_counts() {
    for checksums in [Checksums::Sha256, Checksums::Md5] {
        let mut disturbed = Disturbed::new(Fate::Corrupt);
        disturbed.config.offsite.as_mut().unwrap().checksums = checksums;
        let mut failed = 0;
        for number in 1..=disturbed.requests() {
            let (name, archive) = disturbed.snapshot(number);
            let (pushed, _) = disturbed.push(&archive, number);
            if pushed.as_ref().is_err_and(|error| error.contains("the store gives back another commit object than was written")) {
                // This store looks at no MD5 of what comes in one piece. One that does takes no changed commit object.
                assert_eq!(checksums, Checksums::Md5);
                failed += 1;
                continue;
            }
            let honest = disturbed.assert_honest(&name);
            assert_eq!(pushed.is_ok(), honest, "{number}: {pushed:?}");
            failed += usize::from(pushed.is_err());
        }
        assert!(failed >= 4, "{checksums:?}: {failed}");
        // Whatever came of those, the next snapshot gets through.
        let (name, archive) = disturbed.snapshot(100);
        disturbed.push(&archive, 0).0.unwrap();
        assert!(disturbed.assert_honest(&name));
    }
}

#[test]
fn a_store_that_falls_silent_at_any_request_is_given_up_and_asked_again() {
    let mut disturbed = Disturbed::new(Fate::Stall);
    let offsite = disturbed.config.offsite.as_mut().unwrap();
    assert_eq!(offsite.silence, Duration::from_mins(1));
    offsite.silence = Duration::from_secs(3);
    disturbed.disturb_each(|_, _| true);
}
