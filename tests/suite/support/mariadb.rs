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

/// A running server, in which the user may do everything. Dropped, it is ended.
pub struct MariaDb {
    folder: TempDir,
    user: User,
    server: Child,
}

impl MariaDb {
    /// Starts one that listens on its socket only.
    pub fn start(user: &User) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let data = folder.path().join("data");
        let mut install = command("mariadb-install-db", user, folder.path());
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        let made = install.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut server = command("mariadbd", user, folder.path());
        server.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        server.arg(format!("--socket={}", folder.path().join("socket").display()));
        server.args(["--skip-networking", "--innodb-flush-method=nosync", "--innodb-buffer-pool-size=16M"]);
        let log = folder.path().join("log");
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let server = server.spawn().unwrap();
        let mut started = Self { folder, user: user.clone(), server };
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
        let mut client = command("mariadb", &self.user, self.folder.path());
        client.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", self.socket().display()));
        client.args(arguments.iter().filter(|argument| !argument.is_empty()));
        client
    }
}

fn command(program: &str, user: &User, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("HOME", folder);
    if Uid::effective().is_root() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGTERM);
        let _ = self.server.wait();
    }
}
