//! An S3 store: moto's server on loopback, as `tools/setup` installs it, and a way to it that can be disturbed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::cached;
use super::guest::free_port;
use super::server::Server;

/// The bucket of the tests.
pub const BUCKET: &str = "backups";

/// A running store. Dropped, it is ended.
pub struct Store {
    moto: Server,
    _folder: TempDir,
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

    /// Starts one whose bucket keeps what comes from being deleted, for so many days.
    pub fn start_locking(days: u32) -> Self {
        let store = Self::launch(free_port(), &[]);
        let made = request_with(store.port, "PUT", &format!("/{BUCKET}"), b"", "x-amz-bucket-object-lock-enabled: true\r\n");
        assert_eq!(made.status, 200);
        let rule = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
             <Mode>COMPLIANCE</Mode><Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        assert_eq!(request(store.port, "PUT", &format!("/{BUCKET}?object-lock"), rule.as_bytes()).status, 200);
        store
    }

    /// Starts one with an empty bucket, whose clock is so many seconds ahead.
    pub fn start_ahead(seconds: i32) -> Self {
        let store = Self::launch_with(free_port(), &[], &[("CLOCK_AHEAD", seconds.to_string())]);
        store.put("", "");
        store
    }

    /// Begins an upload in parts, as somebody else.
    pub fn begin_upload(&self, key: &str) {
        assert_eq!(request(self.port, "POST", &format!("/{BUCKET}/{key}?uploads"), b"").status, 200);
    }

    /// Starts one that speaks TLS with this certificate, and has no bucket.
    pub fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::launch(free_port(), &["--ssl-cert", certificate.to_str().unwrap(), "--ssl-key", key.to_str().unwrap()])
    }

    /// Starts one without a bucket that asks from a certain request on who may do what.
    pub fn start_guarded(free: u32) -> Self {
        Self::launch_with(free_port(), &[], &[("INITIAL_NO_AUTH_ACTION_COUNT", free.to_string())])
    }

    /// Does what `vaultberry offsite policy` printed, and writes the access key that comes of it to `credentials`.
    pub fn apply(&self, policy: &str, credentials: &Path) {
        let mut command = Command::new(python());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/policy.py")).arg(self.port.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(policy.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(credentials, output.stdout).unwrap();
    }

    fn launch(port: u16, options: &[&str]) -> Self {
        Self::launch_with(port, options, &[])
    }

    fn launch_with(port: u16, options: &[&str], environment: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(python());
        command.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/s3_server.py"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).args(options);
        // It asks nobody for the data of a cloud's machine.
        command.env("AWS_EC2_METADATA_DISABLED", "true").current_dir(folder.path());
        let moto = Server::start(command, &folder.path().join("log"), port);
        Self { moto, _folder: folder, port }
    }

    /// Ends it, as a store that is down.
    pub fn end(&mut self) {
        self.moto.end();
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

/// The Python that has the server's modules.
fn python() -> PathBuf {
    cached("moto-5.2.5", "test").join("bin/python")
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

fn request(port: u16, method: &str, path: &str, body: &[u8]) -> Answer {
    request_with(port, method, path, body, "")
}

/// The same with these header lines more.
fn request_with(port: u16, method: &str, path: &str, body: &[u8], more: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    // moto answers only those who say who they are; whether it is true it doesn't ask
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {more}x-amz-checksum-mode: ENABLED\r\nAuthorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}
