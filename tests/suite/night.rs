//! Whole nights, as the owner has them: a server with files and a database, a store, a mailbox; and what can go wrong.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::appliance::{Appliance, Run, names};
use crate::support::gnupg::GnuPg;
use crate::support::mailbox::Mail;
use crate::support::servers::{CREDENTIALS, Servers};
use crate::support::small_disk::SmallDisk;
use crate::support::store::Store;

/// An appliance and all its servers.
struct Night {
    appliance: Appliance,
    servers: Servers,
}

impl Night {
    fn new() -> Self {
        Self::of(GnuPg::new(), false)
    }

    /// One whose owner is this. `disk`: with a backup disk, which isn't there.
    fn of(owner: GnuPg, disk: bool) -> Self {
        let mut appliance = Appliance::new(disk);
        let servers = Servers::start(&appliance.public_key(), owner);
        servers.peer.write("letters/über uns.txt", "hello\n");
        servers.peer.write("photo", vec![0x5a; 300_000]);
        appliance.settings(&servers.sections("127.0.0.1", &appliance.secret("s3", CREDENTIALS)));
        appliance.pull_from("web", &servers.peer);
        appliance.source_settings("postgresql = [\"wiki\"]");
        Self { appliance, servers }
    }

    /// A run that must end so: its exit code, and the one mail that came of it, opened.
    fn run(&self, code: i32) -> (Run, Mail) {
        let before = self.servers.mailbox.mails().len();
        let run = self.appliance.run();
        assert_eq!(run.code, Some(code), "{run:?}");
        let mut mails = self.servers.mails();
        assert_eq!(mails.len(), before + 1, "{run:?}");
        (run, mails.pop().unwrap())
    }

    fn archives(&self) -> Vec<PathBuf> {
        self.appliance.archives("web")
    }
}

#[test]
fn a_whole_night_comes_back_from_disk_and_store() {
    let night = Night::new();
    let (run, mail) = night.run(0);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: complete");
    assert!(
        mail.text.contains("web: complete") && mail.text.contains("off-site: ") && mail.text.contains("proven"),
        "{}",
        mail.text
    );
    assert!(mail.log.contains("\"pushed to ") || mail.log.contains("pushed to "), "{}", mail.log);
    assert!(run.stdout.lines().count() <= 4, "to be read in five seconds: {}", run.stdout);

    // From the disk, with vaultberry.
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("here");
    let restored = Run::of(night.appliance.command(&["restore", "web/latest", "--to", here.to_str().unwrap()]).output().unwrap());
    assert_eq!(restored.code, Some(0), "{restored:?}");
    night.servers.assert_restored(&here, "here");

    // From the store, with GnuPG and GNU tar alone.
    let there = folder.path().join("there");
    assert_eq!(night.servers.open_copy(&there), fs::read(&night.archives()[0]).unwrap());
    night.servers.assert_restored(&there, "there");

    // And the appliance's own configuration, as it was.
    let own = night.appliance.backup("snapshots/_appliance");
    let newest = names(&own).into_iter().rfind(|name| name.ends_with(".tar.gz")).unwrap();
    let tar = Command::new("tar").args(["-xzOf"]).arg(own.join(&newest)).arg("appliance/appliance.toml").output().unwrap();
    assert_eq!(tar.stdout, fs::read(night.appliance.config()).unwrap());
    assert!(night.servers.store.get(&format!("attic/_appliance/{newest}.pgp")).is_some());

    // The same night again is not pushed: the last copy is young enough.
    let (run, _) = night.run(0);
    assert!(run.stdout.contains("off-site: not due; the last complete one there is "), "{}", run.stdout);
    assert_eq!((night.servers.copies().len(), names(&own).len()), (1, 2), "{}", run.stdout);
}

#[test]
fn what_a_server_names_is_harmless_in_the_mail_and_counted() {
    let night = Night::new();
    night.run(0);
    let peer = &night.servers.peer;
    for name in [b"\x1b]0;title\x07\x1b[2J".as_slice(), b"Subject: forged\r\n\r\nbody", b"latin \xe9", b"\xe2\x80\xae.exe"] {
        let path = peer.write(OsStr::from_bytes(name), "x");
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let (_, mail) = night.run(0);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: complete");
    assert!(mail.text.contains("4 unreadable") && mail.text.contains("Subject: forged\\r\\n"), "{}", mail.text);
    for part in [&mail.text, &mail.log] {
        let raw = |letter: char| (letter.is_control() && !"\r\n".contains(letter)) || letter == '\u{202e}';
        assert!(!part.contains(raw), "{part:?}");
    }
    for entry in fs::read_dir(peer.data()).unwrap() {
        // Root's own tests can read all of it again.
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_database_that_is_gone_makes_the_night_partial() {
    let night = Night::new();
    night.run(0);
    night.servers.postgresql.run("postgres", &["ALTER DATABASE wiki RENAME TO other"]);
    night.servers.peer.write("new", "file");
    let (_, mail) = night.run(3);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: partial, 0 of 1 sources complete");
    assert!(mail.text.contains("web: partial") && mail.text.contains("wiki"), "{}", mail.text);
    night.servers.postgresql.run("postgres", &["ALTER DATABASE other RENAME TO wiki"]);
    // The files of this night, and the last good dump.
    let (folder, _) = night.appliance.unpack(&night.archives()[1], Path::new("/"));
    night.servers.assert_restored(folder.path(), "again");
    // Back again, the next night is good and goes off-site only when that is due.
    assert_eq!(night.run(0).1.subject, "[vaultberry] vaultberry: complete");
}

#[test]
fn a_server_that_is_gone_or_changed_fails_the_night_and_nothing_is_pruned() {
    let mut night = Night::new();
    night.appliance.keep(1);
    night.run(0);
    let before = (night.appliance.snapshots("web"), fs::read(&night.archives()[0]).unwrap());
    night.servers.peer.change_host_key();
    let (_, mail) = night.run(1);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: failed, 0 of 1 sources complete");
    assert!(mail.text.contains("host key is none of the keys pinned"), "{}", mail.text);
    night.servers.peer.end();
    let (_, mail) = night.run(1);
    assert!(mail.text.contains("Connection refused"), "{}", mail.text);
    assert_eq!((night.appliance.snapshots("web"), fs::read(&night.archives()[0]).unwrap()), before);
    assert_eq!(night.servers.copies().len(), 1);
}

#[test]
fn old_snapshots_and_logs_go_after_a_good_night() {
    let mut night = Night::new();
    night.appliance.keep(2);
    for _ in 0..3 {
        night.run(0);
    }
    let archives = night.archives();
    assert_eq!(archives.len(), 2);
    let word = night.appliance.last_run();
    assert_eq!(word["sources"][0]["pruned"].as_array().unwrap().len(), 1);
    assert_eq!(night.appliance.snapshots("web").len(), 4);
    for folder in [night.appliance.backup("logs"), night.appliance.state("logs")] {
        assert_eq!(names(&folder).len(), 2, "{}", folder.display());
    }
}

#[test]
fn a_store_that_is_down_leaves_the_snapshot_and_is_tried_again_the_next_night() {
    let mut night = Night::new();
    let port = night.servers.store.port;
    night.servers.store.end();
    let (run, mail) = night.run(3);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: partial, though every source is complete");
    assert!(mail.text.contains("off-site: FAILED: ") && mail.text.contains("hint: "), "{}", mail.text);
    assert!(run.stdout.contains("web  complete"), "{}", run.stdout);
    assert_eq!(night.archives().len(), 1);
    assert!(!night.appliance.backup("outbox/web").exists());
    assert!(!night.appliance.state("pushes.json").exists());
    night.servers.store = Store::start_at(port);
    night.run(0);
    assert_eq!(night.servers.copies().len(), 1);
}

#[test]
fn a_mail_server_that_is_down_spoils_nothing_and_gets_the_report_the_next_night() {
    let mut night = Night::new();
    night.servers.mailbox.end();
    let run = night.appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("reports that wait for the mail server: 1"), "{}", run.stdout);
    assert_eq!(night.appliance.last_run()["mail"]["waiting"], 1);
    night.servers.mailbox.begin();
    let run = night.appliance.run();
    assert_eq!(run.code, Some(0), "{run:?}");
    let mails = night.servers.mails();
    assert_eq!(mails.len(), 2);
    assert!(mails.iter().all(|mail| mail.subject == "[vaultberry] vaultberry: complete"));
    assert_eq!(night.appliance.last_run()["mail"], serde_json::json!({"sent": 2, "waiting": 0, "problems": []}));
}

#[test]
fn an_expired_certificate_keeps_everything_here_and_is_told_without_details() {
    let night = Night::of(GnuPg::expired(), false);
    let run = night.appliance.run();
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("web  complete") && run.stdout.contains("hint: extend it with "), "{}", run.stdout);
    assert_eq!((night.archives().len(), night.servers.store.keys().len()), (1, 0));
    let mails = night.servers.mailbox.mails();
    assert_eq!(mails.len(), 1);
    let raw = String::from_utf8_lossy(&mails[0]).into_owned();
    assert!(raw.contains("Subject: [vaultberry] vaultberry: partial"), "{raw}");
    assert!(!raw.contains("web") && !raw.contains("wiki") && !raw.contains("letters"), "{raw}");
}

#[test]
fn a_disk_that_is_not_mounted_is_reported_and_nothing_is_written_under_it() {
    let night = Night::of(GnuPg::new(), true);
    let (_, mail) = night.run(1);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: failed, no source was reached");
    assert!(mail.text.contains("the backup disk is not mounted"), "{}", mail.text);
    assert!(names(&night.appliance.backup("")).is_empty());
    assert!(night.servers.store.keys().is_empty());
}

#[test]
fn a_second_run_is_reported_as_skipped_and_touches_nothing() {
    let night = Night::new();
    night.run(0);
    let before = (night.appliance.snapshots("web"), night.appliance.last_run());
    let mut holder = Command::new("flock").arg(night.appliance.lock()).args(["sleep", "60"]).spawn().unwrap();
    while Command::new("flock").arg("-n").arg(night.appliance.lock()).arg("true").status().unwrap().success() {}
    let (run, mail) = night.run(4);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(run.stdout.contains("another run is at work"), "{}", run.stdout);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: skipped");
    assert_eq!((night.appliance.snapshots("web"), night.appliance.last_run()), before);
}

#[test]
fn a_state_folder_that_takes_nothing_keeps_neither_backup_nor_mail() {
    let night = Night::new();
    // As far as root can be kept from writing at all.
    fs::write(night.appliance.state("logs"), "no folder").unwrap();
    fs::create_dir(night.appliance.state("last-run.json")).unwrap();
    let (run, mail) = night.run(3);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: partial, though every source is complete");
    assert!(mail.text.contains("web: complete") && mail.text.contains("last-run.json"), "{}", mail.text);
    assert!(run.stdout.contains("making the folder ") || run.stdout.contains("creating the log"), "{}", run.stdout);
    assert_eq!((night.archives().len(), night.servers.copies().len()), (1, 1));
}

#[test]
fn a_state_folder_that_is_full_is_told_of_by_the_status() {
    let night = Night::new();
    let Some(small) = SmallDisk::mount(&night.appliance.state(""), 8) else { return };
    // The source's key.
    let copied = Command::new("cp").arg("-a").arg(night.appliance.state(".")).arg(small.path()).status();
    assert!(copied.unwrap().success());
    assert_eq!(small.run(&night.appliance).code, Some(0));
    let status = || small.vaultberry(&night.appliance, &["status"]);
    assert!(!status().stdout.contains("written down"), "{:?}", status());
    small.leave("junk", 256 << 10);
    let status = status();
    assert!(status.code == Some(1) && status.stdout.contains("what runs did can't be written down"), "{status:?}");
}

#[test]
fn a_lock_that_can_not_be_had_is_mailed() {
    let night = Night::new();
    fs::create_dir(night.appliance.lock()).unwrap();
    let (_, mail) = night.run(1);
    assert_eq!(mail.subject, "[vaultberry] vaultberry: failed, no source was reached");
    assert!(mail.text.contains("opening the lock "), "{}", mail.text);
}

#[test]
fn a_rehearsal_with_an_expired_certificate_is_no_better_than_the_night() {
    let night = Night::of(GnuPg::expired(), false);
    let run = Run::of(night.appliance.command(&["backup", "run", "--dry-run"]).output().unwrap());
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("nothing can be sealed for the certificate "), "{}", run.stdout);
}

#[test]
fn a_full_disk_fails_the_night_and_leaves_what_was_there() {
    let night = Night::new();
    let Some(small) = SmallDisk::mount(&night.appliance.backup(""), 192) else { return };
    let run = small.run(&night.appliance);
    assert_eq!(run.code, Some(0), "{run:?}");
    let good = small.archives();
    assert_eq!(good.len(), 1);

    // Fits into the mirror, and then its archive doesn't.
    let noise: Vec<u8> = (0..27_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    night.servers.peer.write("noise", noise);
    let run = small.run(&night.appliance);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("No space left on device"), "{}", run.stdout);
    assert_eq!(small.archives(), good);
    // No room even to begin with.
    small.leave("filler", 60 << 20);
    let run = small.run(&night.appliance);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("hint: `vaultberry snapshot prune`"), "{}", run.stdout);
    let mails: Vec<String> = night.servers.mails().into_iter().map(|mail| mail.subject).collect();
    assert_eq!(mails.iter().filter(|subject| subject.contains(": failed, ")).count(), 2, "{mails:?}");
    small.remove(&night.appliance.backup("filler"));
    small.remove(&night.appliance.backup("current/web"));
    fs::remove_file(night.servers.peer.data().join("noise")).unwrap();
    assert_eq!(small.run(&night.appliance).code, Some(0));
    assert_eq!(small.archives().len(), 2);
    assert!(small.archives().iter().all(|name| name.ends_with(".tar.gz")));
}

#[test]
fn a_night_that_will_not_fit_prunes_by_the_rules_first_and_then_is_not_begun() {
    let mut night = Night::new();
    let Some(small) = SmallDisk::mount(&night.appliance.backup(""), 192) else { return };
    let mut noise = vec![0; 24 << 20];
    openssl::rand::rand_bytes(&mut noise).unwrap();
    night.servers.peer.write("noise", noise);
    night.appliance.keep(3);
    for _ in 0..2 {
        assert_eq!(small.run(&night.appliance).code, Some(0));
    }
    assert_eq!(small.archives().len(), 2);
    // 64 MiB are kept free, and the night would need 27 more.
    small.leave("filler", 80 << 20);
    let run = small.run(&night.appliance);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("a night of web needs about 2") && run.stdout.contains("keep less (`keep`)"), "{}", run.stdout);
    assert_eq!(small.archives().len(), 2);
    // After a failed night nothing is pruned, whatever the rules say.
    night.appliance.keep(1);
    assert_eq!(small.run(&night.appliance).code, Some(1));
    assert_eq!(small.archives().len(), 2);
    small.remove(&night.appliance.backup("filler"));
    night.appliance.keep(3);
    assert_eq!(small.run(&night.appliance).code, Some(0));
    assert_eq!(small.archives().len(), 3);
    small.leave("filler", 80 << 20);
    night.appliance.keep(1);
    let run = small.run(&night.appliance);
    assert_eq!((run.code, small.archives().len()), (Some(0), 1), "{run:?}");
}

#[test]
fn what_happens_is_told_to_programs_as_json() {
    let night = Night::new();
    let run = Run::of(night.appliance.command(&["backup", "run", "--json"]).output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    let events: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> =
        events.iter().map(|event| event["event"].as_str().unwrap()).filter(|kind| *kind != "progress").collect();
    // The last push is the appliance's own.
    assert_eq!(kinds, ["begun", "source", "push", "push", "ended"]);
    let doing: Vec<&str> = events.iter().filter_map(|event| event["doing"].as_str()).collect();
    for what in ["dumping wiki", "archiving"] {
        assert!(doing.contains(&what), "{doing:?}");
    }
    assert!(events.iter().all(|event| event["time"].is_string()));
    assert_eq!(events.last().unwrap()["outcome"], "complete");
    assert_eq!(events.iter().find(|event| event["event"] == "push").unwrap()["source"], "web");
}

#[test]
fn a_rehearsal_tells_what_would_be_done_and_does_nothing() {
    let night = Night::new();
    let rehearse = || Run::of(night.appliance.command(&["backup", "run", "--dry-run"]).output().unwrap());
    let run = rehearse();
    assert_eq!(run.code, Some(0), "{run:?}");
    for told in
        ["the database wiki can be dumped", "off-site: due, would be pushed", "the report would go to ", "nothing was written"]
    {
        assert!(run.stdout.contains(told), "{}", run.stdout);
    }
    assert!(names(&night.appliance.backup("")).is_empty());
    assert_eq!(names(&night.appliance.state("")), ["ssh"]);
    assert!(night.servers.store.keys().is_empty() && night.servers.mailbox.mails().is_empty());
    night.run(0);
    let run = rehearse();
    assert!(run.stdout.contains("off-site: not due"), "{}", run.stdout);
    assert_eq!(night.archives().len(), 1);
    night.servers.postgresql.run("postgres", &["ALTER DATABASE wiki RENAME TO other"]);
    assert_eq!(rehearse().code, Some(3));
}

#[test]
fn a_missed_night_is_made_up_for_and_a_cut_one_is_told_of() {
    let night = Night::new();
    let if_due = || Run::of(night.appliance.command(&["backup", "run", "--if-due"]).output().unwrap());
    let run = if_due();
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stdout.contains("nothing is due: there was no run yet"), "{}", run.stdout);
    night.run(0);
    assert_eq!(if_due().code, Some(4), "the night is done");
    assert_eq!(night.servers.mailbox.mails().len(), 1, "a run that isn't due is no news");

    // As a kill or a power cut leaves it.
    let path = night.appliance.state("last-run.json");
    let mut word = night.appliance.last_run();
    word["ended"] = Value::Null;
    fs::write(&path, word.to_string()).unwrap();
    let run = if_due();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("was cut short: it was killed, or the power went"), "{}", run.stdout);

    // A day later, as the clock goes.
    let mut word = night.appliance.last_run();
    word["started"] = "2026-01-01T00:00:00Z".into();
    fs::write(&path, word.to_string()).unwrap();
    assert_eq!(if_due().code, Some(0));
    assert_eq!(night.servers.mailbox.mails().len(), 3);
}
