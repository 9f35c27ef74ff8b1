//! The owner's GnuPG: a real one, with a key of its own in a temporary home.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A home with one private key. Dropped, its agent is ended.
pub struct GnuPg {
    home: TempDir,
}

impl GnuPg {
    /// One whose key is good.
    pub fn new() -> Self {
        Self::with_key(&[], "never")
    }

    /// One whose key expired years ago.
    pub fn expired() -> Self {
        Self::with_key(&["--faked-system-time", "20240101T000000"], "1d")
    }

    fn with_key(options: &[&str], expires: &str) -> Self {
        // The agent's socket stands in it, and its path may not be long.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        let gnupg = Self { home };
        let mut arguments = options.to_vec();
        arguments.extend(["--passphrase", "", "--quick-gen-key", "owner@example.org", "future-default", "default", expires]);
        gnupg.gpg(&arguments);
        gnupg
    }

    /// The public certificate, armored.
    pub fn certificate(&self) -> String {
        String::from_utf8(self.gpg(&["--armor", "--export"]).stdout).unwrap()
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> String {
        let listing = String::from_utf8(self.gpg(&["--with-colons", "--list-keys"]).stdout).unwrap();
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// What the message in the file `path` says.
    pub fn decrypt(&self, path: &Path) -> Vec<u8> {
        self.gpg(&["--decrypt", path.to_str().unwrap()]).stdout
    }

    fn gpg(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).args(["--batch", "--quiet", "--pinentry-mode", "loopback"]);
        let output = command.args(arguments).output().expect("gnupg is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for GnuPg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}
