//! A real PostgreSQL, on a socket in a temporary folder, run by the same ordinary user as the ssh server beside it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

/// Where Debian has the server's programs, one folder for each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A running server, whose superuser is `postgres`. Dropped, it is ended.
pub struct Postgresql {
    folder: TempDir,
    user: User,
    server: Child,
}

impl Postgresql {
    /// Starts one that lets in whoever reaches its socket. It refuses to be run by root, so `user` is to be an ordinary one.
    pub fn start(user: &User) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let data = folder.path().join("data");
        let mut initdb = command("initdb", user, folder.path());
        initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = folder.path().join("log");
        let mut server = command("postgres", user, folder.path());
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        for setting in ["listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=10"] {
            server.args(["-c", setting]);
        }
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let server = server.spawn().unwrap();
        let mut started = Self { folder, user: user.clone(), server };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !started.psql("postgres").args(["-c", "SELECT 1"]).output().unwrap().status.success() {
            assert!(started.server.try_wait().unwrap().is_none(), "it ended: {}", fs::read_to_string(&log).unwrap());
            assert!(Instant::now() < deadline, "it doesn't answer: {}", fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(50));
        }
        started
    }

    /// The folder of its socket: what `PGHOST` is.
    pub fn host(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Runs statements, each by itself, as the superuser.
    pub fn run(&self, database: &str, statements: &[&str]) {
        let mut psql = self.psql(database);
        for statement in statements {
            psql.args(["-c", statement]);
        }
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{statements:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a query gives, unaligned.
    pub fn query(&self, database: &str, query: &str) -> String {
        let output = self.psql(database).args(["-At", "-c", query]).output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Loads a dump into the new database `name`, as a restorer would: the first error ends it.
    pub fn load(&self, name: &str, dump: &Path) {
        self.run("postgres", &[&format!("CREATE DATABASE \"{name}\"")]);
        let mut psql = self.psql(name).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        psql.stdin.take().unwrap().write_all(&fs::read(dump).unwrap()).unwrap();
        let output = psql.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A client, not started, as the superuser.
    pub fn psql(&self, database: &str) -> Command {
        let mut psql = command("psql", &self.user, self.folder.path());
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", self.host(), "-d", database]);
        psql
    }
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        // Its quick end, which takes its other processes along.
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// A program of the newest version that is here, run by `user` in `folder`.
fn command(program: &str, user: &User, folder: &Path) -> Command {
    let mut command = Command::new(programs().join(program));
    command.current_dir(folder).env("LC_ALL", "C");
    if Uid::current().is_root() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn programs() -> PathBuf {
    let versions = fs::read_dir(PROGRAMS).expect("the package postgresql is installed");
    let number = |name: String| name.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| number(entry.unwrap().file_name().into_string().unwrap())).max();
    Path::new(PROGRAMS).join(newest.expect("a version of PostgreSQL is installed").to_string()).join("bin")
}
