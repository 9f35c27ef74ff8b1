//! Pings to a watcher on the loopback.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{Watcher, begin, end};
use crate::config::{Config, EXAMPLE, Ping, parse};
use crate::outcome::Outcome;
use crate::stop::Stop;

/// A watcher that answers with these statuses, one after the other; 0 is silence. Gives its URL, and what it was told.
fn watcher(statuses: &'static [u16]) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/6d1b", listener.local_addr().unwrap().port());
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for status in statuses {
            let (connection, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(connection);
            let (mut line, mut length) = (String::new(), 0);
            lines.read_line(&mut line).unwrap();
            let request = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            while line != "\r\n" {
                line.clear();
                lines.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            lines.read_exact(&mut body).unwrap();
            tell.send(format!("{request} {}", String::from_utf8(body).unwrap())).unwrap();
            if *status == 0 {
                silent.push(lines);
                continue;
            }
            let answer = format!("HTTP/1.1 {status} word\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            lines.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        // Hanging up would be an answer, too.
        if !silent.is_empty() {
            thread::sleep(Duration::from_secs(30));
        }
    });
    (url, told)
}

fn credentials(folder: &Path, url: &str) -> PathBuf {
    let file = folder.join("ping");
    fs::write(&file, format!("url = \"{url}\"\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn config(file: PathBuf, partial: Outcome) -> Config {
    Config { ping: Some(Ping { credentials: file, partial }), ..parse(EXAMPLE).unwrap() }
}

#[test]
fn the_watcher_learns_beginning_and_outcome_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (url, told) = watcher(&[200, 200, 200, 200, 200]);
    let file = credentials(folder.path(), &format!("{url}/"));
    let stop = Stop::default();
    let config = |partial| config(file.clone(), partial);
    begin(&config(Outcome::Failed), &stop).unwrap();
    end(&config(Outcome::Failed), Outcome::Complete, &stop).unwrap();
    end(&config(Outcome::Failed), Outcome::Skipped, &stop).unwrap();
    end(&config(Outcome::Failed), Outcome::Partial, &stop).unwrap();
    end(&config(Outcome::Complete), Outcome::Partial, &stop).unwrap();
    end(&config(Outcome::Complete), Outcome::Failed, &stop).unwrap();
    let expected = [
        "POST /6d1b/start started",
        "POST /6d1b complete",
        "POST /6d1b/fail partial",
        "POST /6d1b partial",
        "POST /6d1b/fail failed",
    ];
    assert_eq!(told.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_failing_watcher_is_tried_three_times_and_its_url_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (url, told) = watcher(&[503, 500, 404]);
    let file = credentials(folder.path(), &url);
    let quick = |file: &Path| {
        Watcher { credentials: file, answer: Duration::from_millis(300), pause: Duration::ZERO }
            .tell("", "complete", &Stop::default())
            .map_err(|error| format!("{error:#}"))
    };
    let hint = format!("hint: look whether the url in {} is right, and whether its server is up", file.display());
    assert_eq!(quick(&file), Err(format!("telling the watcher: it says 404\n{hint}")));
    assert_eq!(told.iter().count(), 3);
    // Nobody listens there any more.
    let error = quick(&file).unwrap_err();
    assert!(error.starts_with("telling the watcher: ") && error.ends_with(&hint) && !error.contains("6d1b"), "{error}");
    let (url, told) = watcher(&[500, 200]);
    assert_eq!(quick(&credentials(folder.path(), &url)), Ok(()));
    assert_eq!(told.iter().count(), 2);
}

#[test]
fn a_slow_watcher_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (url, told) = watcher(&[0, 0, 0]);
    let file = credentials(folder.path(), &url);
    let begun = Instant::now();
    let slow = Watcher { credentials: &file, answer: Duration::from_millis(200), pause: Duration::ZERO };
    let error = slow.tell("", "complete", &Stop::default()).unwrap_err().to_string();
    assert!(error.starts_with("telling the watcher: no answer in time\n"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(told);
}

#[test]
fn an_address_that_is_none_is_refused_without_showing_it() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["ftp://example.org/6d1b", "https://", "https://example.org/6d1b?create=1", "6d1b", "https://me:6d1b@example.org"]
    {
        let file = credentials(folder.path(), url);
        let error = begin(&config(file.clone(), Outcome::Failed), &Stop::default()).unwrap_err().to_string();
        let told = format!("telling the watcher: the url in {} isn't one that /start can be put behind\nhint: ", file.display());
        assert!(error.starts_with(&told) && !error.contains("6d1b"), "{error}");
    }
}
