//! Debian packages: which an image and its tools are made of, and their files.
//!
//! The mirror is asked once. What it says becomes a [`Lock`], and the packages' files an archive in the cache, named after
//! exactly these packages: a folder that apt(8) can install from, with no mirror. So what is built later is the same, network
//! or none.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use tar::{Builder, EntryType, Header};

use super::cache::{Cache, CacheKey, Kind};
use super::lock::{Lock, Package, Packages, digest};
use super::workshop::{ROOM, Workshop, refuse_full_disk};
use super::{base, tools};
use crate::config::Config;
use crate::digest::{hex, sha256_of};
use crate::process;

const FETCH: &str = include_str!("../../image/stages/fetch.sh");

/// The folder in an archive of packages, and for a while in the tree that is made of them.
pub const FOLDER: &str = "vaultberry-packages";
/// What the mirror says of each package, one paragraph each (deb-control(5)).
const INDEX: &str = "index";
/// The same in an archive, as apt wants it.
pub(super) const PACKED_INDEX: &str = "Packages";
/// What apt reads first, with the sum of that.
pub(super) const RELEASE: &str = "Release";
/// Where that begins in it.
const SUMS: &str = "SHA256:\n";
/// Backports come from where the release itself does.
const BACKPORTS: &str = "sed -n \"s/^\\(deb .*\\) $suite \\(.*\\)/\\1 $suite-backports \\2/p\" \"$1/etc/apt/sources.list\" \
    >\"$1/etc/apt/sources.list.d/backports.list\"";
/// Where apt is to look for packages, as mmdebstrap had it.
const SOURCES: &str = "sources.tar";

/// What is fetched together.
#[derive(Clone, Debug)]
pub struct Set {
    /// The Debian release.
    pub suite: String,
    /// The mirror; none for mmdebstrap's own choice.
    pub mirror: Option<String>,
    /// The proxy on the way there.
    pub proxy: Option<String>,
    /// Debian's name for the CPU.
    pub architecture: String,
    /// Debian's components, separated by commas.
    pub components: &'static str,
    /// Packages, or patterns (apt-patterns(7)).
    pub packages: Vec<String>,
    /// Of these, names of packages that come from the release's backports, with what they need from there.
    pub backports: &'static [&'static str],
    /// What they are added to; none for nothing at all.
    pub upon: Option<Upon>,
}

/// Packages that are installed already.
#[derive(Clone, Debug)]
pub struct Upon {
    /// What they were fetched as.
    pub set: Box<Set>,
    /// What that came to.
    pub locked: Packages,
}

/// Where packages come from and how far to go for them.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// Where they are kept.
    pub cache: &'a Cache,
    /// Whether no mirror may be asked.
    pub offline: bool,
}

impl Store<'_> {
    /// The lock for an image of today, or of the last time that it was asked for; `refresh` asks the mirror again. A lock
    /// whose packages are still those of today stays as it is.
    ///
    /// # Errors
    /// The mirror can't be reached, or has no such package.
    pub fn lock(&self, config: &Config, refresh: bool) -> Result<PathBuf> {
        let tools = tools::set(&config.image)?;
        let base = base::set(config);
        let base_lock = || self.lock_of(&base, &tools, refresh, || self.resolve_whole(&base, &tools));
        if base::added(config).is_empty() {
            return base_lock();
        }
        let whole = base::whole_set(config);
        self.lock_of(&whole, &tools, refresh, || {
            let lock = Lock::read(&base_lock()?)?;
            let added = self.resolve(&base::added_set(config, &lock));
            match added {
                Ok(added) if !added.is_empty() && added.keys().all(|name| !lock.packages.contains_key(name)) => {
                    Ok(Lock { added, ..lock })
                }
                // It may be in the base already, want something of it replaced, or not exist.
                other => {
                    let why = other.err().map_or_else(String::new, |error| format!(": {error:#}"));
                    tracing::info!("what the config adds can't be put upon the base tree{why}");
                    self.resolve_whole(&whole, &tools)
                }
            }
        })
    }

    fn resolve_whole(&self, set: &Set, tools: &Set) -> Result<Lock> {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let (packages, tools) = (self.resolve(set)?, self.resolve(tools)?);
        Ok(Lock { suite: set.suite.clone(), epoch, packages, added: Packages::new(), tools })
    }

    /// The lock for a set in the cache.
    fn lock_of(&self, set: &Set, tools: &Set, refresh: bool, make: impl FnOnce() -> Result<Lock>) -> Result<PathBuf> {
        let key = lock_key(set, tools);
        self.cache.entry(Kind::Lock, &key, refresh, |part| {
            let lock = make()?;
            let before = Lock::read(&self.cache.path(Kind::Lock, &key)).ok();
            let is_same = |before: &Lock| Lock { epoch: before.epoch, ..lock.clone() } == *before;
            before.filter(is_same).unwrap_or(lock).write(part)
        })
    }

    /// The archive of exactly these packages, of a lock.
    ///
    /// # Errors
    /// The mirror has others by now: names them.
    pub fn archive(&self, set: &Set, locked: &Packages) -> Result<PathBuf> {
        let path = self.cache.path(Kind::Packages, &set.archive_key(locked));
        if !path.exists() {
            self.require_online(&format!("{} packages for {}", locked.len(), set.architecture))?;
            self.fetch(set, Some(locked))?;
        }
        Ok(path)
    }

    /// What a set comes to today, with the packages' files in the cache.
    ///
    /// # Errors
    /// The mirror can't be reached, or has no such package.
    pub fn resolve(&self, set: &Set) -> Result<Packages> {
        self.require_online(&format!("the list of packages of {} for {}", set.suite, set.architecture))?;
        self.fetch(set, None)
    }

    /// Fetches a set, into the cache; the packages must be those of the lock, if there is one.
    fn fetch(&self, set: &Set, locked: Option<&Packages>) -> Result<Packages> {
        tracing::info!("fetching packages of {} for {}", set.suite, set.architecture);
        let folder = Workshop::open(self.cache.folder(), ROOM)?;
        refuse_full_disk(self.cache.folder(), ROOM)?;
        let installed = set.upon.as_ref().map(|upon| self.status(upon, folder.path())).transpose()?;
        let packages = set.fetch_to(folder.path(), installed.as_deref())?;
        if let Some(locked) = locked {
            Lock::require(locked, &packages)?;
        }
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
        self.cache.entry(Kind::Packages, &set.archive_key(&packages), false, |part| pack(folder.path(), set, &date, part))?;
        Ok(packages)
    }

    /// Writes what dpkg would say if these packages were installed, below `folder`.
    fn status(&self, upon: &Upon, folder: &Path) -> Result<PathBuf> {
        let archive = self.archive(&upon.set, &upon.locked)?;
        let index = read_packed_index(&archive).with_context(|| format!("reading {}", archive.display()))?;
        let installed = |paragraph: &str| format!("{paragraph}\nStatus: install ok installed\n\n");
        let path = folder.join("status");
        let text: String = paragraphs(&index).map(installed).collect();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Whether the cache has the files of these packages.
    pub fn has(&self, set: &Set, locked: &Packages) -> bool {
        self.cache.path(Kind::Packages, &set.archive_key(locked)).exists()
    }

    fn require_online(&self, what: &str) -> Result<()> {
        ensure!(!self.offline, "the cache doesn't have {what}\nhint: build once without --offline");
        Ok(())
    }
}

fn lock_key(appliance: &Set, tools: &Set) -> String {
    appliance.with(tools.with(CacheKey::default())).digest()
}

/// The lock for an image, where the cache has it.
pub fn cached_lock(config: &Config, cache: &Cache) -> Option<Lock> {
    let key = lock_key(&base::whole_set(config), &tools::set(&config.image).ok()?);
    Lock::read(&cache.path(Kind::Lock, &key)).ok()
}

impl Set {
    /// Adds what decides what is fetched, but for the mirror's state of the day.
    fn with(&self, key: CacheKey) -> CacheKey {
        // Not the proxy: it leads to the same.
        let Self { suite, mirror, proxy: _, architecture, components, packages: _, backports: _, upon } = self;
        key.with("suite", suite.as_bytes())
            .with("mirror", mirror.as_deref().unwrap_or_default().as_bytes())
            .with("architecture", architecture.as_bytes())
            .with("components", components.as_bytes())
            .with("packages", self.wanted().join(" ").as_bytes())
            .with("upon", upon.as_ref().map_or_else(String::new, |upon| digest(&upon.locked)).as_bytes())
            .with("fetch", [FETCH, BACKPORTS].concat().as_bytes())
    }

    /// Names the archive of exactly these packages. Where they came from is in it, too.
    fn archive_key(&self, locked: &Packages) -> String {
        self.with(CacheKey::default()).with("files", digest(locked).as_bytes()).digest()
    }

    /// Fetches it into a folder: each package as its sum says, an index of them, and where they come from.
    ///
    /// `installed` is a file with what dpkg says of what is there already.
    fn fetch_to(&self, folder: &Path, installed: Option<&Path>) -> Result<Packages> {
        let mut command = process::tied("mmdebstrap");
        command.env("packages", self.wanted().join(" ")).env("LC_ALL", "C.UTF-8");
        command.args(["--quiet", "--format=null", "--variant=custom"]);
        command.arg(format!("--architectures={}", self.architecture)).arg(format!("--components={}", self.components));
        for (scheme, proxy) in
            ["http", "https"].into_iter().flat_map(|scheme| self.proxy.iter().map(move |proxy| (scheme, proxy)))
        {
            command.arg(format!("--aptopt=Acquire::{scheme}::Proxy \"{proxy}\""));
        }
        if !self.backports.is_empty() {
            command.arg(format!("--setup-hook={BACKPORTS}")).env("suite", &self.suite);
        }
        if let Some(installed) = installed {
            command.arg(format!("--setup-hook=upload {} /var/lib/dpkg/status", quoted(installed)?));
        }
        // A tree of no packages at all.
        command.arg("--skip=cleanup/reproducible,check/qemu");
        // In the environment: of a hook that fails, mmdebstrap tells all of the text.
        command.env("fetch", FETCH).arg("--customize-hook=sh -c \"$fetch\" fetch.sh \"$1\"");
        command.arg(format!("--customize-hook=sync-out /{FOLDER} {}", quoted(folder)?));
        command.arg(&self.suite).arg("/dev/null").args(&self.mirror);
        process::run(&mut command, "fetching packages").map_err(|error| error.context(self.hint()))?;
        let path = folder.join(INDEX);
        let index = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let packages = read_index(&index)?;
        for (name, package) in &packages {
            let file = folder.join(file_name(name, package));
            let sum = sha256_of(&file)?;
            ensure!(sum == package.sha256, "{} isn't what the mirror says it is\nhint: try again", file.display());
        }
        Ok(packages)
    }

    /// The packages as apt-get takes them.
    fn wanted(&self) -> Vec<String> {
        let from = |package: &String| {
            if self.backports.contains(&package.as_str()) {
                format!("{package}/{}-backports", self.suite)
            } else {
                package.clone()
            }
        };
        self.packages.iter().map(from).collect()
    }

    fn hint(&self) -> String {
        let mirror = self.mirror.as_deref().unwrap_or("the default mirror");
        format!(
            "fetching from {mirror}, suite {}, failed\nhint: is the mirror reachable, and do all packages exist there?",
            self.suite
        )
    }
}

/// Makes an archive that apt can install from.
fn pack(folder: &Path, set: &Set, date: &str, part: &Path) -> Result<()> {
    let packing = || format!("packing what was fetched into {}", part.display());
    let index = fs::read_to_string(folder.join(INDEX)).with_context(packing)?;
    let packages = read_index(&index)?;
    let mut archive = Builder::new(File::create(part).with_context(packing)?);
    let mut local = String::new();
    for paragraph in paragraphs(&index) {
        let (_, package) = read_paragraph(paragraph)?;
        // The name of the file has no sign in it that apt would take for something else.
        let lines = paragraph.lines().filter(|line| !line.starts_with("Filename:"));
        lines.for_each(|line| local.extend([line, "\n"]));
        local.extend(["Filename: ./", &package.sha256, ".deb\n\n"]);
    }
    let about = format!("Suite: {0}\nCodename: {0}\nDate: {date}\nArchitectures: {1}\n", set.suite, set.architecture);
    let release = release(&about, local.as_bytes());
    let sources = fs::read(folder.join(SOURCES)).with_context(packing)?;
    for (name, content) in [(PACKED_INDEX, local.as_bytes()), (RELEASE, release.as_bytes()), (SOURCES, &sources)] {
        let mut header = header(content.len() as u64);
        archive.append_data(&mut header, format!("{FOLDER}/{name}"), content).with_context(packing)?;
    }
    for (name, package) in &packages {
        let file = File::open(folder.join(file_name(name, package))).with_context(packing)?;
        let mut header = header(file.metadata().with_context(packing)?.len());
        archive.append_data(&mut header, format!("{FOLDER}/{}.deb", package.sha256), file).with_context(packing)?;
    }
    archive.finish().with_context(packing)
}

/// What apt reads of an archive with this index: `about`, or what another index' was read as, and the sum.
pub(super) fn release(about: &str, index: &[u8]) -> String {
    let about = about.split(SUMS).next().unwrap_or_default();
    format!("{about}{SUMS} {} {} {PACKED_INDEX}\n", hex(&openssl::sha::sha256(index)), index.len())
}

/// Of a file in an archive.
pub(super) fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The index in an archive of packages.
fn read_packed_index(archive: &Path) -> Result<String> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    let mut index = String::new();
    // It is the first one.
    let mut entry = archive.entries()?.next().context("it is empty")??;
    ensure!(entry.path()?.ends_with(PACKED_INDEX), "its index isn't where it should be");
    entry.read_to_string(&mut index)?;
    Ok(index)
}

/// As apt names a package's file in its cache.
fn file_name(name: &str, package: &Package) -> String {
    format!("{name}_{}_{}.deb", package.version.replace(':', "%3a"), package.architecture)
}

fn read_index(index: &str) -> Result<Packages> {
    let mut packages = Packages::new();
    for paragraph in paragraphs(index) {
        let (name, package) = read_paragraph(paragraph)?;
        if packages.insert(name.clone(), package).is_some() {
            bail!("the mirror has {name} twice");
        }
    }
    Ok(packages)
}

pub(super) fn paragraphs(index: &str) -> impl Iterator<Item = &str> {
    index.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty())
}

fn read_paragraph(paragraph: &str) -> Result<(String, Package)> {
    let field = |name: &str| -> Result<String> {
        let lines = paragraph.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = lines.map(str::trim).next();
        value.map(str::to_owned).with_context(|| format!("the mirror says no {name} of a package:\n{paragraph}"))
    };
    let package = Package { version: field("Version")?, architecture: field("Architecture")?, sha256: field("SHA256")? };
    Ok((field("Package")?, package))
}

/// A path as mmdebstrap's own hooks take it: as a word of the shell.
pub(super) fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{file_name, quoted, read_index};

    #[test]
    fn an_index_is_read_and_what_it_lacks_is_told() {
        let index = "Package: login\nArchitecture: arm64\nVersion: 1:4.16.0-2+b1\nDepends: libc6,\n libpam0g\nSHA256: 00ff\n\n\
            Package: tzdata\nVersion: 2026a-0+deb13u1\nArchitecture: all\nSHA256: 11ee\nDescription-md5: 0\n\n";
        let packages = read_index(index).unwrap();
        assert_eq!(packages.keys().collect::<Vec<_>>(), ["login", "tzdata"]);
        assert_eq!(file_name("login", &packages["login"]), "login_1%3a4.16.0-2+b1_arm64.deb");
        assert_eq!(packages["tzdata"].architecture, "all");
        let twice = read_index(&index.replace("tzdata", "login")).unwrap_err().to_string();
        assert_eq!(twice, "the mirror has login twice");
        let without = read_index(&index.replace("SHA256: 11ee\n", "")).unwrap_err().to_string();
        assert!(without.starts_with("the mirror says no SHA256 of a package:\nPackage: tzdata\n"), "{without}");
        assert!(read_index("").unwrap().is_empty());
    }

    #[test]
    fn a_path_is_one_word_of_a_hook() {
        assert_eq!(quoted(Path::new("/a b/it's")).unwrap(), "'/a b/it'\\''s'");
    }
}
