//! The program is killed in the midst of a push, at each request that changes something in the store, before and after the
//! store has done it. The next run goes on, and sends nothing twice.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::gnupg::GnuPg;
use crate::support::peer::Peer;
use crate::support::servers::CREDENTIALS;
use crate::support::store::{BUCKET, Store};
use crate::support::way::{Fate, Way};

/// What is killed when a request with this in it comes by; `done`: after the store has done it.
#[derive(Clone, Copy)]
struct Moment {
    request: &'static str,
    done: bool,
}

fn is_at(moment: Moment, line: &str) -> bool {
    line.contains("/web/") && moment.request.split(' ').all(|word| line.contains(word))
}

#[test]
fn a_run_that_is_killed_at_any_part_of_a_push_is_gone_on_with() {
    let requests = [
        "PUT index.jsonl.zst.pgp",
        "POST tar.gz.pgp?uploads",
        "PUT partNumber=1",
        "PUT partNumber=2",
        "PUT partNumber=3",
        "POST tar.gz.pgp?uploadId",
        "PUT commit.json",
    ];
    for request in requests {
        for done in [false, true] {
            killed_at(Moment { request, done });
        }
    }
}

fn killed_at(moment: Moment) {
    let mut appliance = Appliance::new(false);
    let (peer, store, owner) = (Peer::start(&appliance.public_key(), None), Store::start(), GnuPg::new());
    let mut noise = vec![0; 33 << 20];
    openssl::rand::rand_bytes(&mut noise).unwrap();
    peer.write("noise", noise);
    let victim = Arc::new(AtomicI32::new(0));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (target, seen) = (Arc::clone(&victim), Arc::clone(&lines));
    let way = Way::to(store.port, move |line| {
        seen.lock().unwrap().push(line.to_owned());
        if !is_at(moment, line) {
            return Fate::Pass;
        }
        // Once; the next run has no victim.
        match target.swap(0, Ordering::SeqCst) {
            0 => Fate::Pass,
            pid if moment.done => {
                // The store is done before it answers, and by then nobody hears it.
                kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(400));
                    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                });
                Fate::Pass
            }
            pid => {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                Fate::Break
            }
        }
    });
    appliance.settings(&format!(
        "[openpgp]\nrecipients = [\"\"\"{}\"\"\"]\n[offsite]\nbucket = \"{BUCKET}\"\nprefix = \"attic\"\nparallel = 2\n\
         endpoint = \"http://127.0.0.1:{}\"\ncredentials = \"{}\"\n",
        owner.certificate(),
        way.port,
        appliance.secret("s3", CREDENTIALS).display()
    ));
    appliance.pull_from("web", &peer);
    let mut child = appliance.command(&["backup", "run"]).spawn().unwrap();
    victim.store(i32::try_from(child.id()).unwrap(), Ordering::SeqCst);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "{}: it wasn't killed", moment.request);

    let before = lines.lock().unwrap().len();
    let run = Run::of(appliance.command(&["backup", "run"]).output().unwrap());
    assert_eq!(run.code, Some(0), "{} {}: {run:?}", moment.request, moment.done);
    let commits: Vec<String> =
        store.keys().into_iter().filter(|key| key.contains("/web/") && key.ends_with(".commit.json")).collect();
    assert_eq!(commits.len(), 1, "{}: {commits:?}", moment.request);
    assert_eq!((store.uploads(), names(&appliance.backup("outbox/web"))), (vec![], vec![]), "{}", moment.request);

    // What the store had done for the first run isn't asked for again, but for what was on its way.
    let (first, second) = {
        let lines = lines.lock().unwrap();
        let sent = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| line.contains("partNumber=")).map(|line| part_of(line)).collect()
        };
        (sent(&lines[..before]), sent(&lines[before..]))
    };
    let twice = second.iter().filter(|part| first.contains(part)).count();
    assert!(twice <= 2 && first.len() + second.len() <= 5, "{}: {first:?} {second:?}", moment.request);

    // The copy is the snapshot of the night that was killed.
    let name = commits[0].rsplit('/').next().unwrap().trim_end_matches(".commit.json").to_owned();
    let sealed = appliance.state("sealed");
    fs::write(&sealed, store.get(&format!("attic/web/{name}.tar.gz.pgp")).unwrap()).unwrap();
    assert!(owner.decrypt(&sealed) == fs::read(appliance.backup(&format!("snapshots/web/{name}.tar.gz"))).unwrap());
    assert_eq!(appliance.snapshots("web")[0], format!("{name}.index.jsonl.zst"));
    let clock = fs::read_to_string(appliance.state("pushes.json")).unwrap();
    assert!(clock.contains(&name), "{clock}");
}

fn part_of(line: &str) -> String {
    line.split("partNumber=").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect()
}
