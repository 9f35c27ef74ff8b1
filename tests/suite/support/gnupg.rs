//! Owners with an OpenPGP key: made, and used, by GnuPG itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A key pair in a GnuPG home of its own. Dropped, its agent is ended.
pub struct GnuPg {
    home: TempDir,
    passphrase: String,
}

impl GnuPg {
    /// An owner with a key that is valid and not locked.
    pub fn new() -> Self {
        Self::make("", &[], "never")
    }

    /// One whose key is valid for this time from now, as gpg is told it.
    pub fn until(expires: &str) -> Self {
        Self::make("", &[], expires)
    }

    /// One whose private key is locked with `passphrase`.
    pub fn locked(passphrase: &str) -> Self {
        Self::make(passphrase, &[], "never")
    }

    /// One whose key was valid for a day in 2020.
    pub fn expired() -> Self {
        Self::make("", &["--faked-system-time", "20200101T000000"], "1d")
    }

    /// One with keys of these algorithms, to certify with and to encrypt to, made with these options of gpg.
    pub fn of(algorithms: [&str; 2], options: &[&str]) -> Self {
        let owner = Self::empty("");
        owner.gpg(options, &["--quick-generate-key", "owner@example.org", algorithms[0], "cert", "never"]);
        owner.gpg(options, &["--quick-add-key", &owner.fingerprint(), algorithms[1], "encr", "never"]);
        owner
    }

    /// One with a single key, for everything.
    pub fn single(algorithm: &str) -> Self {
        let owner = Self::empty("");
        owner.gpg(&[], &["--quick-generate-key", "owner@example.org", algorithm, "sign,encr", "never"]);
        owner
    }

    fn make(passphrase: &str, options: &[&str], expires: &str) -> Self {
        let gnupg = Self::empty(passphrase);
        let generate = ["--quick-generate-key", "owner@example.org", "future-default", "default", expires];
        gnupg.gpg(options, &generate);
        gnupg
    }

    fn empty(passphrase: &str) -> Self {
        // Short: an agent's socket has no room for a long path.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        Self { home, passphrase: passphrase.to_owned() }
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The certificate, in ASCII armor.
    pub fn certificate(&self) -> String {
        String::from_utf8(self.gpg(&[], &["--armor", "--export"]).stdout).unwrap()
    }

    /// The certificate's fingerprint.
    pub fn fingerprint(&self) -> String {
        let listed = String::from_utf8(self.gpg(&[], &["--with-colons", "--list-keys"]).stdout).unwrap();
        listed.lines().find(|line| line.starts_with("fpr:")).unwrap().split(':').nth(9).unwrap().to_owned()
    }

    /// A file with the private key.
    pub fn private_key(&self) -> PathBuf {
        let path = self.home.path().join("private.asc");
        fs::write(&path, self.gpg(&[], &["--armor", "--export-secret-keys"]).stdout).unwrap();
        path
    }

    /// What is in a sealed file.
    pub fn decrypt(&self, sealed: &Path) -> Vec<u8> {
        self.gpg(&[], &["--decrypt", sealed.to_str().unwrap()]).stdout
    }

    fn gpg(&self, options: &[&str], command: &[&str]) -> Output {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", self.home.path()).args(["--batch", "--pinentry-mode", "loopback"]);
        let output = gpg.args(["--passphrase", &self.passphrase]).args(options).args(command).output().unwrap();
        assert!(output.status.success(), "gpg {command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for GnuPg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}
