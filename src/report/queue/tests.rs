use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Delivery, Failure, Queue, Taken, Which};
use crate::report::fake;

fn filled(mails: &[&str]) -> (tempfile::TempDir, Queue) {
    let state = tempfile::tempdir().unwrap();
    let queue = Queue::below(state.path());
    for mail in mails {
        queue.put(mail, &fake::mail(mail), None).unwrap();
    }
    (state, queue)
}

/// Sends all with a server that fails at some, and gives what it met, what came of it and what is left.
fn attempt(queue: &Queue, fails: impl Fn(&str) -> Option<Failure>) -> (Vec<String>, usize, Vec<String>, Vec<String>) {
    let (mut met, mut delivery) = (Vec::new(), Delivery::default());
    let mut send = |mail: &[u8], _: &[String]| {
        let mail = String::from_utf8(mail.to_vec()).unwrap();
        let (_, mail) = mail.split_once("\r\n\r\n").unwrap();
        let failure = fails(mail);
        met.push(mail.to_owned());
        failure.map_or(Ok(Taken::default()), Err)
    };
    let (tell, told) = mpsc::channel();
    if let Err(error) = queue.send(Which::All, &mut send, &tell) {
        delivery.problem(&error);
    }
    for part in told.try_iter() {
        delivery.add(part);
    }
    (met, delivery.sent, delivery.problems, queue.waiting().unwrap())
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| String::from(*word)).collect()
}

#[test]
fn what_the_server_takes_leaves_and_only_then() {
    let (state, queue) = filled(&["2", "1", "3"]);
    let folder = state.path().join("queue");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(folder.join("1.eml")).unwrap().permissions().mode() & 0o777, 0o600);
    let mut left = Vec::new();
    let (tell, _told) = mpsc::channel();
    let mut send = |_: &[u8], _: &[String]| {
        left.push(queue.waiting().unwrap().len());
        Ok(Taken::default())
    };
    queue.send(Which::All, &mut send, &tell).unwrap();
    assert_eq!(left, [3, 2, 1], "a mail is there while it is sent");
    assert_eq!(queue.waiting().unwrap(), strings(&[]));
}

#[test]
fn the_newest_goes_first_and_then_from_the_oldest_on() {
    let (_state, queue) = filled(&["2", "4", "1", "3"]);
    assert_eq!(attempt(&queue, |_| None), (strings(&["4", "1", "2", "3"]), 4, strings(&[]), strings(&[])));
}

#[test]
fn a_mail_that_fails_stays_and_lets_the_others_pass() {
    let (_state, queue) = filled(&["1", "2", "3"]);
    let failed = attempt(&queue, |mail| (mail != "2").then(|| Failure::Mail(anyhow!("later"))));
    assert_eq!(failed, (strings(&["3", "1", "2"]), 1, strings(&["later"]), strings(&["1.eml", "3.eml"])));
}

#[test]
fn what_is_no_mail_of_ours_stays_unsent_and_keeps_none_waiting() {
    let (state, queue) = filled(&["6"]);
    let at = |name: &str| state.path().join("queue").join(name);
    let secret = state.path().join("shadow");
    fs::write(&secret, fake::mail("secret")).unwrap();
    mkfifo(&at("1.eml"), Mode::S_IRWXU).unwrap();
    symlink(&secret, at("2.eml")).unwrap();
    fs::write(at("3.eml"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    fs::create_dir(at("4.eml")).unwrap();
    queue.put("5", &fake::mail("5"), None).unwrap();
    mkfifo(&at("5.done"), Mode::S_IRWXU).unwrap();
    let (met, sent, problems, left) = attempt(&queue, |_| None);
    assert_eq!((met, sent), (strings(&["6"]), 1));
    assert_eq!(left, ["1.eml", "2.eml", "3.eml", "4.eml", "5.eml"]);
    let hint = "hint: nothing of vaultberry's made it: look what it is, and remove it from the queue";
    let told = [
        ("1.eml", "it isn't a file"),
        ("2.eml", "it is a symbolic link"),
        ("3.eml", "it is no mail that vaultberry made, and isn't sent"),
        ("4.eml", "it isn't a file"),
        ("5.done", "it isn't a file"),
    ];
    assert_eq!(problems.len(), told.len(), "{problems:?}");
    for (problem, (name, why)) in problems.iter().zip(told) {
        assert!(problem.ends_with(&format!("{}: {why}\n{hint}", at(name).display())), "{problem}");
    }
    mkfifo(&at("7.lost"), Mode::S_IRWXU).unwrap();
    assert!(queue.lost().unwrap_err().to_string().contains("7.lost: it isn't a file\nhint: "));
}

#[test]
fn a_mail_refused_five_times_is_dropped_and_told() {
    let (_state, queue) = filled(&["1", "2"]);
    let never = |mail: &str| (mail == "1").then(|| Failure::Refused(anyhow!("never")));
    assert_eq!(attempt(&queue, never), (strings(&["2", "1"]), 1, strings(&["never"]), strings(&["1.1.eml"])));
    for left in ["1.2.eml", "1.3.eml", "1.4.eml"] {
        assert_eq!(attempt(&queue, never), (strings(&["1"]), 0, strings(&["never"]), strings(&[left])));
    }
    let dropped = "the mail 1.4.eml is dropped: the server refused it too often\n\
                   hint: what it told is in the run's log on the appliance";
    assert_eq!(attempt(&queue, never), (strings(&["1"]), 0, strings(&["never", dropped]), strings(&[])));
}

#[test]
fn a_mail_that_is_too_large_goes_in_its_short_form() {
    let (state, queue) = filled(&["1", "3"]);
    queue.put("2", &fake::mail("2"), Some(&fake::mail("short 2"))).unwrap();
    let failed = attempt(&queue, |mail| (mail == "2").then(|| Failure::TooLarge(anyhow!("too large"))));
    assert_eq!(failed, (strings(&["3", "1", "2", "short 2"]), 3, strings(&["too large"]), strings(&[])));
    assert!(!state.path().join("queue/2.short").exists());
    queue.put("2", &fake::mail("2"), Some(&fake::mail("short 2"))).unwrap();
    assert_eq!(attempt(&queue, |mail| (mail == "2").then(|| Failure::TooLarge(anyhow!("too large")))).1, 1);
}

#[test]
fn what_has_no_short_form_or_one_that_is_refused_counts_as_refused() {
    let (state, queue) = filled(&["1"]);
    queue.put("2", &fake::mail("2"), Some(&fake::mail("short"))).unwrap();
    let failed = attempt(&queue, |_| Some(Failure::TooLarge(anyhow!("too large"))));
    assert_eq!(failed, (strings(&["2", "short", "1"]), 0, strings(&["too large"]), strings(&["1.1.eml", "2.1.eml"])));
    assert!(state.path().join("queue/2.short").exists());
    let later = attempt(&queue, |mail| {
        Some(if mail == "short" { Failure::Mail(anyhow!("later")) } else { Failure::TooLarge(anyhow!("too large")) })
    });
    assert_eq!(later.3, strings(&["1.2.eml", "2.1.eml"]));
    for _ in 0..5 {
        attempt(&queue, |_| Some(Failure::Refused(anyhow!("never"))));
    }
    assert_eq!(lost(&queue).len(), 2);
    assert_eq!(fs::read_dir(state.path().join("queue")).unwrap().count(), 3, "the lock, and what was lost");
}

#[test]
fn between_runs_the_refused_ones_rest() {
    let (_state, queue) = filled(&["1", "2"]);
    attempt(&queue, |mail| (mail == "1").then(|| Failure::Refused(anyhow!("never"))));
    let (tell, _told) = mpsc::channel();
    queue.send(Which::NotRefused, &mut |_, _| panic!("none is left to try"), &tell).unwrap();
    assert_eq!(queue.waiting().unwrap(), strings(&["1.1.eml"]));
}

#[test]
fn what_comes_while_it_sends_is_sent_too() {
    let (_state, queue) = filled(&["1"]);
    let sent = attempt(&queue, |mail| {
        if mail == "1" {
            queue.put("2", &fake::mail("2"), None).unwrap();
        }
        None
    });
    assert_eq!(sent, (strings(&["1", "2"]), 2, strings(&[]), strings(&[])));
}

#[test]
fn when_nobody_listens_it_stops() {
    let (_state, queue) = filled(&["1", "2"]);
    let (tell, _) = mpsc::channel();
    queue.send(Which::All, &mut |_, _| Ok(Taken::default()), &tell).unwrap();
    assert_eq!(queue.waiting().unwrap(), strings(&["1.eml"]));
}

#[test]
fn a_dead_server_is_asked_once() {
    let (_state, queue) = filled(&["1", "2", "3"]);
    let stopped = attempt(&queue, |mail| (mail == "2").then(|| Failure::Server(anyhow!("dead"))));
    assert_eq!(stopped, (strings(&["3", "1", "2"]), 2, strings(&["dead"]), strings(&["2.eml"])));
}

#[test]
fn another_that_sends_is_waited_for() {
    let (_state, queue) = filled(&["1"]);
    let lock = queue.lock().unwrap().unwrap();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        drop(lock);
    });
    assert_eq!(attempt(&queue, |_| None), (strings(&["1"]), 1, strings(&[]), strings(&[])));
    other.join().unwrap();
}

#[test]
fn while_another_sends_nothing_is_sent() {
    let (_state, mut queue) = filled(&["1"]);
    assert_eq!(queue.patience, Duration::from_secs(30));
    queue.patience = Duration::from_millis(200);
    let lock = queue.lock().unwrap().unwrap();
    let told = strings(&["the mails are being sent by another process; what is left stays in the queue"]);
    assert_eq!(attempt(&queue, |_| None), (strings(&[]), 0, told, strings(&["1.eml"])));
    drop(lock);
    assert_eq!(attempt(&queue, |_| None).1, 1);
}

#[test]
fn sixty_wait_at_most_and_the_oldest_go() {
    let names: Vec<String> = (0..62).map(|number| format!("{number:02}")).collect();
    let (_state, queue) = filled(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (met, _, problems, left) = attempt(&queue, |_| Some(Failure::Server(anyhow!("dead"))));
    assert_eq!((met, left.len(), left[0].as_str()), (strings(&["61"]), 60, "02.eml"));
    let told = ["00", "01"].map(|name| format!("more than 60 mails or 64 MiB wait: the oldest, {name}.eml, goes unsent"));
    assert_eq!(problems, [&["dead".to_owned()][..], &told].concat());
}

#[test]
fn the_queue_has_a_bound_in_bytes_too() {
    let (state, queue) = filled(&["1", "2", "3"]);
    for (name, mebibytes) in [("1", 10), ("2", 60), ("3", 4)] {
        let mail = File::options().write(true).open(state.path().join(format!("queue/{name}.eml"))).unwrap();
        mail.set_len(mebibytes << 20).unwrap();
    }
    let dropped = "more than 60 mails or 64 MiB wait: the oldest, 1.eml, goes unsent";
    assert_eq!(queue.bound().unwrap(), [dropped]);
    assert_eq!(lost(&queue), [dropped]);
    assert_eq!(queue.waiting().unwrap(), strings(&["2.eml", "3.eml"]));
}

#[test]
fn what_is_not_ours_counts_for_nothing_and_stays() {
    let (state, queue) = filled(&["1", "2"]);
    let path = |name: &str| state.path().join("queue").join(name);
    File::create(path("9.eml")).unwrap().set_len(100 << 20).unwrap();
    symlink(path("9.eml"), path("8.eml")).unwrap();
    mkfifo(&path("0.eml"), Mode::S_IRWXU).unwrap();
    fs::create_dir(path("7.eml")).unwrap();
    assert_eq!(queue.bound().unwrap(), strings(&[]));
    assert_eq!(queue.waiting().unwrap(), strings(&["0.eml", "1.eml", "2.eml", "7.eml", "8.eml", "9.eml"]));
}

#[test]
fn an_old_part_is_removed_and_a_young_one_left_to_its_writer() {
    let (state, queue) = filled(&["1"]);
    let folder = state.path().join("queue");
    let old = File::create(folder.join("0.eml.part")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
    File::create(folder.join("2.eml.part")).unwrap();
    assert_eq!(attempt(&queue, |_| None).1, 1);
    assert_eq!((folder.join("0.eml.part").exists(), folder.join("2.eml.part").exists()), (false, true));
}

#[test]
fn without_a_mail_there_is_no_folder() {
    let state = tempfile::tempdir().unwrap();
    let queue = Queue::below(state.path());
    assert_eq!(attempt(&queue, |_| None), (strings(&[]), 0, strings(&[]), strings(&[])));
    assert!(!state.path().join("queue").exists());
}

#[test]
fn a_mail_that_some_have_waits_for_the_others() {
    let (state, queue) = filled(&["1"]);
    let (tell, _told) = mpsc::channel();
    let mut met = Vec::new();
    for (done, is_partial) in [("a", true), ("b", true), ("c", false)] {
        let mut send = |_: &[u8], before: &[String]| {
            met.push(before.join(" "));
            Ok(Taken { done: strings(&[done]), is_partial, ..Taken::default() })
        };
        queue.send(Which::NotRefused, &mut send, &tell).unwrap();
    }
    assert_eq!(met, ["", "a", "a b"]);
    assert_eq!(fs::read_dir(state.path().join("queue")).unwrap().count(), 1, "only the lock");
}

/// The losses that are kept, as they are told.
fn lost(queue: &Queue) -> Vec<String> {
    queue.lost().unwrap().into_iter().map(|loss| loss.told).collect()
}

#[test]
fn what_was_lost_is_kept_until_a_mail_that_tells_it_is_taken() {
    let (state, queue) = filled(&["1"]);
    let never = |mail: &str| (mail == "1").then(|| Failure::Refused(anyhow!("never")));
    for _ in 0..4 {
        attempt(&queue, never);
    }
    assert_eq!(lost(&queue), strings(&[]));
    attempt(&queue, never);
    let dropped = "the mail 1.4.eml is dropped: the server refused it too often\n\
                   hint: what it told is in the run's log on the appliance";
    assert_eq!(lost(&queue), [dropped]);
    let names: Vec<String> = queue.lost().unwrap().into_iter().map(|loss| loss.name).collect();
    queue.put("2", &fake::mail("2"), None).unwrap();
    assert_eq!(attempt(&queue, |_| None).1, 1);
    assert_eq!(lost(&queue), [dropped], "a mail that doesn't tell it");
    queue.tells("3", &names).unwrap();
    queue.put("3", &fake::mail("3"), None).unwrap();
    attempt(&queue, |_| Some(Failure::Mail(anyhow!("later"))));
    assert_eq!(lost(&queue), [dropped]);
    attempt(&queue, |_| None);
    assert_eq!(lost(&queue), strings(&[]));
    assert_eq!(fs::read_dir(state.path().join("queue")).unwrap().count(), 1, "only the lock");
}

#[test]
fn refused_recipients_are_lost_once_until_told() {
    let (_state, queue) = filled(&["1", "2", "3"]);
    let mut refuse = |_: &[u8], _: &[String]| Ok(Taken { refused: strings(&["nobody"]), ..Taken::default() });
    let (tell, _told) = mpsc::channel();
    queue.send(Which::All, &mut refuse, &tell).unwrap();
    assert_eq!(lost(&queue), ["nobody"]);
    let before = queue.lost().unwrap().remove(0).name;
    queue.tells("4", std::slice::from_ref(&before)).unwrap();
    queue.put("4", &fake::mail("4"), None).unwrap();
    queue.send(Which::All, &mut refuse, &tell).unwrap();
    assert_eq!(lost(&queue), ["nobody"], "refused again, by the mail that told it");
    assert_ne!(queue.lost().unwrap()[0].name, before);
}

#[test]
fn the_newest_losses_are_kept() {
    let (_state, queue) = filled(&["1"]);
    (0..25).for_each(|number| queue.lose(&number.to_string(), &[]).unwrap());
    assert_eq!(lost(&queue).len(), 20);
    assert!(lost(&queue).contains(&"24".to_owned()));
}

#[test]
fn rather_than_dropped_a_mail_is_cut_to_its_short_form() {
    let (state, queue) = filled(&["3"]);
    for name in ["1", "2"] {
        queue.put(name, &fake::mail(name), Some(&fake::mail("short"))).unwrap();
    }
    let grow = |name: &str, mebibytes: u64| {
        let mail = File::options().write(true).open(state.path().join(format!("queue/{name}.eml"))).unwrap();
        mail.set_len(mebibytes << 20).unwrap();
    };
    for (name, mebibytes) in [("1", 10), ("2", 30), ("3", 30)] {
        grow(name, mebibytes);
    }
    assert_eq!(queue.bound().unwrap(), ["more than 64 MiB wait: of the mail 1.eml only the text is kept"]);
    assert_eq!(fs::read(state.path().join("queue/1.eml")).unwrap(), fake::mail("short"));
    assert_eq!(queue.waiting().unwrap(), strings(&["1.eml", "2.eml", "3.eml"]));
    assert_eq!(lost(&queue), strings(&[]));
}
