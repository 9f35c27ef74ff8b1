//! The mail to the owner: through a real mail server, opened by GnuPG, and read by Python's parser.

mod cut_short;
mod postfix;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use jiff::{SignedDuration, Timestamp};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use serde_json::{Value, json};
use tempfile::TempDir;
use vaultberry::config;
use vaultberry::report::{Delivery, Letter, post};

use crate::support::appliance::{Run, names};
use crate::support::certify;
use crate::support::gnupg::GnuPg;
use crate::support::mailbox::{Mailbox, parse};

const SUBJECT: &str = "[vaultberry] pi: partial";
const TEXT: &str = "backup 20250102T023000Z: partial\n  wiki  /srv/Übersicht can't be read\n";
const HTML: &str = "<!DOCTYPE html>\n<title>partial</title>\n<p style=\"color: #a00\">/srv/Übersicht</p>\n";

/// An appliance that mails through `mailbox` to the owners of `keys`.
struct Sender {
    folder: TempDir,
    text: String,
}

impl Sender {
    fn new(mailbox: &Mailbox, keys: &[&GnuPg]) -> Self {
        Self::with(mailbox, keys, &format!("ca = '''{}'''\n", mailbox.authority()))
    }

    /// One with these settings of `[report]`.
    fn with(mailbox: &Mailbox, keys: &[&GnuPg], settings: &str) -> Self {
        Self::through(mailbox.port, keys, settings)
    }

    /// The same through whatever listens at the port.
    fn through(port: u16, keys: &[&GnuPg], settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recipients: Vec<String> = keys.iter().map(|key| format!("'''{}'''", key.certificate())).collect();
        let text = format!(
            "[appliance]\nhostname = \"pi\"\n[admin]\ngenerate_key = true\n[backup]\nstate = \"{0}/state\"\n\
             [openpgp]\nrecipients = [{1}]\n\
             [report]\nto = [\"owner@example.org\", \"other@example.org\"]\nfrom = \"pi@example.net\"\n\
             server = \"127.0.0.1\"\nport = {2}\nsize_limit = \"64 KiB\"\n{settings}\
             [[source]]\nname = \"web\"\nhost = \"web.example.org\"\nuser = \"backup\"\npaths = [\"/srv\"]\nhost_keys = \
             [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]\n",
            folder.path().display(),
            recipients.join(", "),
            port,
        );
        Self { folder, text }
    }

    /// Adds a server that is tried when the ones before don't take a mail.
    fn fall_back(&mut self, port: u16, ca: &str) {
        let section = format!("[[report.fallback]]\nserver = \"127.0.0.1\"\nport = {port}\nca = '''{ca}'''\n[[source]]");
        self.text = self.text.replace("[[source]]", &section);
    }

    /// Mails `TEXT` as if it were some seconds later, with the log if there is one. Later mails are made later.
    fn post(&self, seconds: i64) -> Delivery {
        let log = self.log();
        let letter = Letter {
            subject: SUBJECT.into(),
            text: TEXT.into(),
            html: Some(HTML.into()),
            tells: Vec::new(),
            log: log.exists().then_some(log),
        };
        let now = Timestamp::now() + SignedDuration::from_secs(seconds);
        post(&config::parse(&self.text).unwrap(), &letter, now)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("20250102T023000Z.log")
    }

    /// `vaultberry report test`.
    fn test(&self) -> Run {
        self.command("test")
    }

    /// `vaultberry report COMMAND`.
    fn command(&self, command: &str) -> Run {
        let config = self.folder.path().join("appliance.toml");
        fs::write(&config, &self.text).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        Run::of(program.args(["report", command, "--config"]).arg(config).output().unwrap())
    }

    /// The mails in the queue, oldest first.
    fn queued(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().join("state/queue");
        names(&folder).into_iter().filter(|name| name != "lock").map(|name| folder.join(name)).collect()
    }

    /// Opens a mail with the key, and gives what is in it.
    fn open(&self, mail: &[u8], key: &GnuPg) -> Value {
        let sealed = self.folder.path().join("encrypted.asc");
        fs::write(&sealed, parse(mail)["parts"][1]["content"].as_str().unwrap()).unwrap();
        parse(&key.decrypt(&sealed))
    }
}

fn sent(sent: usize, waiting: usize) -> Delivery {
    Delivery { sent, waiting, problems: Vec::new() }
}

fn header(mail: &Value, name: &str) -> String {
    let headers = mail["headers"].as_array().unwrap();
    let found: Vec<&str> = headers.iter().filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap()).collect();
    assert_eq!(found.len(), 1, "{name}: {headers:?}");
    found[0].to_owned()
}

fn message_id(mail: &[u8]) -> String {
    header(&parse(mail), "Message-ID")
}

/// That nothing of the letter's text, of its log or of a path stands in clear in it.
fn assert_sealed(mail: &[u8]) {
    let mail = String::from_utf8(mail.to_vec()).unwrap();
    let (before, sealed) = mail.split_once("-----BEGIN PGP MESSAGE-----\r\n\r\n").expect("a sealed part");
    // What is sealed spells short words by chance.
    let (_, behind) = sealed.split_once("-----END PGP MESSAGE-----").expect("its end");
    for word in ["wiki", "/srv", "bersicht", "backup", "20250102", "line 1", "log", "state"] {
        assert!(!before.contains(word) && !behind.contains(word), "{word} in clear:\n{mail}");
    }
}

#[test]
fn a_report_arrives_sealed_and_its_owner_reads_it() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    fs::write(sender.log(), "line 1\nline 2: é\n").unwrap();
    assert_eq!(sender.post(0), sent(1, 0));
    assert_eq!(sender.queued(), Vec::<PathBuf>::new());
    let to = json!(["owner@example.org", "other@example.org"]);
    let about = json!({ "from": "pi@example.net", "to": to, "hello": "pi", "tls": true, "login": false });
    assert_eq!(mailbox.about(), [about]);

    let raw = &mailbox.mails()[0];
    assert_sealed(raw);
    let mail = parse(raw);
    let names: Vec<&str> = mail["headers"].as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
    let expected = ["Message-ID", "Date", "From", "To", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type", "X-Peer"];
    assert!(names.iter().all(|name| expected.contains(name)), "{names:?}");
    for (name, value) in [
        ("From", "pi@example.net"),
        ("To", "owner@example.org, other@example.org"),
        ("Subject", SUBJECT),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
    ] {
        assert_eq!(header(&mail, name), value);
    }
    let id = header(&mail, "Message-ID");
    assert!(id.starts_with("<20") && id.ends_with("@example.net>"), "{id}");
    assert!(header(&mail, "Date").ends_with(" +0000"));

    // RFC 3156 section 4: exactly these two parts.
    assert_eq!(
        (&mail["type"], &mail["parameters"]["protocol"]),
        (&json!("multipart/encrypted"), &json!("application/pgp-encrypted"))
    );
    let parts = mail["parts"].as_array().unwrap();
    let kinds: Vec<&Value> = parts.iter().map(|part| &part["type"]).collect();
    assert_eq!(kinds, [&json!("application/pgp-encrypted"), &json!("application/octet-stream")]);
    assert_eq!(parts[0]["content"].as_str().unwrap().trim_end(), "Version: 1");
    assert_eq!((&parts[1]["file"], &parts[1]["disposition"]), (&json!("encrypted.asc"), &json!("inline")));
    assert!(parts[1]["content"].as_str().unwrap().starts_with("-----BEGIN PGP MESSAGE-----"));

    let inner = sender.open(raw, &key);
    assert_eq!((&inner["type"], &inner["defects"]), (&json!("multipart/mixed"), &json!([])));
    let parts = inner["parts"].as_array().unwrap();
    assert_eq!((parts.len(), &parts[0]["type"], &parts[0]["defects"]), (2, &json!("multipart/alternative"), &json!([])));
    let both = parts[0]["parts"].as_array().unwrap();
    for (part, kind, content) in [(&both[0], "text/plain", TEXT), (&both[1], "text/html", HTML)] {
        assert_eq!((&part["type"], &part["parameters"]["charset"]), (&json!(kind), &json!("utf-8")));
        assert_eq!(part["content"].as_str().unwrap().replace("\r\n", "\n"), content);
    }
    assert_eq!((&parts[1]["type"], &parts[1]["disposition"]), (&json!("text/plain"), &json!("attachment")));
    assert_eq!(parts[1]["file"], "20250102T023000Z.log");
    assert_eq!(parts[1]["content"].as_str().unwrap().replace("\r\n", "\n"), "line 1\nline 2: é\n");
}

#[test]
fn the_headers_are_sealed_too_so_that_a_change_on_the_way_shows() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    assert_eq!(sender.post(0), sent(1, 0));
    let raw = &mailbox.mails()[0];
    let (outer, inner) = (parse(raw), sender.open(raw, &key));
    let mut told = Vec::new();
    for name in ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"] {
        assert_eq!(header(&outer, name), header(&inner, name));
        told.push(format!("{name}: {}", header(&outer, name)));
    }
    told.sort();
    let headers = inner["headers"].as_array().unwrap();
    let was_outside =
        headers.iter().filter(|header| header[0] == "HP-Outer").map(|header| header[1].as_str().unwrap().to_owned());
    let mut was_outside: Vec<String> = was_outside.collect();
    was_outside.sort();
    assert_eq!(was_outside, told);
    let parameters = &inner["parameters"];
    assert_eq!((&parameters["protected-headers"], &parameters["hp"]), (&json!("v1"), &json!("cipher")));
}

#[test]
fn of_a_huge_log_the_end_is_attached() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    let lines: Vec<String> = (0..200_000).map(|number| format!("line {number}: {{\"é\":\"=\"}}\n")).collect();
    let lines = lines.concat();
    fs::write(sender.log(), &lines).unwrap();
    assert_eq!(sender.post(0), sent(1, 0));
    let raw = &mailbox.mails()[0];
    assert!(raw.len() <= 64 << 10 && raw.len() > 62 << 10, "{}", raw.len());
    let inner = sender.open(raw, &key);
    let log = inner["parts"][1]["content"].as_str().unwrap().replace("\r\n", "\n");
    let (told, kept) = log.split_once('\n').unwrap();
    assert!(lines.ends_with(kept) && kept.starts_with("line 1") && kept.len() > 24 << 10, "{}", kept.len());
    let left_out = lines.len() - kept.len();
    assert_eq!(
        told,
        format!("({left_out} bytes before this are left out; the whole log is {} on the appliance)", sender.log().display())
    );
}

#[test]
fn what_a_dead_server_missed_goes_out_with_the_next_run() {
    let (mut mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    fs::write(sender.log(), "line 1\n").unwrap();
    mailbox.end();
    let delivery = sender.post(1);
    let told = format!(
        "connecting to the mail server 127.0.0.1:{}: Connection refused (os error 111)\n\
         hint: look at [report] server and port, and at security: starttls is usual at port 587, tls at 465",
        mailbox.port
    );
    assert_eq!(delivery, Delivery { sent: 0, waiting: 1, problems: vec![told] });
    let queued = sender.queued();
    let waiting = fs::read(&queued[0]).unwrap();
    assert_eq!(fs::metadata(&queued[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(queued[0].parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_sealed(&waiting);

    mailbox.begin();
    assert_eq!(sender.post(2), sent(2, 0));
    assert_eq!(sender.queued(), Vec::<PathBuf>::new());
    let mails = mailbox.mails();
    assert_eq!(message_id(&mails[1]), message_id(&waiting), "the newer one goes first");
    assert_ne!(message_id(&mails[0]), message_id(&waiting));
}

#[test]
fn a_temporary_refusal_keeps_all_and_is_told_once() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    mailbox.refuse(&[("data", "", "451 4.3.0 not now")]);
    for (second, waiting) in [(1, 1), (2, 2)] {
        let told = format!(
            "mailing through 127.0.0.1:{}: the server says 451 4.3.0 not now\n\
             hint: the server may take it later: the mail stays in the queue, and goes out within hours",
            mailbox.port
        );
        assert_eq!(sender.post(second), Delivery { sent: 0, waiting, problems: vec![told] });
    }
    mailbox.refuse(&[]);
    assert_eq!(sender.post(3), sent(3, 0));
}

#[test]
fn a_mail_that_is_always_deferred_does_not_block_the_others() {
    let (mut mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    mailbox.end();
    for second in [1, 2] {
        sender.post(second);
    }
    let first = message_id(&fs::read(&sender.queued()[0]).unwrap());
    mailbox.begin();
    mailbox.refuse(&[("data", first.trim_matches(['<', '>']), "451 4.7.1 not this one")]);
    let delivery = sender.post(3);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (2, 1, 1));
    mailbox.refuse(&[]);
    assert_eq!(sender.post(4), sent(2, 0));
}

#[test]
fn a_mail_that_is_refused_for_good_is_dropped_after_the_fifth_time() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    mailbox.refuse(&[("data", "", "451 not now")]);
    sender.post(0);
    let first = message_id(&fs::read(&sender.queued()[0]).unwrap());
    mailbox.refuse(&[("data", first.trim_matches(['<', '>']), "550 5.7.1 not this one")]);
    for second in 1..=5 {
        let delivery = sender.post(second);
        let dropped = second == 5;
        assert_eq!((delivery.sent, delivery.waiting), (1, usize::from(!dropped)), "{second}");
        assert_eq!(delivery.problems.iter().any(|problem| problem.contains("refused it too often")), dropped, "{delivery:?}");
    }
    assert_eq!(sender.post(6), sent(1, 0));
}

#[test]
fn one_refused_mail_stays_and_does_not_block_the_others() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    mailbox.refuse(&[("data", "", "451 not now")]);
    sender.post(1);
    let first = message_id(&fs::read(&sender.queued()[0]).unwrap());
    mailbox.refuse(&[("data", first.trim_matches(['<', '>']), "550 5.7.1 not this one")]);
    let delivery = sender.post(2);
    assert_eq!((delivery.sent, delivery.waiting), (1, 1));
    assert!(delivery.problems[0].contains("the server says 550 5.7.1 not this one\nhint: "), "{delivery:?}");
    assert_ne!(message_id(&mailbox.mails()[0]), first);
    mailbox.refuse(&[]);
    assert_eq!(sender.post(3), sent(2, 0));
    assert_eq!(message_id(&mailbox.mails()[2]), first);
}

#[test]
fn one_refused_address_does_not_keep_the_mail_from_the_other() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    mailbox.refuse(&[("rcpt", "other@", "550 5.1.1 nobody here")]);
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting), (1, 0));
    let told =
        format!("mailing through 127.0.0.1:{} to other@example.org: the server says 550 5.1.1 nobody here\n", mailbox.port);
    assert!(delivery.problems.len() == 1 && delivery.problems[0].starts_with(&told), "{delivery:?}");
    assert_eq!(mailbox.about()[0]["to"], json!(["owner@example.org"]));
    mailbox.refuse(&[("rcpt", "", "550 nobody here")]);
    let delivery = sender.post(2);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (0, 1, 1));
}

#[test]
fn without_starttls_nothing_is_sent() {
    let (mailbox, key) = (Mailbox::start(&["--clear"]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting), (0, 1));
    let told = "it offers no STARTTLS, and nothing is sent without\n";
    assert!(delivery.problems.len() == 1 && delivery.problems[0].contains(told), "{delivery:?}");
    let log = mailbox.log();
    assert!(log.contains("EHLO pi") && !log.contains("MAIL FROM") && !log.contains("AUTH PLAIN"), "{log}");
    // The same server is good enough where the owner says so.
    let sender = Sender::with(&mailbox, &[&key], "security = \"none\"\n");
    assert_eq!(sender.post(1), sent(1, 0));
    assert_eq!(mailbox.about()[0]["tls"], false);
}

#[test]
fn what_is_said_before_the_handshake_counts_for_nothing_after_it() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let path = |name: &str| folder.path().join(name);
    let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key_file(path("server.key"), SslFiletype::PEM).unwrap();
    acceptor.set_certificate_file(path("server.pem"), SslFiletype::PEM).unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The server, and before it somebody who says yes to all that will be asked, and lets nothing of it through.
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            connection.write_all(b"220 mail\r\n").unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            assert!(lines.next().unwrap().unwrap().starts_with("EHLO"));
            connection.write_all(b"250-mail\r\n250 STARTTLS\r\n").unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), "STARTTLS");
            let yes = ["250 mail\r\n"; 5].concat();
            connection.write_all(format!("220 go ahead\r\n{yes}354 go on\r\n250 taken\r\n").as_bytes()).unwrap();
            if let Ok(mut sealed) = acceptor.accept(connection) {
                // It may hang up at any time.
                let _ = io::copy(&mut sealed, &mut io::sink());
            }
        }
    });
    let ca = fs::read_to_string(path("ca.pem")).unwrap();
    let sender = Sender::through(port, &[&GnuPg::new()], &format!("ca = '''{ca}'''\n"));
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (0, 1, 1), "{delivery:?}");
    let told = format!("connecting to the mail server 127.0.0.1:{port}: received corrupt message");
    assert!(delivery.problems[0].starts_with(&told), "{delivery:?}");
}

#[test]
fn a_server_that_cannot_prove_itself_gets_nothing() {
    let (mailbox, other, key) = (Mailbox::start(&[]), Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::with(&mailbox, &[&key], &format!("ca = '''{}'''\n", other.authority()));
    let delivery = sender.post(1);
    let told = format!(
        "connecting to the mail server 127.0.0.1:{}: invalid peer certificate: UnknownIssuer\n\
         hint: if the server's certificate is of an authority of your own, put that authority's into [report] ca",
        mailbox.port
    );
    assert_eq!(delivery, Delivery { sent: 0, waiting: 1, problems: vec![told] });
    assert!(!mailbox.log().contains("MAIL FROM"));
}

#[test]
fn a_login_is_made_and_a_wrong_password_told_but_not_shown() {
    let options = ["--user", "pi", "--password", "correct-horse"];
    let (starttls, tls, key) = (Mailbox::start(&options), Mailbox::start(&[&options[..], &["--tls"]].concat()), GnuPg::new());
    for (mailbox, security) in [(&starttls, "starttls"), (&tls, "tls")] {
        let settings = tempfile::tempdir().unwrap();
        let file = settings.path().join("smtp");
        let ca = mailbox.authority();
        let lines = format!("security = \"{security}\"\ncredentials = \"{}\"\nca = '''{ca}'''\n", file.display());
        let sender = Sender::with(mailbox, &[&key], &lines);
        let write = |password: &str, mode| {
            fs::write(&file, format!("user = \"pi\"\npassword = \"{password}\"\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        };

        write("battery-staple", 0o600);
        let run = sender.test();
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert_eq!(
            run.stderr,
            format!(
                "error: trying the report: 0 mails sent, 1 waiting: logging in to the mail server 127.0.0.1:{}: the server \
                 says 535 5.7.8\n\
                 hint: look at user and password in the credentials file; some providers want a password made for this use \
                 alone\n",
                mailbox.port
            )
        );

        write("correct-horse", 0o644);
        let run = sender.test();
        assert!(run.code == Some(1) && run.stderr.contains(&format!("\nhint: chmod 600 {}\n", file.display())), "{run:?}");

        write("correct-horse", 0o600);
        let run = sender.test();
        let said = format!("3 mails sent to owner@example.org, other@example.org through 127.0.0.1:{}\n", mailbox.port);
        assert_eq!((run.code, run.stdout, run.stderr), (Some(0), said, String::new()));
        assert_eq!((&mailbox.about()[0]["login"], &mailbox.about()[0]["tls"]), (&json!(true), &json!(true)));
        let mail = parse(&mailbox.mails()[2]);
        assert_eq!(header(&mail, "Subject"), "[vaultberry] pi: test");
        let inner = sender.open(&mailbox.mails()[2], &key);
        assert_eq!(inner["parts"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn when_no_certificate_is_good_a_notice_without_details_goes() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::expired());
    let sender = Sender::new(&mailbox, &[&key]);
    fs::write(sender.log(), "line 1\n").unwrap();
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (1, 0, 1));
    let mail = parse(&mailbox.mails()[0]);
    assert_eq!((header(&mail, "Subject"), &mail["type"]), (SUBJECT.to_owned(), &json!("text/plain")));
    let text = mail["content"].as_str().unwrap().replace("\r\n", "\n");
    let start = format!(
        "The report of this run could not be sealed, and nothing of it is sent in clear:\n\n\
         - the certificate {}: it isn't valid now: ",
        key.fingerprint()
    );
    assert!(text.starts_with(&start) && text.contains("\nhint: extend the certificate") && text.contains("journal"), "{text}");
    for word in ["wiki", "/srv", "bersicht", "20250102", "line 1", ".log", "web"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    let run = sender.test();
    assert!(run.code == Some(1) && run.stderr.contains("1 mail sent, 0 waiting: the report couldn't be sealed"), "{run:?}");
}

#[test]
fn for_one_of_two_it_is_sealed_with_the_other_named_on_top() {
    let (mailbox, old, good) = (Mailbox::start(&[]), GnuPg::expired(), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&old, &good]);
    fs::write(sender.log(), "line 1\n").unwrap();
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting, delivery.problems.len()), (1, 0, 1));
    let raw = &mailbox.mails()[0];
    assert_sealed(raw);
    let inner = sender.open(raw, &good);
    let text = inner["parts"][0]["parts"][0]["content"].as_str().unwrap().replace("\r\n", "\n");
    let start =
        format!("Something is wrong with this report itself:\n- the certificate {}: it isn't valid now: ", old.fingerprint());
    assert!(text.starts_with(&start) && text.ends_with(&format!("\n\n{TEXT}")), "{text}");
}

#[test]
fn a_mail_that_cannot_be_queued_is_sent_at_once() {
    let (mailbox, key) = (Mailbox::start(&[]), GnuPg::new());
    let sender = Sender::new(&mailbox, &[&key]);
    // No folder can be made below a file, not even by root.
    fs::write(sender.folder.path().join("state"), "").unwrap();
    let delivery = sender.post(1);
    assert_eq!((delivery.sent, delivery.waiting), (1, 0));
    assert!(delivery.problems[0].starts_with("making the folder "), "{delivery:?}");
    assert_sealed(&mailbox.mails()[0]);
}
