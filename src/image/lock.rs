//! The lock: which Debian packages an image is made of, each with its version and the sum of its file.
//!
//! It is TOML, with a line for each package, so that a change reads well beside the one before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cache::CacheKey;
use crate::durable;

/// Its name, beside the `appliance.toml` that it is for.
pub const NAME: &str = "packages.lock";

/// How many packages that differ are named.
const NAMED: usize = 20;

/// Some packages by their names.
pub type Packages = BTreeMap<String, Package>;

/// A package as it was at the mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// As Debian writes it, `[epoch:]upstream[-revision]`.
    pub version: String,
    /// `arm64`, `all`, or the builder's.
    pub architecture: String,
    /// Of its `.deb`, in lower-case hexadecimal.
    pub sha256: String,
}

/// What an image is made of, but for its config and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The Debian release.
    pub suite: String,
    /// When it was made, in seconds since 1970: no file in the image is younger.
    pub epoch: u64,
    /// The packages of the base tree, with all that they need.
    pub packages: Packages,
    /// What the config adds to them, with all that this needs beside; empty where it can't be told apart.
    #[serde(default)]
    pub added: Packages,
    /// Those of the builder's tools.
    pub tools: Packages,
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// It isn't there, or is none; the hint says how to make it.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || {
            format!("reading the lock {}\nhint: `vaultberry image lock` writes {NAME} beside an appliance.toml", path.display())
        };
        let text = std::fs::read_to_string(path).with_context(reading)?;
        toml::from_str(&text).with_context(reading)
    }

    /// All packages of the appliance.
    pub fn all(&self) -> Packages {
        self.packages.iter().chain(&self.added).map(|(name, package)| (name.clone(), package.clone())).collect()
    }

    /// Writes it, durably.
    pub fn write(&self, path: &Path) -> Result<()> {
        durable::write(path, self.text()?.as_bytes(), 0o644)
    }

    /// When it was made, RFC 3339.
    pub fn date(&self) -> String {
        let made = i64::try_from(self.epoch).ok().and_then(|epoch| Timestamp::from_second(epoch).ok());
        made.map_or_else(|| String::from("a date past all clocks"), |made| made.to_string())
    }

    fn text(&self) -> Result<String> {
        let Self { suite, epoch, packages, added, tools } = self;
        let made = self.date();
        let mut text = format!(
            "# The Debian packages of an image, as `vaultberry image lock` found them; `vaultberry image --locked` takes no others.\n\
             suite = {suite:?}\n# {made}\nepoch = {epoch}\n"
        );
        let sections = [("packages", packages), ("added", added), ("tools", tools)];
        for (name, packages) in sections.into_iter().filter(|(_, packages)| !packages.is_empty()) {
            write!(text, "\n[{name}]\n")?;
            for (name, Package { version, architecture, sha256 }) in packages {
                writeln!(text, "{name:?} = {{ version = {version:?}, architecture = {architecture:?}, sha256 = {sha256:?} }}")?;
            }
        }
        Ok(text)
    }

    /// Whether the packages that are installed in a tree are those of the lock.
    ///
    /// # Errors
    /// They aren't: names what differs.
    pub fn require_installed(&self, manifest: &str) -> Result<()> {
        let locked = self.all();
        let mut found = Packages::new();
        for line in manifest.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let &[name, version, architecture] = fields.as_slice() else { bail!("reading the package manifest: {line:?}") };
            // Of a package that is installed there is no file any more.
            let sha256 = locked.get(name).map_or_else(String::new, |locked| locked.sha256.clone());
            found.insert(name.into(), Package { version: version.into(), architecture: architecture.into(), sha256 });
        }
        Self::require(&locked, &found)
    }

    /// Whether what `found` says of a part of it is what it says itself.
    ///
    /// # Errors
    /// It isn't: names what differs.
    pub fn require(wanted: &Packages, found: &Packages) -> Result<()> {
        let names = wanted.keys().chain(found.keys().filter(|name| !wanted.contains_key(*name)));
        let faults: Vec<String> = names.filter_map(|name| fault(name, wanted.get(name), found.get(name))).collect();
        let more = faults.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        ensure!(
            faults.is_empty(),
            "the packages aren't those of the lock:\n  {}{more}\n\
             hint: `vaultberry image lock` locks those of today; a mirror that keeps old ones still has the others",
            faults.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("\n  ")
        );
        Ok(())
    }
}

/// A name for exactly these packages: 32 hexadecimal digits.
pub fn digest(packages: &Packages) -> String {
    let key = packages.iter().fold(CacheKey::default(), |key, (name, package)| {
        let Package { version, architecture, sha256 } = package;
        key.with(name, version.as_bytes()).with(architecture, sha256.as_bytes())
    });
    key.digest()
}

fn fault(name: &str, wanted: Option<&Package>, found: Option<&Package>) -> Option<String> {
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted == found => None,
        (Some(wanted), Some(found)) if wanted.version == found.version => {
            Some(format!("{name} {}: another file: SHA-256 {}, locked {}", found.version, found.sha256, wanted.sha256))
        }
        (Some(wanted), Some(found)) => Some(format!("{name}: {}, locked {}", found.version, wanted.version)),
        (Some(wanted), None) => Some(format!("{name}: not needed any more, locked {}", wanted.version)),
        (None, Some(found)) => Some(format!("{name}: {}, not locked", found.version)),
        (None, None) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Lock, Package, Packages, digest};

    pub(crate) fn packages(list: &[(&str, &str)]) -> Packages {
        let package = |version: &str| Package {
            version: version.into(),
            architecture: "arm64".into(),
            sha256: format!("{version:0>64}").replace(['.', ':', '-', '~', '+'], "0"),
        };
        list.iter().map(|(name, version)| ((*name).to_owned(), package(version))).collect()
    }

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(super::NAME);
        let lock = Lock {
            suite: "trixie".into(),
            epoch: 1_764_000_000,
            packages: packages(&[("libstdc++6", "14.2.0-19"), ("login", "1:4.16.0-2+really2.41-5")]),
            added: packages(&[("zsh", "5.9-8~1")]),
            tools: packages(&[("zstd", "1.5.7+dfsg-1")]),
        };
        lock.write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), lock);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n# 2025-11-24T16:00:00Z\nepoch = 1764000000\n"), "{text}");
        std::fs::write(&path, text.replace("epoch", "time")).unwrap();
        let error = format!("{:#}", Lock::read(&path).unwrap_err());
        assert!(error.contains("hint: `vaultberry image lock` writes packages.lock") && error.contains("time"), "{error}");
    }

    #[test]
    fn what_differs_is_named() {
        let locked = packages(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        let mut found = packages(&[("a", "1"), ("b", "2"), ("d", "1"), ("e", "1")]);
        found.get_mut("d").unwrap().sha256 = "f".repeat(64);
        Lock::require(&locked, &locked).unwrap();
        let error = Lock::require(&locked, &found).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines[1..4],
            [
                "  b: 2, locked 1",
                "  c: not needed any more, locked 1",
                &format!("  d 1: another file: SHA-256 {}, locked {}1", "f".repeat(64), "0".repeat(63))
            ]
        );
        assert_eq!(lines[4], "  e: 1, not locked");
        assert!(lines[5].starts_with("hint: "), "{error}");
        let lock =
            Lock { suite: "trixie".into(), epoch: 0, packages: locked.clone(), added: Packages::new(), tools: Packages::new() };
        lock.require_installed("a\t1\tarm64\nb\t1\tarm64\nc\t1\tarm64\nd\t1\tarm64\n").unwrap();
        let error = lock.require_installed("a\t1\tarm64\nb\t1\tarm64\nc\t1\tall\nd\t1\tarm64\n").unwrap_err().to_string();
        assert!(error.contains("\n  c 1: "), "{error}");
        assert_ne!(digest(&locked), digest(&found));
    }
}
