//! A real Postfix on loopback, with a configuration and a queue of its own, which wants STARTTLS.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use super::certify;

/// Where Debian keeps what the master starts.
const PROGRAMS: &str = "/usr/lib/postfix/sbin";

const SERVICES: &str = "cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

/// A Postfix that takes mails for example.org. Dropped, it is ended.
pub struct Postfix {
    folder: TempDir,
    master: Option<Child>,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Postfix {
    /// Starts one. `settings` are lines of its main.cf.
    pub fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let user = User::from_name("postfix").unwrap().expect("postfix is installed");
        for name in ["queue", "data", "mail"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        for name in ["data", "mail"] {
            chown(path.join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        certify(path);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {0}/queue\ndata_directory = {0}/data\nmail_owner = postfix\n\
             setgid_group = postdrop\nmyhostname = mail.example.org\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             mydestination =\nalias_maps =\nvirtual_mailbox_domains = example.org\nvirtual_mailbox_base = {0}/mail\n\
             virtual_mailbox_maps = static:inbox/\nvirtual_uid_maps = static:{1}\nvirtual_gid_maps = static:{2}\n\
             smtpd_relay_restrictions = reject_unauth_destination\nsmtpd_tls_security_level = encrypt\n\
             smtpd_tls_cert_file = {0}/server.pem\nsmtpd_tls_key_file = {0}/server.key\nmaillog_file = {0}/log\n\
             maillog_file_prefixes = {0}\n{settings}\n",
            path.display(),
            user.uid,
            user.gid,
        );
        fs::write(path.join("main.cf"), main).unwrap();
        fs::write(path.join("master.cf"), format!("127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}")).unwrap();
        // Makes the queue's folders.
        let check = Command::new("postfix").arg("-c").arg(path).arg("check").output().unwrap();
        assert!(check.status.success(), "{check:?}");
        let mut postfix = Self { folder, master: None, port };
        postfix.begin();
        postfix
    }

    /// Listens, again after an [`end`](Self::end), at the same port.
    pub fn begin(&mut self) {
        let mut master = Command::new(format!("{PROGRAMS}/master"));
        master.arg("-c").arg(self.folder.path()).arg("-d").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.master = Some(master.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Listens no more; its port then refuses.
    pub fn end(&mut self) {
        if let Some(mut master) = self.master.take() {
            kill(Pid::from_raw(master.id().cast_signed()), Signal::SIGTERM).unwrap();
            master.wait().unwrap();
        }
    }

    /// The certificate of the authority that vouches for it, in PEM.
    pub fn authority(&self) -> String {
        fs::read_to_string(self.folder.path().join("ca.pem")).unwrap()
    }

    /// The mails that it delivered, when there are `count` of them, in the order of arrival.
    pub fn mails(&self, count: usize) -> Vec<Vec<u8>> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let entries = fs::read_dir(self.folder.path().join("mail/inbox/new"));
            let mut paths: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
            if paths.len() >= count {
                assert_eq!(paths.len(), count);
                paths.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
                return paths.iter().map(|path| fs::read(path).unwrap()).collect();
            }
            assert!(Instant::now() < until, "{count} mails: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it says.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.end();
    }
}

/// A policy server that defers each sender and recipient once, as a greylist does. Its port; it serves as long as the tests.
pub fn greylist() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let known = Arc::new(Mutex::new(Vec::new()));
        for connection in listener.incoming() {
            let known = Arc::clone(&known);
            // Postfix keeps a connection for its next question, while another process of it asks through one of its own.
            thread::spawn(move || defer_once(&connection.unwrap(), &known));
        }
    });
    port
}

fn defer_once(mut connection: &TcpStream, known: &Mutex<Vec<Vec<String>>>) {
    let mut asked = Vec::new();
    for line in BufReader::new(connection).lines().map_while(Result::ok) {
        if line.starts_with("sender=") || line.starts_with("recipient=") {
            asked.push(line);
        } else if line.is_empty() {
            let asked = std::mem::take(&mut asked);
            let mut known = known.lock().unwrap();
            let action = if known.contains(&asked) { "DUNNO" } else { "DEFER_IF_PERMIT 4.2.0 Greylisted" };
            known.push(asked);
            write!(connection, "action={action}\n\n").unwrap();
        }
    }
}
