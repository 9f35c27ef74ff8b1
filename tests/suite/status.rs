//! What a run leaves for those who watch: history, status, metrics, pings.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use serde_json::Value;

use crate::support::appliance::Run;
use crate::support::certify;

/// An appliance with one source that nobody answers for.
fn config(folder: &Path, watcher: u16) -> String {
    let at = folder.display();
    let credentials = folder.join("ping");
    fs::write(&credentials, format!("url = \"http://127.0.0.1:{watcher}/6d1b\"\n")).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    for made in ["backup", "state", "metrics"] {
        fs::create_dir(folder.join(made)).unwrap();
    }
    format!(
        "[backup]\nfolder = \"{at}/backup\"\nstate = \"{at}/state\"\nlock = \"{at}/lock\"\n\
         [ping]\ncredentials = \"{at}/ping\"\n[metrics]\nfolder = \"{at}/metrics\"\n\
         [[source]]\nname = \"demo\"\nhost = \"127.0.0.1\"\nport = 1\nretries = 0\nuser = \"backup\"\n\
         host_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]\npaths = [\"/srv\"]\n"
    )
}

fn vaultberry(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vaultberry")).args(arguments).arg("--config").arg(config).output().unwrap()
}

/// Takes a request, and gives its first line.
fn answer(mut connection: impl Read + Write) -> String {
    let (mut request, mut length) = (vec![0; 4096], 0);
    // Whoever hangs up on what hasn't been read yet resets the connection. The body is one word.
    let has_body =
        |request: &[u8]| request.windows(4).position(|end| end == b"\r\n\r\n").is_some_and(|end| end + 4 < request.len());
    while !has_body(&request[..length]) {
        let read = connection.read(&mut request[length..]).unwrap();
        assert!(read > 0, "the request ends early");
        length += read;
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
}

/// What the parser of Prometheus' own client finds: a line for each kind of metric, with its type and its unit.
fn parsed(metrics: &Path) -> Vec<String> {
    let program = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
                   for family in parse(open(sys.argv[1]).read()): print(family.name, family.type, len(family.samples), family.documentation)";
    let output = Command::new("/usr/bin/python3").args(["-c", program]).arg(metrics).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

#[test]
fn a_watcher_behind_tls_is_told_only_when_it_is_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let path = |name: &str| folder.path().join(name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    fs::write(path("appliance.toml"), config(folder.path(), port)).unwrap();
    let credentials = fs::read_to_string(path("ping")).unwrap().replace("http:", "https:");
    fs::write(path("ping"), credentials).unwrap();
    let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key_file(path("server.key"), SslFiletype::PEM).unwrap();
    acceptor.set_certificate_file(path("server.pem"), SslFiletype::PEM).unwrap();
    let acceptor = acceptor.build();
    // Whom it isn't to be believed, a ping ends before a word of it is sent.
    let (told, tells) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            told.send(acceptor.accept(connection.unwrap()).ok().map(answer)).unwrap();
        }
    });
    let run = |trusted: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        command.args(["backup", "run", "--config"]).arg(path("appliance.toml")).env("SSL_CERT_FILE", trusted);
        Run::of(command.output().unwrap()).stdout
    };
    let log = run(&path("ca.pem"));
    assert!(!log.contains("telling the watcher"), "{log}");
    let lines: Vec<_> = tells.try_iter().collect();
    assert_eq!(lines, [Some("POST /6d1b/start HTTP/1.1".to_owned()), Some("POST /6d1b/fail HTTP/1.1".to_owned())]);
    certify(&{
        let other = path("other");
        fs::create_dir(&other).unwrap();
        other
    });
    let log = run(&path("other/ca.pem"));
    assert!(log.contains("telling the watcher: ") && !log.contains("6d1b"), "{log}");
    assert!(tells.try_iter().all(|line| line.is_none()));
}

#[test]
fn a_failed_run_is_told_to_everybody_who_watches() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = folder.path().join("appliance.toml");
    fs::write(&file, config(folder.path(), listener.local_addr().unwrap().port())).unwrap();
    let watcher = thread::spawn(move || listener.incoming().take(2).map(|one| answer(one.unwrap())).collect::<Vec<_>>());
    let before = vaultberry(&["status"], &file);
    assert_eq!(before.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&before.stdout).starts_with("vaultberry: no run yet\n"), "{before:?}");
    assert_eq!(vaultberry(&["backup", "run"], &file).status.code(), Some(1));
    assert_eq!(watcher.join().unwrap(), ["POST /6d1b/start HTTP/1.1", "POST /6d1b/fail HTTP/1.1"]);

    let status = vaultberry(&["status", "--json"], &file);
    let facts: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert_eq!((&facts["last"]["outcome"], &facts["last"]["notes"]), (&"failed".into(), &Value::Array(Vec::new())));
    assert_eq!((&facts["history"][0]["outcome"], &facts["running"]), (&"failed".into(), &Value::Null));
    let metrics = fs::read_to_string(folder.path().join("metrics/vaultberry.prom")).unwrap();
    assert!(metrics.contains("\nvaultberry_source_outcome{source=\"demo\",outcome=\"failed\"} 1\n"), "{metrics}");

    let parsed = parsed(&folder.path().join("metrics/vaultberry.prom"));
    let known = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md")).unwrap();
    for family in &parsed {
        let mut words = family.splitn(4, ' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        assert!(known.contains(&format!("`{name}`")) && kind != "unknown" && words.next() != Some("0"), "{family}");
        assert!(words.next().is_some_and(|told| !told.is_empty()), "{family}");
    }
    assert!(parsed.len() > 5, "{parsed:?}");

    let page = folder.path().join("page.html");
    assert_eq!(vaultberry(&["status", "--html", page.to_str().unwrap()], &file).status.code(), Some(1));
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&page).unwrap().contains(">vaultberry: failed, 0 of 1 sources complete<"));
}

#[test]
fn people_are_shown_no_secrets_and_programs_all() {
    let folder = tempfile::tempdir().unwrap();
    let (file, page) = (folder.path().join("appliance.toml"), folder.path().join("page.html"));
    // The source is named as the watcher's file has a secret.
    fs::write(&file, config(folder.path(), 1).replace("name = \"demo\"", "name = \"correct-horse\"")).unwrap();
    fs::write(folder.path().join("ping"), "url = \"http://127.0.0.1:1/6d1b\"\nkey = \"correct-horse\"\n").unwrap();
    let run = vaultberry(&["backup", "run"], &file).stdout;
    let status = vaultberry(&["status"], &file).stdout;
    vaultberry(&["status", "--html", page.to_str().unwrap()], &file);
    for shown in [run, status, fs::read(&page).unwrap()] {
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("[masked]") && !shown.contains("correct-horse"), "{shown}");
    }
    let facts: Value = serde_json::from_slice(&vaultberry(&["status", "--json"], &file).stdout).unwrap();
    assert_eq!(facts["sources"][0]["name"], "correct-horse");
}

#[test]
fn a_run_that_was_killed_stands_in_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appliance.toml");
    let text = config(folder.path(), 1);
    fs::write(&file, text.replace(&format!("[ping]\ncredentials = \"{}/ping\"\n", folder.path().display()), "")).unwrap();
    assert_eq!(vaultberry(&["backup", "run"], &file).status.code(), Some(1));
    let last = folder.path().join("state/last-run.json");
    let mut word: Value = serde_json::from_slice(&fs::read(&last).unwrap()).unwrap();
    word["ended"] = Value::Null;
    word["started"] = "2026-11-20T02:30:00Z".into();
    fs::write(&last, word.to_string()).unwrap();
    assert_eq!(vaultberry(&["backup", "run"], &file).status.code(), Some(1));
    let history = fs::read_to_string(folder.path().join("state/history.jsonl")).unwrap();
    let nights: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(nights.len(), 3);
    assert_eq!((&nights[1]["run"], &nights[1]["outcome"]), (&"20261120T023000Z".into(), &"failed".into()));
    assert!(nights[1]["ended"].is_null() && !nights[2]["ended"].is_null());
}
