//! A look into an initramfs after it is made: it holds what the boot needs, and no key.
//!
//! `update-initramfs` succeeds with half of what it was asked for: a hook that isn't executable is passed by, a library
//! that a program opens later is not copied, and with `cryptsetup-initramfs` installed by mistake a key file may come along. So the
//! finished initrd is unpacked in memory, as the kernel would unpack it ([`super::cpio`]), and looked at: files and
//! programs that must be there, modules, the libraries and the loader of every program, and whatever may never be there.
//! All findings come at once.
//!
//! Paths are followed through symbolic links: Debian's `/lib` is one to `usr/lib`, and so are most libraries' short names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use anyhow::{Context, Result, ensure};

use super::cpio::{self, Entry};
use super::{elf, modules};
use crate::secret::Secret;

/// How many symbolic links one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// A byte string shorter than this would be found by chance.
pub const MIN_SECRET: usize = 8;

/// Programs and scripts that every initramfs must hold.
pub const PROGRAMS: &[&str] = &["init", "usr/sbin/vaultberry-unlock", "scripts/local-top/vaultberry"];

/// Other files that every initramfs must hold: those that no program names as its need, and the configuration.
pub const FILES: &[&str] = &[
    "etc/vaultberry/unlock.toml",
    "usr/lib/aarch64-linux-gnu/libcryptsetup.so.12",
    "usr/lib/aarch64-linux-gnu/libudev.so.1",
    // argon2's threads load it when they end; no program says that it needs it
    "usr/lib/aarch64-linux-gnu/libgcc_s.so.1",
];

/// What may never be in an initramfs, with the reason: a path, a folder (with `/` behind) or an ending (with `*` before).
const FORBIDDEN: &[(&str, &str)] = &[
    ("*.key", "the stick alone holds keys"),
    ("*.pem", "private keys come in such files"),
    ("*/id_ed25519", "it is a private key"),
    ("etc/crypttab", "only vaultberry-unlock opens root"),
    ("etc/shadow", "it holds password hashes"),
    ("etc/ssh/", "the host's private keys lie there"),
    ("etc/dropbear/", "nothing listens before root is open"),
    ("cryptroot/", "cryptsetup-initramfs puts its crypttab and key files there"),
    ("scripts/local-top/cryptroot", "cryptsetup-initramfs would open root beside vaultberry-unlock"),
    ("scripts/local-block/cryptroot", "cryptsetup-initramfs would open root beside vaultberry-unlock"),
    ("usr/lib/cryptsetup/askpass", "cryptsetup-initramfs would ask for a passphrase beside vaultberry-unlock"),
];

/// Where the loader looks for libraries, beside what a program says itself.
const LIBRARIES: &[&str] = &["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib", "usr/lib"];

/// What an initramfs must hold, and what not. What may never be in any initramfs needs no mention.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Executable files, by their paths without a leading `/`.
    pub programs: Vec<String>,
    /// Files of any kind.
    pub files: Vec<String>,
    /// Module names, those that are built into the kernel left out.
    pub modules: BTreeSet<String>,
    /// Byte strings that may stand nowhere, of at least [`MIN_SECRET`] bytes, each with the name that a finding gives it.
    pub secrets: Vec<(String, Secret<Vec<u8>>)>,
}

/// Something about an initramfs that isn't as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A file isn't there, or is a symbolic link to what isn't.
    Absent(String),
    /// A program can't be run.
    NotExecutable(String),
    /// A module isn't there.
    Module(String),
    /// A file has no folder to lie in, so that the kernel drops it.
    NoFolder(String),
    /// A path that may not be there, with the reason.
    Forbidden(String, String),
    /// A secret, by its name, stands in this file.
    Secret(String, String),
    /// A program or library needs a library or a loader that isn't there.
    Needs(String, String),
    /// A program or library isn't for this CPU or is damaged, with the reason.
    Unusable(String, String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(path) => write!(f, "/{path} isn't in the initramfs"),
            Self::NotExecutable(path) => write!(f, "/{path} can't be executed"),
            Self::Module(name) => write!(f, "the module {name} isn't in the initramfs"),
            Self::NoFolder(path) => write!(f, "/{path} has no folder to lie in: the kernel will drop it"),
            Self::Forbidden(path, reason) => write!(f, "/{path} may not be in an initramfs: {reason}"),
            Self::Secret(path, name) => write!(f, "/{path} holds a secret: {name}"),
            Self::Needs(path, library) => write!(f, "/{path} needs {library}, which isn't in the initramfs"),
            Self::Unusable(path, reason) => write!(f, "/{path} can't be used: {reason}"),
        }
    }
}

/// An initramfs as the kernel will have it in memory.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
    dropped: Vec<String>,
}

impl Initramfs {
    /// Unpacks an initrd.
    ///
    /// # Errors
    /// It can't be read: see [`cpio::read`].
    pub fn read(initrd: &[u8]) -> Result<Self> {
        let mut initramfs = Self::default();
        for entry in cpio::read(initrd)? {
            if entry.path.is_empty() || entry.path == "." {
                continue;
            }
            let (folder, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
            let Some(folder) = initramfs.resolve(folder).filter(|folder| initramfs.is_folder(folder)) else {
                initramfs.dropped.push(entry.path);
                continue;
            };
            let path = join(&folder, name);
            initramfs.entries.insert(path, entry);
        }
        Ok(initramfs)
    }

    /// The names of the modules that lie in it.
    pub fn modules(&self) -> BTreeSet<String> {
        self.entries.keys().filter_map(|path| modules::name_of(path)).collect()
    }

    /// The file, folder or device at a path, past symbolic links.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(&self.resolve(path)?)
    }

    fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || self.entries.get(path).is_some_and(Entry::is_folder)
    }

    /// A path with all its symbolic links followed; none when there are too many, or no such folders. The last part needn't
    /// be there.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut left: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut found = String::new();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found.truncate(found.rfind('/').unwrap_or(0));
                    continue;
                }
                _ if !self.is_folder(&found) => return None,
                _ => {}
            }
            let next = join(&found, &part);
            let Some(link) = self.entries.get(&next).filter(|entry| entry.is_symlink()) else {
                found = next;
                continue;
            };
            links += 1;
            let target = std::str::from_utf8(&link.content).ok().filter(|_| links <= MAX_LINKS)?;
            if target.starts_with('/') {
                found.clear();
            }
            for part in target.split('/').rev() {
                left.push_front(part.to_owned());
            }
        }
        Some(found)
    }

    /// Compares the initramfs with what is expected of it.
    ///
    /// # Errors
    /// A secret to look for is shorter than [`MIN_SECRET`].
    pub fn inspect(&self, wanted: &Expectation) -> Result<Vec<Finding>> {
        let mut findings: Vec<Finding> = self.dropped.iter().cloned().map(Finding::NoFolder).collect();
        for path in &wanted.programs {
            match self.get(path) {
                None => findings.push(Finding::Absent(path.clone())),
                Some(entry) if !entry.is_file() || entry.mode & 0o111 == 0 => findings.push(Finding::NotExecutable(path.clone())),
                Some(_) => {}
            }
        }
        findings.extend(wanted.files.iter().filter(|path| self.get(path).is_none()).cloned().map(Finding::Absent));
        let present = self.modules();
        let absent = wanted.modules.iter().filter(|name| !present.contains(&modules::normal(name)));
        findings.extend(absent.cloned().map(Finding::Module));
        for path in self.entries.keys() {
            let rule = FORBIDDEN.iter().find(|(rule, _)| matches(rule, path));
            findings.extend(rule.map(|(_, reason)| Finding::Forbidden(path.clone(), (*reason).to_owned())));
        }
        for (name, secret) in &wanted.secrets {
            let secret = secret.expose();
            ensure!(
                secret.len() >= MIN_SECRET,
                "looking for {name} in the initramfs: {} bytes could be there by chance",
                secret.len()
            );
            let holders =
                self.entries.iter().filter(|(path, entry)| holds(path.as_bytes(), secret) || holds(&entry.content, secret));
            findings.extend(holders.map(|(path, _)| Finding::Secret(path.clone(), name.clone())));
        }
        for (path, entry) in self.entries.iter().filter(|(_, entry)| entry.is_file()) {
            match elf::read(&entry.content) {
                Ok(None) => {}
                Ok(Some(elf)) => findings.extend(self.lacks(path, &elf)),
                Err(error) => findings.push(Finding::Unusable(path.clone(), format!("{error:#}"))),
            }
        }
        Ok(findings)
    }

    /// What an ELF file needs and doesn't find.
    fn lacks(&self, path: &str, elf: &elf::Elf) -> Vec<Finding> {
        if elf.machine != elf::AARCH64 {
            return vec![Finding::Unusable(
                path.to_owned(),
                format!("it is for another CPU than arm64 (machine {})", elf.machine),
            )];
        }
        let origin = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let own = elf.search.iter().map(|folder| folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin));
        let folders: Vec<String> = own.chain(LIBRARIES.iter().map(|folder| (*folder).to_owned())).collect();
        let is_there = |path: &str| self.get(path).is_some_and(Entry::is_file);
        let libraries = elf.needed.iter().filter(|name| !folders.iter().any(|folder| is_there(&join(folder, name))));
        let loader = elf.interpreter.iter().filter(|loader| !is_there(loader));
        libraries.chain(loader).map(|needs| Finding::Needs(path.to_owned(), needs.clone())).collect()
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn matches(rule: &str, path: &str) -> bool {
    match rule.strip_prefix('*') {
        Some(ending) => path.ends_with(ending),
        None if rule.ends_with('/') => path.starts_with(rule),
        None => path == rule,
    }
}

fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == secret[0]) {
        if rest[at..].starts_with(secret) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Reads an initrd and compares it with what is expected of it: [`Initramfs::read`] and [`Initramfs::inspect`].
pub fn inspect(initrd: &[u8], wanted: &Expectation) -> Result<Vec<Finding>> {
    Initramfs::read(initrd)?.inspect(wanted).context("inspecting the initrd")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Expectation, Initramfs, inspect};
    use crate::kernel::cpio::{Entry, append, write};
    use crate::kernel::elf::tests::program;
    use crate::secret::Secret;

    const LOADER: &str = "/lib/ld-linux-aarch64.so.1";

    fn sample() -> Vec<Entry> {
        vec![
            Entry::folder("usr", 0o755, 0),
            Entry::folder("usr/lib", 0o755, 0),
            Entry::symlink("lib", "usr/lib", 0),
            Entry::folder("usr/lib/aarch64-linux-gnu", 0o755, 0),
            Entry::file("usr/lib/ld-linux-aarch64.so.1", 0o755, 0, b"#"),
            Entry::file("usr/lib/aarch64-linux-gnu/libc.so.6.1", 0o644, 0, b"#"),
            Entry::symlink("usr/lib/aarch64-linux-gnu/libc.so.6", "libc.so.6.1", 0),
            Entry::folder("usr/lib/modules", 0o755, 0),
            Entry::file("usr/lib/modules/usb-storage.ko.xz", 0o644, 0, b"#"),
            Entry::file("init", 0o755, 0, &program(LOADER, &["libc.so.6"])),
            Entry::folder("etc", 0o755, 0),
        ]
    }

    fn wanted() -> Expectation {
        Expectation {
            programs: vec!["init".to_owned()],
            files: vec!["lib/aarch64-linux-gnu/libc.so.6".to_owned()],
            modules: BTreeSet::from(["usb_storage".to_owned()]),
            secrets: vec![("the volume key".to_owned(), Secret::new(b"0123456789abcdef".to_vec()))],
        }
    }

    fn found(entries: &[Entry]) -> Vec<String> {
        inspect(&write(entries).unwrap(), &wanted()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_initramfs_has_no_findings() {
        assert_eq!(found(&sample()), Vec::<String>::new());
        let initramfs = Initramfs::read(&write(&sample()).unwrap()).unwrap();
        assert_eq!(initramfs.modules(), BTreeSet::from(["usb_storage".to_owned()]));
        assert_eq!(initramfs.get("/lib/aarch64-linux-gnu/libc.so.6").unwrap().content, b"#");
    }

    #[test]
    fn all_that_lacks_is_named() {
        let without: Vec<_> = sample().into_iter().filter(|entry| !entry.path.contains("libc.so.6.1")).collect();
        let lost =
            ["/lib/aarch64-linux-gnu/libc.so.6 isn't in the initramfs", "/init needs libc.so.6, which isn't in the initramfs"];
        assert_eq!(found(&without), lost);
        let without: Vec<_> = sample().into_iter().filter(|entry| !entry.path.contains("ld-linux")).collect();
        assert_eq!(found(&without), ["/init needs /lib/ld-linux-aarch64.so.1, which isn't in the initramfs"]);
        let without: Vec<_> = sample().into_iter().filter(|entry| entry.path != "init" && !entry.path.contains("usb")).collect();
        assert_eq!(found(&without), ["/init isn't in the initramfs", "the module usb_storage isn't in the initramfs"]);
    }

    #[test]
    fn programs_must_run_on_the_board() {
        let mut entries = sample();
        let init = entries.iter_mut().find(|entry| entry.path == "init").unwrap();
        init.mode = 0o100_644;
        init.content[18] = 62;
        let wanted = ["/init can't be executed", "/init can't be used: it is for another CPU than arm64 (machine 62)"];
        assert_eq!(found(&entries), wanted);
    }

    #[test]
    fn keys_are_found_by_name_and_by_content() {
        let mut entries = sample();
        entries.push(Entry::file("etc/disk.key", 0o600, 0, b"x"));
        entries.push(Entry::file("etc/crypttab", 0o600, 0, b"x"));
        entries.push(Entry::file("etc/notes", 0o600, 0, b"00123456789abcdef\n"));
        let wanted = [
            "/etc/crypttab may not be in an initramfs: only vaultberry-unlock opens root",
            "/etc/disk.key may not be in an initramfs: the stick alone holds keys",
            "/etc/notes holds a secret: the volume key",
        ];
        assert_eq!(found(&entries), wanted);
        let short =
            Expectation { secrets: vec![("the pin".to_owned(), Secret::new(b"1234567".to_vec()))], ..Expectation::default() };
        let error = inspect(&write(&entries).unwrap(), &short).unwrap_err();
        let wanted = "inspecting the initrd: looking for the pin in the initramfs: 7 bytes could be there by chance";
        assert_eq!(format!("{error:#}"), wanted);
    }

    #[test]
    fn a_file_without_a_folder_is_named() {
        let mut initrd = write(&sample()).unwrap();
        append(&mut initrd, &[Entry::folder("opt", 0o755, 0), Entry::file("opt/unlock.toml", 0o644, 0, b"")]).unwrap();
        let at = initrd.windows(4).rposition(|window| window == b"opt\0").unwrap();
        initrd[at..at + 3].copy_from_slice(b"tmp");
        let findings: Vec<_> = inspect(&initrd, &wanted()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(findings, ["/opt/unlock.toml has no folder to lie in: the kernel will drop it"]);
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let entries = [Entry::symlink("a", "b", 0), Entry::symlink("b", "/a", 0), Entry::symlink("c", "../c", 0)];
        let initramfs = Initramfs::read(&write(&entries).unwrap()).unwrap();
        assert!(initramfs.get("a").is_none() && initramfs.get("c").is_none() && initramfs.get("a/x").is_none());
    }
}
