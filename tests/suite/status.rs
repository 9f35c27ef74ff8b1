//! What a run leaves for those who watch: history, status, metrics, pings.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

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

#[test]
fn a_failed_run_is_told_to_everybody_who_watches() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = folder.path().join("appliance.toml");
    fs::write(&file, config(folder.path(), listener.local_addr().unwrap().port())).unwrap();
    let watcher = thread::spawn(move || {
        let told = listener.incoming().take(2).map(|connection| {
            let mut connection = connection.unwrap();
            let mut request = vec![0; 4096];
            let length = connection.read(&mut request).unwrap();
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
        });
        told.collect::<Vec<_>>()
    });
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

    let page = folder.path().join("page.html");
    assert_eq!(vaultberry(&["status", "--html", page.to_str().unwrap()], &file).status.code(), Some(1));
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&page).unwrap().contains(">vaultberry: failed, 0 of 1 sources complete<"));
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
