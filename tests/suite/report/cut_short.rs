//! Runs that were killed: the next start tells of them, once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::appliance::{Appliance, Run, rsync_of};
use crate::support::gnupg::GnuPg;
use crate::support::mailbox::{Mail, Mailbox};
use crate::support::peer::Peer;

/// An appliance that mails, and whose only server lets it in and never answers.
struct Stuck {
    appliance: Appliance,
    mailbox: Mailbox,
    owner: GnuPg,
    _peer: Peer,
}

impl Stuck {
    fn new() -> Self {
        let mut appliance = Appliance::new(false);
        let (mailbox, owner) = (Mailbox::start(&[]), GnuPg::new());
        let peer = Peer::start(&appliance.public_key(), Some("exec cat >/dev/null"));
        appliance.settings(&format!(
            "[openpgp]\nrecipients = ['''{}''']\n[report]\nto = [\"owner@example.org\"]\nfrom = \"pi@example.org\"\n\
             server = \"127.0.0.1\"\nport = {}\nca = '''{}'''\n",
            owner.certificate(),
            mailbox.port,
            mailbox.authority()
        ));
        appliance.pull_from("web", &peer);
        Self { appliance, mailbox, owner, _peer: peer }
    }

    /// A run that has begun its pull.
    fn running(&self) -> Child {
        let mut command = self.appliance.command(&["backup", "run"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while rsync_of(child.id()).is_none() {
            assert!(Instant::now() < until, "the run begins its pull");
            sleep(Duration::from_millis(50));
        }
        child
    }

    /// A run that has begun, and was killed.
    fn killed(&self) {
        let mut child = self.running();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Run {
        Run::of(self.appliance.command(arguments).output().unwrap())
    }

    fn mails(&self) -> Vec<Mail> {
        self.mailbox.mails().iter().map(|mail| Mail::open(mail, &self.owner)).collect()
    }
}

fn assert_tells(mail: &Mail, run: &str) {
    assert_eq!(mail.subject, "[vaultberry] vaultberry: failed, cut short");
    let start = mail.text.lines().take(2).collect::<Vec<_>>().join("\n");
    assert!(
        start.contains(", not ended\n  it was cut short: ") && mail.text.contains(&format!("the run: {run}\r\n")),
        "{}",
        mail.text
    );
    assert!(mail.log.contains(&format!("run {run} begins")), "{}", mail.log);
}

#[test]
fn a_killed_run_is_told_of_by_the_timer_once() {
    let stuck = Stuck::new();
    assert_eq!(stuck.command(&["report", "send"]).stdout, "0 mails sent, 0 waiting\n", "there was no run");
    stuck.killed();
    let run = stuck.appliance.last_run()["run"].as_str().unwrap().to_owned();
    let preview = stuck.command(&["report", "preview"]);
    assert!(preview.stdout.contains("it was cut short"), "{preview:?}");
    assert_eq!(stuck.command(&["report", "send"]).stdout, "1 mail sent, 0 waiting\n");
    assert_tells(&stuck.mails()[0], &run);
    assert_eq!(stuck.command(&["report", "send"]).stdout, "0 mails sent, 0 waiting\n");
    assert_eq!(stuck.mails().len(), 1);
}

#[test]
fn a_run_that_goes_on_is_left_in_peace() {
    let stuck = Stuck::new();
    let mut child = stuck.running();
    assert_eq!(stuck.command(&["report", "send"]).stdout, "0 mails sent, 0 waiting\n");
    let status = stuck.command(&["status"]);
    assert!(status.stdout.starts_with("vaultberry: a run is going on since 20"), "{status:?}");
    assert!(status.stdout.contains("\nweb: the run isn't done with it yet\n"), "{status:?}");
    let preview = stuck.command(&["report", "preview"]);
    assert!(preview.stderr.starts_with("error: showing the report of the last run: it goes on\nhint: "), "{preview:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_a_killed_run_had_done_stands_in_its_word() {
    let mut stuck = Stuck::new();
    let peer = Peer::start(&stuck.appliance.public_key(), None);
    peer.write("file", "1");
    stuck.appliance.pull_from("docs", &peer);
    let mut child = stuck.running();
    let until = Instant::now() + Duration::from_secs(20);
    while stuck.appliance.last_run()["sources"].as_array().unwrap().is_empty() {
        assert!(Instant::now() < until, "one of the two is done with");
        sleep(Duration::from_millis(50));
    }
    let word = stuck.appliance.last_run();
    assert_eq!((word["sources"][0]["name"].as_str(), word["sources"][0]["outcome"].as_str()), (Some("docs"), Some("complete")));
    assert_eq!((word["outcome"].as_str(), word["ended"].is_null()), (Some("failed"), true));
    let status = stuck.command(&["status"]);
    assert!(status.stdout.contains("\nweb: the run isn't done with it yet\n"), "{status:?}");
    assert!(status.stdout.contains("\ndocs: complete, "), "{status:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(stuck.command(&["report", "send"]).stdout, "1 mail sent, 0 waiting\n");
    let mail = &stuck.mails()[0];
    assert!(mail.subject.ends_with(": failed, cut short") && mail.text.contains("\r\ndocs: complete, "), "{}", mail.text);
    assert!(mail.text.contains("\r\nweb: the run was cut short before it was done with it\r\n"), "{}", mail.text);
}

#[test]
fn a_killed_run_is_told_of_by_the_next_start_even_if_no_run_is_due() {
    let stuck = Stuck::new();
    stuck.killed();
    let run = stuck.appliance.last_run()["run"].as_str().unwrap().to_owned();
    // As if it had been killed after its work was done, with the mail not yet made.
    let mut word = stuck.appliance.last_run();
    word["ended"] = word["started"].clone();
    std::fs::write(stuck.appliance.state("last-run.json"), word.to_string()).unwrap();
    let start = stuck.command(&["backup", "run", "--if-due"]);
    assert_eq!(start.code, Some(4), "{start:?}");
    assert!(start.stdout.contains("nothing is due"), "{start:?}");
    let mails = stuck.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].subject.contains(": failed, ") && mails[0].text.contains(&run), "{}", mails[0].text);
    assert_eq!(stuck.command(&["backup", "run", "--if-due"]).code, Some(4));
    assert_eq!(stuck.mails().len(), 1);
}

#[test]
fn the_next_run_sends_the_word_of_a_killed_one_beside_its_own() {
    let stuck = Stuck::new();
    stuck.killed();
    let run = stuck.appliance.last_run()["run"].as_str().unwrap().to_owned();
    let mut next = stuck.running();
    // Told already, so that the timer needn't wait for this one.
    assert_eq!(stuck.command(&["report", "send"]).stdout, "1 mail sent, 0 waiting\n");
    assert_tells(&stuck.mails()[0], &run);
    kill(Pid::from_raw(next.id().cast_signed()), Signal::SIGTERM).unwrap();
    next.wait().unwrap();
    let mails = stuck.mails();
    assert_eq!(mails.len(), 2);
    assert!(mails[1].text.contains("interrupted by a signal"), "{}", mails[1].text);
}

#[test]
fn a_run_that_was_told_is_shown_by_preview_as_it_was_mailed() {
    let stuck = Stuck::new();
    let nothing = stuck.command(&["report", "preview"]);
    assert!(nothing.code == Some(1) && nothing.stderr.starts_with("error: reading the word of the last run, "), "{nothing:?}");
    let mut child = stuck.running();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    let preview = stuck.command(&["report", "preview"]);
    let mail = &stuck.mails()[0];
    // Others write to the disk meanwhile.
    let steady = |text: &str| text.lines().filter(|line| !line.starts_with("disk: ")).collect::<Vec<_>>().join("\n");
    let expected = steady(&format!("Subject: {}\n\n{}\nlog: ", mail.subject, mail.text.replace("\r\n", "\n")));
    assert!(steady(&preview.stdout).starts_with(&expected), "{} is not {expected}", preview.stdout);
    let page = tempfile::tempdir().unwrap();
    let page = page.path().join("page.html");
    let preview = stuck.command(&["report", "preview", "--html", page.to_str().unwrap()]);
    assert!(preview.code == Some(0) && steady(&preview.stdout).starts_with(&expected), "{preview:?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(
        html.starts_with("<!DOCTYPE html>") && html.contains("</html>") && html.contains("interrupted by a signal"),
        "{html}"
    );
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(stuck.mails().len(), 1, "nothing is sent by it");
}
