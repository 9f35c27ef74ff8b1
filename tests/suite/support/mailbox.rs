//! A mail server: a real one on loopback, with a certificate of an authority of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::certify;
use super::gnupg::GnuPg;

/// Debian's Python: aiosmtpd is one of its packages.
const PYTHON: &str = "/usr/bin/python3";

/// A running mail server. Dropped, it is ended.
pub struct Mailbox {
    folder: TempDir,
    server: Child,
    answers: BufReader<ChildStdout>,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Mailbox {
    /// Starts one. `options` are those of `mailbox.py`; without any it wants STARTTLS and no login.
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mails")).unwrap();
        certify(folder.path());
        let mut server = Command::new(PYTHON)
            // It finds a login without TLS unwise, not knowing that TLS is there from the first byte.
            .args(["-W", "ignore", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/mailbox.py")])
            .arg(folder.path())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(server.stdout.take().unwrap());
        let mut mailbox = Self { folder, server, answers, port: 0 };
        mailbox.begin();
        mailbox
    }

    /// Listens, again after an [`end`](Self::end), at the same port.
    pub fn begin(&mut self) {
        self.order("begin");
    }

    /// Listens no more; its port then refuses.
    pub fn end(&mut self) {
        self.order("end");
    }

    fn order(&mut self, order: &str) {
        writeln!(self.server.stdin.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        self.port = answer.trim().parse().expect("python3-aiosmtpd is installed, and the server says its port");
    }

    /// What it refuses from now on: lines of `rcpt` or `data`, a part of the address or the mail, and the reply.
    pub fn refuse(&self, rules: &[(&str, &str, &str)]) {
        let lines: Vec<String> = rules.iter().map(|(at, part, reply)| format!("{at}\t{part}\t{reply}\n")).collect();
        fs::write(self.folder.path().join("replies"), lines.concat()).unwrap();
    }

    /// The certificate of the authority that vouches for it, in PEM.
    pub fn authority(&self) -> String {
        fs::read_to_string(self.folder.path().join("ca.pem")).unwrap()
    }

    /// The mails that it accepted, as they came.
    pub fn mails(&self) -> Vec<Vec<u8>> {
        self.accepted("eml").into_iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// What it knows beside each of them: `from`, `to`, `hello`, `tls`, `login`.
    pub fn about(&self) -> Vec<Value> {
        self.accepted("json").into_iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    fn accepted(&self, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("mails")).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().unwrap() == end).collect();
        paths.sort();
        paths
    }

    /// What was said to it and by it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let _ = self.server.kill();
        self.server.wait().unwrap();
    }
}

/// A report that came.
pub struct Mail {
    pub subject: String,
    /// What a person reads.
    pub text: String,
    /// The attached log.
    pub log: String,
}

impl Mail {
    /// Opens one with the owner's key.
    pub fn open(raw: &[u8], owner: &GnuPg) -> Self {
        let outer = parse(raw);
        let headers = outer["headers"].as_array().unwrap();
        let subject = headers.iter().find(|header| header[0] == "Subject").unwrap()[1].as_str().unwrap().to_owned();
        let sealed = tempfile::NamedTempFile::new().unwrap();
        fs::write(&sealed, outer["parts"][1]["content"].as_str().unwrap()).unwrap();
        let inner = parse(&owner.decrypt(sealed.path()));
        let part = |part: &Value| part["content"].as_str().unwrap_or_default().to_owned();
        Self { subject, text: part(&inner["parts"][0]["parts"][0]), log: part(&inner["parts"][1]) }
    }
}

/// A mail, or a part of one, as Python's parser understands it: `type`, `parameters`, `headers`, `defects`, `file`,
/// `disposition`, and `parts` or `content`.
pub fn parse(mail: &[u8]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/mime.py");
    let mut child = Command::new(PYTHON).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(mail).unwrap();
    let mut shown = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    assert!(child.wait().unwrap().success());
    serde_json::from_slice(&shown).unwrap()
}
