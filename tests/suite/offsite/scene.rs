//! An appliance that has only snapshots to push.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use vaultberry::config::{self, Config};
use vaultberry::offsite::{self, Candidate, Pushed};
use vaultberry::outcome::Outcome;
use vaultberry::progress::Progress;
use vaultberry::snapshot;
use vaultberry::source::Root;
use vaultberry::source::owners::Owners;
use vaultberry::stop::Stop;
use vaultberry::warnings::Warnings;

use crate::support::appliance::{Run, names};
use crate::support::assert_same;
use crate::support::gnupg::GnuPg;
use crate::support::store::{self, Store};
use crate::support::way::{Fate, Way};

pub const MONDAY: &str = "20261123T023000Z";
pub const TUESDAY: &str = "20261124T023000Z";

/// An appliance's folders and configuration, without a source that can be pulled from.
pub struct Scene {
    pub folder: TempDir,
    pub owner: GnuPg,
}

impl Scene {
    pub fn new(owner: GnuPg) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["backup", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let credentials = folder.path().join("s3");
        fs::write(&credentials, "access_key_id = \"test\"\nsecret_access_key = \"hunter2hunter2\"\n").unwrap();
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, owner }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration for a store at this address, with these lines more in `[offsite]`.
    pub fn config_at(&self, endpoint: &str, more: &str) -> Config {
        let folder = self.folder.path().display();
        let text = format!(
            "[admin]\ngenerate_key = true\n[backup]\nfolder = \"{folder}/backup\"\nstate = \"{folder}/state\"\n\
             [openpgp]\nrecipients = [\"\"\"\n{}\"\"\"]\n\
             [offsite]\nbucket = \"{}\"\nendpoint = \"{endpoint}\"\ncredentials = \"{folder}/s3\"\n{more}\n\
             [[source]]\nname = \"web\"\nhost = \"web.example.org\"\nuser = \"backup\"\npaths = [\"/srv\"]\n\
             host_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]\n",
            self.owner.certificate(),
            store::BUCKET,
        );
        fs::write(self.path("appliance.toml"), &text).unwrap();
        config::parse(&text).unwrap()
    }

    pub fn config(&self, port: u16) -> Config {
        self.config_at(&format!("http://127.0.0.1:{port}"), "")
    }

    /// A snapshot of a file of `size` bytes that can't be compressed.
    pub fn snapshot(&self, name: &str, size: u64, outcome: Outcome) -> PathBuf {
        let mirror = self.path("mirror");
        fs::create_dir_all(mirror.join("srv")).unwrap();
        let mut content = Vec::new();
        fs::File::open("/dev/urandom").unwrap().take(size).read_to_end(&mut content).unwrap();
        fs::write(mirror.join("srv/random"), content).unwrap();
        let request = snapshot::Request {
            source: "web",
            name,
            folder: &self.path("backup/snapshots/web"),
            roots: &[Root { base: mirror.clone(), path: PathBuf::from("srv") }],
            owners: &Owners::default(),
            outcome,
            warnings: Warnings::default(),
        };
        snapshot::create(request, &Stop::default(), &Progress::default()).unwrap().archive
    }

    pub fn push(&self, config: &Config, archive: &Path, outcome: Outcome) -> Result<Pushed, String> {
        self.push_until(config, archive, outcome, &Stop::default())
    }

    pub fn push_until(&self, config: &Config, archive: &Path, outcome: Outcome, stop: &Stop) -> Result<Pushed, String> {
        with_candidate(archive, outcome, |candidate| {
            let pushed = offsite::push(config, &candidate, stop, &Progress::default());
            if pushed.is_ok() {
                assert_eq!(names(&self.path("backup/outbox/web")), Vec::<String>::new(), "what was sealed is still there");
            }
            pushed.map_err(|error| vaultberry::complaint::render(&error))
        })
    }

    /// Lets a push that began at one port go on at another: its record speaks of where it goes.
    pub fn readdress(&self, from: u16, to: u16) {
        let record = self.path("backup/outbox/web/push.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(record, text.replace(&from.to_string(), &to.to_string())).unwrap();
    }

    /// Pushes, with these lines more in `[offsite]`, until a stop is asked for at the second part; gives the error. The push then
    /// goes on at the store's own port.
    pub fn break_off(&self, store: &Store, archive: &Path, more: &str) -> String {
        let stop = Stop::default();
        let asked = stop.clone();
        let way = Way::to(store.port, move |line| {
            if line.contains("partNumber=2") {
                asked.request();
            }
            Fate::Pass
        });
        let config = self.config_at(&format!("http://127.0.0.1:{}", way.port), more);
        let error = self.push_until(&config, archive, Outcome::Complete, &stop).unwrap_err();
        self.readdress(way.port, store.port);
        error
    }

    /// What an appliance and its owner need of a store, with these lines more in `[offsite]`: a push that is broken off goes on,
    /// is proven, and is listed, verified, fetched and restored; and the next one stands beside it.
    pub fn there_and_back(&self, port: u16, more: &str) {
        let archive = self.snapshot(MONDAY, 41 << 20, Outcome::Complete);
        let (stop, parts) = (Stop::default(), Arc::new(Mutex::new(Vec::new())));
        let (asked, seen) = (stop.clone(), Arc::clone(&parts));
        let way = Way::to(port, move |line| {
            let mut seen = seen.lock().unwrap();
            seen.extend(line.split_once("partNumber=").map(|(_, rest)| rest.split(['&', ' ']).next().unwrap().to_owned()));
            if seen.len() == 2 {
                asked.request();
            }
            Fate::Pass
        });
        let config = self.config_at(&format!("http://127.0.0.1:{}", way.port), &format!("{more}\nparallel = 1"));
        self.push_until(&config, &archive, Outcome::Complete, &stop).unwrap_err();
        let pushed = self.push(&config, &archive, Outcome::Complete).unwrap();
        assert_eq!(pushed.problem, None);
        let mut parts = parts.lock().unwrap().clone();
        parts.sort();
        assert!(parts.len() >= 3 && parts.len() <= 4, "only what was in flight is sent again: {parts:?}");
        parts.dedup();
        assert_eq!(parts, ["1", "2", "3"]);
        let multiparts = self.s3cmd(&["multipart", &format!("s3://{}", store::BUCKET)]);
        assert!(!multiparts.contains("tar.gz.pgp"), "{multiparts}");

        let config = self.config_at(&format!("http://127.0.0.1:{port}"), more);
        let run = self.vaultberry(&["offsite", "list"], "");
        assert!(run.code == Some(0) && run.stdout.contains(MONDAY), "{run:?}");
        let run = self.vaultberry(&["offsite", "verify"], "");
        assert_eq!(run.code, Some(0), "{run:?}");
        let run = self.fetch(&format!("web/{MONDAY}"), "fetched", Some(&self.owner.private_key()), "");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(names(&self.path("fetched")).iter().any(|name| name.ends_with(".tar.gz")));

        // And without vaultberry.
        let sealed = self.path("sealed.pgp");
        self.s3cmd(&["get", &format!("s3://{}/{}", store::BUCKET, key(MONDAY, "tar.gz.pgp")), sealed.to_str().unwrap()]);
        assert!(fs::metadata(&sealed).unwrap().len() < pushed.bytes);
        assert!(self.owner.decrypt(&sealed) == fs::read(&archive).unwrap());

        let from = format!("s3://{}/vaultberry/web/{MONDAY}", store::BUCKET);
        let (private, to) = (self.owner.private_key(), self.path("restored"));
        let run = self.vaultberry(&["restore", &from, "--to", to.to_str().unwrap(), "--key", private.to_str().unwrap()], "");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_same(&self.path("mirror"), &to);

        let again = self.snapshot(TUESDAY, 1000, Outcome::Complete);
        self.push(&config, &again, Outcome::Complete).unwrap();
        let listed = self.s3cmd(&["ls", &format!("s3://{}/vaultberry/web/", store::BUCKET)]);
        assert_eq!(listed.matches(".commit.json").count(), 2, "{listed}");
    }

    /// The push clock's file; null when there is none.
    pub fn clock(&self) -> Value {
        fs::read(self.path("state/pushes.json")).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
    }

    pub fn vaultberry(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        command.args(arguments).arg("--config").arg(self.path("appliance.toml"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Run::of(child.wait_with_output().unwrap())
    }

    /// What the guide for those without vaultberry says, but for TLS.
    pub fn configure_s3cmd(&self, port: u16) {
        let hosts = format!("host_base = 127.0.0.1:{port}\nhost_bucket = 127.0.0.1:{port}\nuse_https = False\n");
        fs::write(self.path("s3cfg"), format!("[default]\naccess_key = test\nsecret_key = hunter2hunter2\n{hosts}")).unwrap();
    }

    /// Makes the bucket in a store that speaks TLS with that certificate.
    pub fn make_bucket(&self, host: &str) {
        let config = format!(
            "[default]\naccess_key = test\nsecret_key = test\nhost_base = {host}\nhost_bucket = {host}\nbucket_location = us-east-1\n"
        );
        fs::write(self.path("s3cfg"), config).unwrap();
        let mut command = Command::new("s3cmd");
        command.arg("-c").arg(self.path("s3cfg")).args(["mb", &format!("s3://{}", store::BUCKET)]);
        let made = command.env("SSL_CERT_FILE", self.path("ca.pem")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    pub fn s3cmd(&self, arguments: &[&str]) -> String {
        let output = Command::new("s3cmd").arg("-c").arg(self.path("s3cfg")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn fetch(&self, snapshot: &str, to: &str, key: Option<&Path>, input: &str) -> Run {
        let to = self.path(to);
        let mut arguments = vec!["fetch", snapshot, "--to", to.to_str().unwrap()];
        if let Some(key) = key {
            arguments.extend(["--key", key.to_str().unwrap()]);
        }
        self.vaultberry(&arguments, input)
    }
}

pub fn with_candidate<T>(archive: &Path, outcome: Outcome, work: impl FnOnce(Candidate<'_>) -> T) -> T {
    let name = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz").to_owned();
    let index = archive.with_file_name(format!("{name}.index.jsonl.zst"));
    work(Candidate { source: "web", name: &name, archive, index: &index, outcome })
}

pub fn key(name: &str, end: &str) -> String {
    format!("vaultberry/web/{name}.{end}")
}
