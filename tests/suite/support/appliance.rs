//! An appliance: its configuration and folders, and the real program run on them.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::peer::Peer;

/// An appliance in a temporary folder.
pub struct Appliance {
    folder: TempDir,
    sources: String,
    settings: String,
    disk: bool,
    keep: Option<u16>,
}

impl Appliance {
    /// One without sources. `disk`: its configuration has a backup disk.
    pub fn new(disk: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // As /tmp: the programs of a source run as a user of their own.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for name in ["backup", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder, sources: String::new(), settings: String::new(), disk, keep: None }
    }

    /// Adds whole sections to the configuration.
    pub fn settings(&mut self, sections: &str) {
        self.settings.push_str(sections);
        self.settings.push('\n');
    }

    /// Adds settings to the source that was added last.
    pub fn source_settings(&mut self, lines: &str) {
        self.sources.push_str(lines);
        self.sources.push('\n');
    }

    /// Changes what was said of sources.
    pub fn instead(&mut self, of: &str, text: &str) {
        assert!(self.sources.contains(of), "{of}");
        self.sources = self.sources.replace(of, text);
    }

    /// How often the source that was added last is tried again.
    pub fn retries(&mut self, retries: u16) {
        let at = self.sources.rfind("retries = ").unwrap() + "retries = ".len();
        self.sources.replace_range(at..=at, &retries.to_string());
    }

    /// How many snapshots and logs it keeps.
    pub fn keep(&mut self, keep: u16) {
        self.keep = Some(keep);
    }

    /// Writes a file of its own that only root may read, and gives its path.
    pub fn secret(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Adds a source.
    pub fn source(&mut self, name: &str, port: u16, user: &str, host_key: &str, paths: &[&Path]) {
        let paths: Vec<String> = paths.iter().map(|path| format!("{:?}", path.to_str().unwrap())).collect();
        write!(
            self.sources,
            "\n[[source]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{user}\"\nidentity = \"{}\"\nretries = 0\n\
             host_keys = [\"{host_key}\"]\npaths = [{}]\n",
            self.folder.path().join("state/ssh/id_ed25519").display(),
            paths.join(", ")
        )
        .unwrap();
    }

    /// The same for the source that was added last, at another address.
    pub fn at_host(&mut self, host: &str) {
        let at = self.sources.rfind("host = \"127.0.0.1\"").unwrap();
        self.sources.replace_range(at..at + 18, &format!("host = \"{host}\""));
    }

    /// Adds `peer` as a source, with its data folder.
    pub fn pull_from(&mut self, name: &str, peer: &Peer) {
        self.source(name, peer.port, &peer.user.name, &peer.host_key(), &[&peer.data()]);
    }

    /// The public key that servers have to let in. Made without the program under test, since a configuration needs a
    /// source, and a source needs a server that knows the key.
    pub fn public_key(&self) -> String {
        let folder = self.folder.path().join("state/ssh");
        fs::create_dir_all(&folder).unwrap();
        let key = folder.join("id_ed25519");
        if !key.exists() {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "vb", "-f"]).arg(&key).status();
            assert!(made.unwrap().success());
        }
        fs::read_to_string(folder.join("id_ed25519.pub")).unwrap().trim_end().to_owned()
    }

    /// Its configuration, as the last command had it.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("appliance.toml")
    }

    /// `vaultberry ARGUMENTS --config …`, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let folder = self.folder.path();
        let disk = if self.disk { "\n[disk]\nserials = [\"VAULTBERRY-TEST\"]\n" } else { "" };
        let keep = self.keep.map(|keep| format!("keep = {keep}\nkeep_logs = {keep}\n")).unwrap_or_default();
        let text = format!(
            "[admin]\ngenerate_key = true\n\n[backup]\nfolder = \"{}\"\nstate = \"{}\"\nlock = \"{}\"\n{keep}{disk}{}{}",
            folder.join("backup").display(),
            folder.join("state").display(),
            folder.join("lock").display(),
            self.settings,
            self.sources
        );
        let config = folder.join("appliance.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        // What a killed run leaves goes with the folder.
        command.args(arguments).arg("--config").arg(config).env("TMPDIR", folder);
        command
    }

    /// A whole `backup run`.
    pub fn run(&self) -> Run {
        Run::of(self.command(&["backup", "run"]).output().unwrap())
    }

    /// What `backup run --dry-run` tells of its first source.
    pub fn rehearse(&self) -> Rehearsal {
        let output = self.command(&["backup", "run", "--dry-run", "--json"]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let source = &told["sources"][0];
        let lines = |of: &Value| of.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect();
        let outcome = source["outcome"].as_str().unwrap().to_owned();
        Rehearsal { outcome, lines: lines(&source["lines"]), warnings: lines(&source["warnings"]["lines"]) }
    }

    /// The backup folder, or something in it.
    pub fn backup(&self, name: &str) -> PathBuf {
        self.folder.path().join("backup").join(name)
    }

    /// The state folder, or something in it.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    /// The lock.
    pub fn lock(&self) -> PathBuf {
        self.folder.path().join("lock")
    }

    /// The word of the last run; null when there was none.
    pub fn last_run(&self) -> Value {
        fs::read(self.folder.path().join("state/last-run.json"))
            .map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
    }

    /// The names in `snapshots/<source>`, sorted.
    pub fn snapshots(&self, source: &str) -> Vec<String> {
        names(&self.backup("snapshots").join(source))
    }

    /// The archives of a source, from old to new.
    pub fn archives(&self, source: &str) -> Vec<PathBuf> {
        let names = self.snapshots(source).into_iter().filter(|name| name.ends_with(".tar.gz"));
        names.map(|name| self.backup("snapshots").join(source).join(name)).collect()
    }

    /// Unpacks an archive with GNU tar, and gives the folder in which `path` of the server then stands.
    pub fn unpack(&self, archive: &Path, path: &Path) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).output().unwrap();
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
        let place = folder.path().join(path.strip_prefix("/").unwrap());
        (folder, place)
    }
}

/// The names in a folder, sorted; none when it isn't there.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The index beside an archive, line by line.
pub fn index(archive: &Path) -> Vec<Value> {
    let path = archive.to_str().unwrap().replace(".tar.gz", ".index.jsonl.zst");
    let text = zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
    String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a run would do for a source.
#[derive(Debug)]
pub struct Rehearsal {
    /// How it would end.
    pub outcome: String,
    /// What would be pulled, and pushed.
    pub lines: Vec<String>,
    /// What wouldn't be as it should.
    pub warnings: Vec<String>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// From what std gives.
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The process id of the rsync that the helper of the run `pid` has started.
pub fn rsync_of(pid: u32) -> Option<String> {
    let children = |pid: &str| {
        let output = Command::new("ps").args(["-o", "pid=,comm=", "--ppid", pid]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let helpers = children(&pid.to_string());
    let mut helpers = helpers.lines().filter_map(|child| child.trim().split(' ').next());
    helpers.find_map(|helper| children(helper).lines().find_map(|child| child.trim().strip_suffix(" rsync").map(String::from)))
}
