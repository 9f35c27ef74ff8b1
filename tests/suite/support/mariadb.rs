//! A real MariaDB, on a socket in a temporary folder, run by the same ordinary user as the ssh server beside it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

use super::machine::Machine;

/// A running server, in which the user may do everything. Dropped, it is ended.
pub struct MariaDb {
    folder: TempDir,
    run: Runner,
    server: Child,
}

impl MariaDb {
    /// Starts one that listens on its socket only.
    pub fn start(user: &User) -> Self {
        Self::start_with(Runner { user: user.clone(), within: Vec::new() })
    }

    /// The same on a machine, whose accounts it knows.
    pub fn start_on(machine: &Machine, user: &User) -> Self {
        Self::start_with(Runner { user: user.clone(), within: machine.enter() })
    }

    fn start_with(run: Runner) -> Self {
        let user = &run.user;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let data = folder.path().join("data");
        let mut install = run.command("mariadb-install-db", folder.path());
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        install.args(run.as_root());
        let made = install.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut server = run.command("mariadbd", folder.path());
        server.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        server.arg(format!("--socket={}", folder.path().join("socket").display()));
        server.args(["--skip-networking", "--innodb-flush-method=nosync", "--innodb-buffer-pool-size=16M"]);
        server.args(run.as_root());
        let log = folder.path().join("log");
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let server = server.spawn().unwrap();
        let mut started = Self { folder, run, server };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !started.client(&["--execute", "SELECT 1"]).output().unwrap().status.success() {
            assert!(started.server.try_wait().unwrap().is_none(), "it ended: {}", fs::read_to_string(&log).unwrap());
            assert!(Instant::now() < deadline, "it doesn't answer: {}", fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(100));
        }
        started
    }

    /// The socket: what `MYSQL_UNIX_PORT` is.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What a statement gives.
    pub fn query(&self, database: &str, statement: &str) -> String {
        let output = self.client(&["--batch", "--skip-column-names", "--execute", statement, database]).output().unwrap();
        assert!(output.status.success(), "{statement}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Loads a dump into a new database.
    pub fn load(&self, database: &str, dump: &Path) {
        self.query("", &format!("CREATE DATABASE `{database}`"));
        let loaded = self.client(&[database]).stdin(fs::File::open(dump).unwrap()).output().unwrap();
        assert!(loaded.status.success(), "{loaded:?}");
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut client = self.run.command("mariadb", self.folder.path());
        client.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", self.socket().display()));
        client.args(arguments.iter().filter(|argument| !argument.is_empty()));
        client
    }
}

/// Who runs the programs, and within what.
struct Runner {
    user: User,
    within: Vec<String>,
}

impl Runner {
    /// On a machine an ordinary user is its root, whom the server serves only if told so.
    fn as_root(&self) -> Option<&'static str> {
        (!self.within.is_empty() && !Uid::effective().is_root()).then_some("--user=root")
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let (uid, gid) = (self.user.uid.as_raw(), self.user.gid.as_raw());
        let mut words = self.within.clone();
        if !words.is_empty() && Uid::effective().is_root() {
            words.extend(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"].map(String::from));
        }
        words.push(program.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(folder).env("HOME", folder);
        if self.within.is_empty() && Uid::effective().is_root() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGTERM);
        let _ = self.server.wait();
    }
}
