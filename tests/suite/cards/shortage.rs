//! Builds that run short of something half-way, a mirror or room on a disk: they say so, and leave nothing half-made.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::spawn;

use nix::unistd::Uid;
use vaultberry::config::EXAMPLE;

use crate::support::Turn;
use crate::support::appliance::names;
use crate::support::card::{image, scratch};

/// Bytes of packages that the proxy lets through.
const LET_THROUGH: u64 = 8 << 20;

#[test]
fn a_mirror_that_breaks_off_half_way_leaves_no_cache_behind_and_a_package_that_is_not_there_is_named() {
    let folder = scratch();
    let here = folder.path();
    let passed = Arc::new(AtomicU64::new(0));
    let proxy = format!("\nproxy = \"http://127.0.0.1:{}\"\n", breaking_proxy(&passed));
    let said = failed(here, &EXAMPLE.replacen("[image]\n", &format!("[image]{proxy}"), 1), &["--cache", "cache", "--only-base"]);
    assert!(passed.load(Ordering::SeqCst) >= LET_THROUGH, "it broke off before the packages came: {said}");
    assert!(said.contains("fetching from the default mirror, suite trixie, failed"), "{said}");
    assert!(said.contains("hint: is the mirror reachable") && !said.contains("set -e"), "{said}");
    let cache = names(&here.join("cache"));
    assert!(cache.iter().all(|name| name.contains(".lock")), "{cache:?}");

    let config = EXAMPLE.replace("\n# packages = []\n", "\npackages = [\"no-such-package\"]\n");
    let said = failed(here, &config, &["--cache", "cache", "--only-base"]);
    assert!(said.contains("Unable to locate package no-such-package") && said.contains("do all packages exist there?"), "{said}");
    let cache = names(&here.join("cache"));
    assert!(!cache.iter().any(|name| name.contains(".part") || name.starts_with("base")), "{cache:?}");
}

fn failed(here: &Path, config: &str, arguments: &[&str]) -> String {
    fs::write(here.join("appliance.toml"), config).unwrap();
    let output = image(here, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a proxy for plain HTTP (RFC 9112, section 3.2.2) that breaks off amid a package and is gone then. Gives its port.
fn breaking_proxy(passed: &Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::clone(passed);
    spawn(move || {
        for stream in listener.incoming() {
            if passed.load(Ordering::SeqCst) >= LET_THROUGH {
                return;
            }
            let passed = Arc::clone(&passed);
            // Whoever breaks off is no failure of the proxy.
            spawn(move || carry(&stream.unwrap(), &passed));
        }
    });
    port
}

/// Carries one request and its answer, and ends the connection.
fn carry(stream: &TcpStream, passed: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let uri = head.split(' ').nth(1)?;
    let host = uri.strip_prefix("http://")?.split('/').next()?;
    // Behind a proxy of its own, this machine reaches the mirror through that alone.
    let next = std::env::var("http_proxy").unwrap_or_else(|_| format!("http://{host}"));
    let next = next.strip_prefix("http://")?.trim_end_matches('/');
    let next = if next.contains(':') { next.to_owned() } else { format!("{next}:80") };
    let mut mirror = TcpStream::connect(next).ok()?;
    mirror.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).ok()?;
    let is_package = uri.rsplit('.').next() == Some("deb");
    let mut buffer = vec![0; 64 << 10];
    loop {
        if is_package && passed.load(Ordering::SeqCst) >= LET_THROUGH {
            return None;
        }
        let length = mirror.read(&mut buffer).ok().filter(|length| *length > 0)?;
        if is_package {
            passed.fetch_add(length as u64, Ordering::SeqCst);
        }
        (&*stream).write_all(&buffer[..length]).ok()?;
    }
}

/// A disk of its own for the output, or the cache, which another program fills up while the build is at work.
#[test]
fn a_disk_that_fills_up_half_way_leaves_nothing_half_made() {
    let _turn = Turn::take();
    let folder = scratch();
    let here = folder.path();
    fs::write(here.join("appliance.toml"), EXAMPLE).unwrap();
    // Whoever comes first fills the cache.
    assert!(image(here, &["--only-base"]).output().unwrap().status.success());

    let (said, left) = filled(here, "out", ("out/.build/*.img", 0), &[]);
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(left, ["filler"], "{said}");
    assert!(!here.join("secrets/stick").exists(), "keys were made for no image");

    let (said, left) = filled(here, "cache", ("cache/packages-*.lock", 1), &["--cache", "cache", "--only-base"]);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(left.iter().all(|name| name == "filler" || name.contains(".lock")), "{left:?} {said}");

    // The same folders serve the next build.
    fs::remove_dir_all(here.join("cache")).unwrap();
    let output = image(here, &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A build that fails since the disk of `small` is filled up, so many seconds after there is a file of this pattern: what it said,
/// and the names that it left there.
fn filled(here: &Path, small: &str, (pattern, seconds): (&str, u8), arguments: &[&str]) -> (String, Vec<String>) {
    let build = image(here, arguments);
    fs::create_dir_all(here.join(small)).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2600m tmpfs {small} || exit 9
        \"$@\" & build=$!
        while kill -0 $build && ! ls {pattern} >/dev/null 2>&1; do sleep 0.02; done
        sleep {seconds}
        cat /dev/zero >{small}/filler 2>/dev/null
        wait $build; status=$?
        ls -A {small} >left
        exit $status"
    );
    let mut shell = Command::new("unshare");
    shell.arg("--mount");
    if !Uid::current().is_root() {
        shell.args(["--user", "--map-root-user", "--map-auto"]);
    }
    shell.args(["sh", "-c", &script, "sh"]).arg(build.get_program()).args(build.get_args()).current_dir(here);
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let left = fs::read_to_string(here.join("left")).unwrap().lines().map(str::to_owned).collect();
    (String::from_utf8_lossy(&output.stderr).into_owned(), left)
}
