//! A server to pull from: a real sshd on loopback, with keys and configuration of its own, run by an ordinary user.
//!
//! An sshd that isn't root's can log in nobody but its own user, so the pull is an unprivileged one whoever runs
//! the tests. Under root that user is an account made for it, since `nobody` has no shell.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

/// The account for tests that run as root.
const ACCOUNT: &str = "vaultberry-peer";

/// A running sshd. Dropped, it is ended.
pub struct Peer {
    folder: TempDir,
    sshd: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Who it is, and whom it lets in.
    pub user: User,
}

impl Peer {
    /// Starts one that lets in whoever has the private half of `public_key`. With a `command`, it runs that
    /// instead of what it is asked for.
    pub fn start(public_key: &str, command: Option<&str>) -> Self {
        let user = ordinary_user();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = command.map(|command| format!("command=\"{command}\" ")).unwrap_or_default();
        fs::write(folder.path().join("authorized_keys"), format!("{options}{public_key}\n")).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let here = folder.path().display();
        fs::write(
            folder.path().join("sshd_config"),
            format!(
                "ListenAddress 127.0.0.1:{port}\nListenAddress [::1]:{port}\nHostKey {here}/host_key\nAuthorizedKeysFile {here}/authorized_keys\n\
                 StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            ),
        )
        .unwrap();
        make_host_key(folder.path());
        give(folder.path(), &user);
        let sshd = launch(folder.path(), &user, port);
        Self { folder, sshd, port, user }
    }

    /// What it is asked to give: a folder of the user's.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its public host key, as `host_keys` wants it.
    pub fn host_key(&self) -> String {
        let line = fs::read_to_string(self.folder.path().join("host_key.pub")).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Writes a file of the user's below `data`, with the folders above it.
    pub fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.data().join(Path::new(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        give(&self.data(), &self.user);
        path
    }

    /// Lets in whoever has the private half of this key too.
    pub fn let_in(&self, public_key: &str) {
        let path = self.folder.path().join("authorized_keys");
        let keys = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{keys}{}\n", public_key.trim())).unwrap();
    }

    /// Stops the server and starts it again at the same place with another host key.
    pub fn change_host_key(&mut self) {
        self.end();
        for name in ["host_key", "host_key.pub"] {
            fs::remove_file(self.folder.path().join(name)).unwrap();
        }
        make_host_key(self.folder.path());
        give(self.folder.path(), &self.user);
        self.start_again();
    }

    /// Has `command` be run instead of what is asked for.
    pub fn through(&self, command: &str) {
        let path = self.folder.path().join("authorized_keys");
        let keys = fs::read_to_string(&path).unwrap();
        let forced = format!("command=\"{}\" ", command.replace('"', "\\\""));
        let lines: Vec<String> = keys.lines().map(|key| format!("{forced}{key}\n")).collect();
        fs::write(path, lines.concat()).unwrap();
    }

    /// Lets nobody in any more.
    pub fn let_nobody_in(&self) {
        fs::write(self.folder.path().join("authorized_keys"), "").unwrap();
    }

    /// What the server logged since it was started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Starts it again after [`Peer::end`].
    pub fn start_again(&mut self) {
        self.sshd = launch(self.folder.path(), &self.user, self.port);
    }

    /// Stops the server and starts it again, so that these variables stand in the environment of whatever it is asked to run.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.end();
        let config = self.folder.path().join("sshd_config");
        let text = fs::read_to_string(&config).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("SetEnv ")).collect();
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("\"{name}={value}\"")).collect();
        let set = format!("SetEnv {}\n", variables.join(" "));
        lines.push(&set);
        fs::write(config, lines.join("\n")).unwrap();
        self.start_again();
    }

    /// Writes a program of the user's to its folder `bin`, and gives that folder.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.folder.path().join("bin");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        give(&folder, &self.user);
        folder
    }

    /// Ends the server and the sessions that it still has.
    pub fn end(&mut self) {
        let sessions = Command::new("ps").args(["-o", "pid=", "--ppid", &self.sshd.id().to_string()]).output().unwrap();
        let _ = self.sshd.kill();
        self.sshd.wait().unwrap();
        for session in String::from_utf8(sessions.stdout).unwrap().split_whitespace() {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(session.parse().unwrap()), Signal::SIGTERM);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// An account that isn't root's: whoever runs the tests, or one made for them.
pub fn ordinary_user() -> User {
    let me = User::from_uid(Uid::current()).unwrap().expect("whoever runs the tests has an account");
    if !me.uid.is_root() {
        return me;
    }
    // Tests run beside each other: another one may have made it meanwhile.
    if User::from_name(ACCOUNT).unwrap().is_none() {
        let _ = Command::new("useradd").args(["-r", "-m", "-s", "/bin/sh", ACCOUNT]).output().unwrap();
    }
    User::from_name(ACCOUNT).unwrap().expect("useradd made the account")
}

/// Makes the key pair `host_key`.
pub fn make_host_key(folder: &Path) {
    let key = folder.join("host_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
}

/// Gives `path` and all below it to `user`.
fn give(path: &Path, user: &User) {
    let owner = format!("{}:{}", user.uid, user.gid);
    assert!(Command::new("chown").args(["-hR", &owner]).arg(path).status().unwrap().success());
}

fn launch(folder: &Path, user: &User, port: u16) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    if Uid::current().is_root() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let mut sshd = command.spawn().expect("openssh-server is installed");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !greets(port) {
        let log = || fs::read_to_string(folder.join("log")).unwrap();
        assert!(sshd.try_wait().unwrap().is_none(), "sshd ended: {}", log());
        assert!(Instant::now() < deadline, "sshd doesn't answer: {}", log());
        sleep(Duration::from_millis(50));
    }
    sshd
}

/// Whether an ssh server answers at this port.
pub fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-"
}
