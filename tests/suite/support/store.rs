//! An S3 store: moto's server on loopback, as `tools/setup` installs it, and a way to it that can be disturbed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::guest::free_port;

/// The bucket of the tests.
pub const BUCKET: &str = "backups";

/// A running store. Dropped, it is ended.
pub struct Store {
    moto: Child,
    folder: TempDir,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Store {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        Self::start_at(free_port())
    }

    /// The same at this port, as a store that comes back.
    pub fn start_at(port: u16) -> Self {
        let store = Self::launch(port, &[]);
        store.put("", "");
        store
    }

    /// Starts one that speaks TLS with this certificate, and has no bucket.
    pub fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::launch(free_port(), &["--ssl-cert", certificate.to_str().unwrap(), "--ssl-key", key.to_str().unwrap()])
    }

    fn launch(port: u16, options: &[&str]) -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
        let python = cache.join("vaultberry/moto-5.2.5/bin/python");
        assert!(python.exists(), "{} is not there: run `tools/setup test`", python.display());
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/s3_server.py"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).args(options);
        // It asks nobody for the data of a cloud's machine.
        command.env("AWS_EC2_METADATA_DISABLED", "true").current_dir(folder.path());
        let moto = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut store = Self { moto, folder, port };
        let deadline = Instant::now() + Duration::from_mins(1);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || fs::read_to_string(store.folder.path().join("log")).unwrap();
            assert!(store.moto.try_wait().unwrap().is_none(), "moto ended: {}", log());
            assert!(Instant::now() < deadline, "moto doesn't answer: {}", log());
            sleep(Duration::from_millis(50));
        }
        store
    }

    /// Ends it, as a store that is down.
    pub fn end(&mut self) {
        let _ = self.moto.kill();
        self.moto.wait().unwrap();
    }

    /// The object at `key`, or none.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        get(self.port, key)
    }

    /// The headers of the object at `key`, in lower case.
    pub fn head(&self, key: &str) -> String {
        request(self.port, "HEAD", &format!("/{BUCKET}/{key}"), b"").head.to_lowercase()
    }

    /// Puts an object; without a key, makes the bucket.
    pub fn put(&self, key: &str, content: impl AsRef<[u8]>) {
        put(self.port, key, content);
    }

    /// All keys, of up to a thousand objects.
    pub fn keys(&self) -> Vec<String> {
        self.tags("list-type=2", "Key")
    }

    /// The keys of uploads that were begun and neither completed nor thrown away.
    pub fn uploads(&self) -> Vec<String> {
        self.tags("uploads", "Key")
    }

    fn tags(&self, query: &str, tag: &str) -> Vec<String> {
        let answer = request(self.port, "GET", &format!("/{BUCKET}?{query}"), b"");
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        text.split(&format!("<{tag}>")).skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

/// The object at `key` in the store at `port`, or none.
pub fn get(port: u16, key: &str) -> Option<Vec<u8>> {
    let answer = request(port, "GET", &format!("/{BUCKET}/{key}"), b"");
    (answer.status == 200).then_some(answer.body)
}

/// Puts an object into the store at `port`.
pub fn put(port: u16, key: &str, content: impl AsRef<[u8]>) {
    let answer = request(port, "PUT", format!("/{BUCKET}/{key}").trim_end_matches('/'), content.as_ref());
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// Removes an object from the store at `port`.
pub fn delete(port: u16, key: &str) {
    assert_eq!(request(port, "DELETE", &format!("/{BUCKET}/{key}"), b"").status, 204);
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

fn request(port: u16, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    // moto answers only those who say who they are; whether it is true it doesn't ask
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         x-amz-checksum-mode: ENABLED\r\nAuthorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

/// What becomes of a request on its way.
pub enum Fate {
    /// It goes on to the store.
    Pass,
    /// The store isn't asked; this status is the answer.
    Answer(u16),
    /// It goes on, and the answer lacks the headers that begin so, in lower case.
    Strip(&'static str),
}

/// The way to a store, through which each request's first line is looked at. Dropped, it is closed.
pub struct Way {
    /// Its port on 127.0.0.1.
    pub port: u16,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Way {
    /// One to the store at `port`. `fate` sees lines like `PUT /backups/key HTTP/1.1`.
    pub fn to(port: u16, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let closed = Arc::new(AtomicBool::new(false));
        let (fate, seen) = (Arc::new(fate), Arc::clone(&closed));
        let thread = spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                let fate = Arc::clone(&fate);
                // A client that breaks off is no failure of the way.
                spawn(move || carry(&stream.unwrap(), port, &*fate));
            }
        });
        Self { port: own, closed, thread: Some(thread) }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

/// Carries one request and its answer, and ends the connection.
fn carry(stream: &TcpStream, port: u16, fate: &dyn Fn(&str) -> Fate) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = head.lines().next()?;
    let strip = match fate(line) {
        Fate::Pass => None,
        Fate::Strip(start) => Some(start),
        Fate::Answer(status) => {
            let answer = format!("HTTP/1.1 {status} Injected\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return (&*stream).write_all(answer.as_bytes()).ok();
        }
    };
    let mut store = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    store.write_all(head.as_bytes()).and_then(|()| store.write_all(&body)).ok()?;
    let mut answer = Vec::new();
    store.read_to_end(&mut answer).ok()?;
    if let Some(start) = strip {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8(answer[..end].to_vec()).ok()?;
        let kept: Vec<&str> = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with(start)).collect();
        answer = [kept.join("\r\n").as_bytes(), &answer[end..]].concat();
    }
    (&*stream).write_all(&answer).ok()
}
