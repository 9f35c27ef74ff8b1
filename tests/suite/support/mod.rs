//! Real servers, images and guests, and a whole appliance in temporary folders.

pub mod appliance;
pub mod card;
pub mod ceph;
pub mod firmware;
pub mod garage;
pub mod gnupg;
pub mod guest;
pub mod lan;
pub mod machine;
pub mod mailbox;
pub mod mariadb;
pub mod peer;
pub mod ports;
pub mod postfix;
pub mod postgresql;
pub mod server;
pub mod servers;
pub mod small_disk;
pub mod store;
pub mod tiny;
pub mod way;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};

/// How many guests run, or images are built, at a time. Each keeps a core busy, and some more.
const TURNS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(TURNS);
static GIVEN_BACK: Condvar = Condvar::new();

/// Held by whoever emulates a guest or builds an image. Dropped, it lets the next one in.
pub struct Turn(usize);

impl Turn {
    /// Waits for one.
    pub fn take() -> Self {
        Self::of(1)
    }

    /// Waits until nobody else has one.
    pub fn alone() -> Self {
        Self::of(TURNS)
    }

    fn of(count: usize) -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = GIVEN_BACK.wait_while(free, |free| *free < count).unwrap_or_else(PoisonError::into_inner);
        *free -= count;
        Self(count)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        GIVEN_BACK.notify_all();
    }
}

/// What `tools/setup` with this argument has put into the cache folder under this name.
pub fn cached(name: &str, setup: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let folder = cache.join("vaultberry").join(name);
    assert!(folder.join("complete").exists(), "{} is not there: run `tools/setup {setup}`", folder.display());
    folder
}

/// Makes an authority, `ca.pem`, and a certificate of its for 127.0.0.1, which a guest knows as 10.0.2.2: `server.pem`, with
/// `server.key`.
pub fn certify(folder: &Path) {
    let openssl = |arguments: &str| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    // Each authority has a name of its own.
    let name = folder.file_name().unwrap().display();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,IP:10.0.2.2\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&format!("req -x509 {key} -subj /CN={name} -days 2 -keyout ca.key -out ca.pem"));
    openssl(&format!("req -new {key} -subj /CN=server -keyout server.key -out server.csr"));
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem");
}

/// That two trees have the same names, content and link targets.
pub fn assert_same(left: &Path, right: &Path) {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([left, right]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}
