//! A whole server to be set up: root's own sshd, in a view of this machine in which whatever is written is lost at the end.
//!
//! Accounts and programs are those of this machine. The folder for temporary files is the same as outside, so that the sockets of
//! servers beside it are there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tempfile::TempDir;

use super::guest::free_port;
use super::peer::{greets, make_host_key};

/// Makes the view, and becomes sshd in it. `$1`: a folder of its own. Folders that somebody else owns can't be overlaid by an
/// ordinary user, so those that are written to are new, and `/etc` is a copy of what may be read.
const ENTER: &str = "
set -e
mkdir $1/etc $1/dev
mount -t tmpfs -o mode=755 tmpfs $1/etc
cp -R --preserve=mode,links /etc/. $1/etc 2>/dev/null || touch $1/etc/shadow $1/etc/gshadow
mount --bind $1/etc /etc
for each in /usr/local /var/lib /var/spool /home /root /srv /run; do
	mount -t tmpfs -o mode=755 tmpfs $each
done
mkdir /run/sshd
mount -t tmpfs -o mode=755 tmpfs $1/dev
for each in null zero full random urandom tty log; do
	touch $1/dev/$each
	if [ $each = log ]; then from=$1/log; else from=/dev/$each; fi
	mount --bind $from $1/dev/$each
done
mount --rbind $1/dev /dev
mount -t proc proc /proc
exec /usr/sbin/sshd -D -e -f $1/sshd_config
";

/// A running one. Dropped, it is gone.
pub struct Machine {
    folder: TempDir,
    /// `unshare`, and the sshd that is its child.
    unshare: Child,
    init: u32,
    log: Arc<Mutex<Vec<String>>>,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Machine {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let log = listen(&folder.path().join("log"));
        make_host_key(folder.path());
        let port = free_port();
        let here = folder.path().display();
        // As Debian has it, but for where it listens.
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {here}/host_key\nPidFile none\nUsePAM no\nX11Forwarding yes\nAcceptEnv LANG LC_*\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\nKbdInteractiveAuthentication no\n"
        );
        fs::write(folder.path().join("sshd_config"), config).unwrap();
        let mut enter = Command::new("unshare");
        // With a view of processes as well: what ends all of an account's ends none outside.
        enter.args(["--mount", "--pid", "--fork", "--kill-child"]);
        if !Uid::current().is_root() {
            enter.args(["--map-auto", "--map-root-user"]);
        }
        enter.args(["sh", "-c", ENTER, "sh"]).arg(folder.path());
        let errors = fs::File::create(folder.path().join("sshd.log")).unwrap();
        let unshare = enter.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let mut machine = Self { folder, unshare, init: 0, log, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !greets(port) {
            assert!(machine.unshare.try_wait().unwrap().is_none(), "sshd ended: {}", machine.sshd_log());
            assert!(Instant::now() < deadline, "sshd doesn't answer: {}", machine.sshd_log());
            sleep(Duration::from_millis(50));
        }
        let parent = machine.unshare.id().to_string();
        let child = Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output().unwrap();
        machine.init = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
        machine
    }

    /// Its public host key, as `host_keys` wants it.
    pub fn host_key(&self) -> String {
        let line = fs::read_to_string(self.folder.path().join("host_key.pub")).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Runs a script as its root.
    pub fn sh(&self, script: &str, arguments: &[&str]) -> Output {
        let enter = self.enter();
        Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", script, "sh"]).args(arguments).output().unwrap()
    }

    /// What a program's words follow to run there as root.
    pub fn enter(&self) -> Vec<String> {
        let user = if Uid::current().is_root() { "" } else { " --user" };
        let line = format!("nsenter --target {} --mount --pid --wd{user} --", self.init);
        line.split(' ').map(String::from).collect()
    }

    /// The same for one that ends well: what it said.
    pub fn done(&self, script: &str) -> String {
        let output = self.sh(script, &[]);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a file for it to read, and gives its path there.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// What was sent to its system log since the last time.
    pub fn logged(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn sshd_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("sshd.log")).unwrap()
    }

    /// `ssh` as `user` with the private key `key`, not started.
    pub fn ssh(&self, key: &Path, user: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.ssh_options(key)).args(["-l", user]);
        ssh
    }

    /// The options of ssh that lead here.
    pub fn ssh_options(&self, key: &Path) -> Vec<String> {
        let key = key.display();
        let options = format!(
            "-F none -i {key} -p {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.port
        );
        options.split(' ').map(String::from).collect()
    }
}

/// A system log at this socket. It has to be read all the time: after ten lines whoever logs would wait.
fn listen(socket: &Path) -> Arc<Mutex<Vec<String>>> {
    let log = UnixDatagram::bind(socket).unwrap();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (held, mut block) = (Arc::downgrade(&lines), [0; 4096]);
    thread::spawn(move || {
        while let Ok(length) = log.recv(&mut block) {
            let Some(lines) = held.upgrade() else { return };
            lines.lock().unwrap().push(String::from_utf8_lossy(&block[..length]).into_owned());
        }
    });
    lines
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
