//! The base: the Debian tree that everything else is laid over, made by mmdebstrap for arm64 and cached.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache::{Cache, CacheKey, Kind};
use super::lock::{Lock, Packages, digest};
use super::packages::{Set, Store, Upon, quoted};
use super::repack::repack;
use super::workshop::{ROOM, Workshop, refuse_full_disk};
use super::{region, tools};
use crate::config::Config;
use crate::process;

/// Debian's name for the boards' CPU.
const ARCHITECTURE: &str = "arm64";

/// The packages that every appliance needs.
const PACKAGES: &str = include_str!("../../image/packages");
/// `non-free-firmware` holds the boards' boot firmware.
const COMPONENTS: &str = "main,non-free-firmware";
/// What a headless appliance never reads; copyright notices stay. udev's database of hardware has names for people.
const EXCLUDED: [&str; 5] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/lib/udev/hwdb.d/*",
];
const KEPT: &str = "path-include=/usr/share/doc/*/copyright";
/// Laid down before the packages: one run of update-initramfs at the end of the build serves instead of one for each
/// package that asks. Host keys made by openssh-server's installation must not be shared.
const NO_INITRAMFS: &str =
    "mkdir -p \"$1/etc/initramfs-tools\" && echo update_initramfs=no >\"$1/etc/initramfs-tools/update-initramfs.conf\"";
const NO_HOST_KEYS: &str = "rm -f \"$1\"/etc/ssh/ssh_host_*";
/// Beside the tree's own list of packages, in the form of the manifest: name, version, architecture.
const LIST_PACKAGES: &str =
    "chroot \"$1\" dpkg-query -W -f='${Package}\\t${Version}\\t${Architecture}\\n' >\"$1/usr/share/vaultberry-packages\"";
/// Packages come from an archive that was laid into the tree, and afterwards from where they came from.
const LOCAL_SOURCES: &str = "rm -rf \"$1\"/etc/apt/sources.list \"$1\"/etc/apt/sources.list.d/* && \
    echo \"deb [trusted=yes] copy:$1/vaultberry-packages ./\" >\"$1/etc/apt/sources.list\"";
/// What packages would ask that come next.
const ANSWER: &str = "printf %s \"$answers\" | chroot \"$1\" debconf-set-selections";
/// An ordinary user could not lay them down again; the host's own serve each chroot.
const NO_DEVICES: &str = "--skip=output/dev";
/// apt in the tree sees the archive at another path than apt outside.
const ADD: &str = "echo \"deb [trusted=yes] copy:/vaultberry-packages ./\" >\"$1/etc/apt/sources.list\" && \
    chroot \"$1\" apt-get --quiet=2 update && \
    chroot \"$1\" env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2 --no-install-recommends --no-remove install $packages >&2";
const OWN_SOURCES: &str = "rm \"$1/etc/apt/sources.list\" && \
    tar -xf \"$1/vaultberry-packages/sources.tar\" -C \"$1/etc/apt\" && rm -r \"$1/vaultberry-packages\"";

/// What every appliance's tree is made of, for the boards of this one: what Debian calls essential or required, and what the
/// backup needs.
pub fn set(config: &Config) -> Set {
    let image = &config.image;
    Set {
        suite: image.suite.clone(),
        mirror: image.mirror.clone(),
        proxy: image.proxy.clone(),
        architecture: String::from(ARCHITECTURE),
        components: COMPONENTS,
        packages: ["?essential", "?priority(required)", "apt"].into_iter().chain(own()).map(str::to_owned).collect(),
        backports: if image.board.needs_backports() { &["linux-image-arm64"] } else { &[] },
        upon: None,
    }
}

/// The same with what the config adds, fetched as one.
pub fn whole_set(config: &Config) -> Set {
    let mut set = set(config);
    set.packages.extend(added(config).into_iter().map(str::to_owned));
    set
}

/// What the config adds to the packages of a lock.
pub fn added_set(config: &Config, lock: &Lock) -> Set {
    let base = set(config);
    Set {
        packages: added(config).into_iter().map(str::to_owned).collect(),
        upon: Some(Upon { locked: lock.packages.clone(), set: Box::new(base.clone()) }),
        ..base
    }
}

/// One step towards a tree: packages that are installed together.
struct Step<'a> {
    kind: Kind,
    set: Set,
    locked: &'a Packages,
    asked: Vec<&'a str>,
    answers: String,
    key: String,
}

/// The steps to the tree of a lock. What the config adds is put upon the tree that all appliances share, where the lock says that
/// it can be: that takes a minute, and a tree ten.
fn steps<'a>(config: &'a Config, lock: &'a Lock) -> Vec<Step<'a>> {
    let step = |kind, set: Set, locked, asked: Vec<&'a str>, upon: &str| {
        // A tree that others share has no package that would ask.
        let answers = if asked.contains(&"locales") { region::answers(config) } else { String::new() };
        let key = key(&set, lock, &[&digest(locked), &asked.join(","), upon, &answers]);
        Step { kind, set, locked, asked, answers, key }
    };
    if lock.added.is_empty() {
        return vec![step(Kind::Base, whole_set(config), &lock.packages, packages(config), "")];
    }
    let first = step(Kind::Base, set(config), &lock.packages, own().collect(), "");
    let second = step(Kind::Added, added_set(config, lock), &lock.added, added(config), &first.key);
    vec![first, second]
}

/// Gives the tree's archive, made when the cache has none.
pub fn ensure(config: &Config, store: &Store, lock: &Lock) -> Result<PathBuf> {
    put(&steps(config, lock), store, lock)
}

/// The tree of the last of these steps; those before it are taken only where that isn't there.
fn put(steps: &[Step], store: &Store, lock: &Lock) -> Result<PathBuf> {
    let (Step { kind, set, locked, asked, answers, key }, before) = steps.split_last().context("a tree has packages")?;
    store.cache.entry(*kind, key, false, |part| {
        let upon = if before.is_empty() { None } else { Some(put(before, store, lock)?) };
        let work = Workshop::open(store.cache.folder(), ROOM)?;
        refuse_full_disk(store.cache.folder(), ROOM)?;
        let archive = repack(&store.archive(set, locked)?, work.path())?;
        let (suite, upon, epoch) = (&set.suite, upon.as_deref(), lock.epoch);
        make(&Tree { suite, architecture: ARCHITECTURE, packages: asked, epoch, upon, answers }, &archive, part)
    })
}

/// Whether the cache has all that a build from this lock takes: the trees, or the packages that they are made of.
pub fn is_served(config: &Config, store: &Store, lock: &Lock) -> bool {
    let has_tools = || tools::set(&config.image).is_ok_and(|set| store.has(&set, &lock.tools));
    let has = |step: &Step| store.has(&step.set, step.locked);
    (is_cached(config, store.cache, lock) || steps(config, lock).iter().all(has))
        && (tools::is_cached(store.cache, &lock.tools) || has_tools())
}

/// Whether the cache has the tree.
pub fn is_cached(config: &Config, cache: &Cache, lock: &Lock) -> bool {
    steps(config, lock).last().is_some_and(|step| cache.path(step.kind, &step.key).exists())
}

/// The cache key: everything that decides what mmdebstrap makes. `particulars` are the step's own.
fn key(set: &Set, lock: &Lock, particulars: &[&str]) -> String {
    let recipe = [KEPT, NO_DEVICES, NO_INITRAMFS, NO_HOST_KEYS, LIST_PACKAGES, LOCAL_SOURCES, OWN_SOURCES, ANSWER, ADD];
    let key = CacheKey::default()
        .with("suite", set.suite.as_bytes())
        .with("epoch", &lock.epoch.to_le_bytes())
        // What apt on the appliance goes to.
        .with("mirror", set.mirror.as_deref().unwrap_or_default().as_bytes())
        .with("backports", set.backports.join(",").as_bytes())
        .with("recipe", recipe.join("\n").as_bytes())
        .with("excluded", EXCLUDED.join("\n").as_bytes());
    particulars.iter().fold(key, |key, particular| key.with("particular", particular.as_bytes())).digest()
}

/// What every appliance asks for.
fn own<'a>() -> impl Iterator<Item = &'a str> {
    PACKAGES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What the config asks for beside that.
pub fn added(config: &Config) -> Vec<&str> {
    config.image.packages.iter().map(String::as_str).collect()
}

/// Every package asked for, without their dependencies.
pub fn packages(config: &Config) -> Vec<&str> {
    own().chain(added(config)).collect()
}

/// A Debian tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// The release.
    pub suite: &'a str,
    /// Debian's name for the CPU.
    pub architecture: &'a str,
    /// The packages beside those that Debian requires.
    pub packages: &'a [&'a str],
    /// The time of its youngest file, in seconds since 1970.
    pub epoch: u64,
    /// The tree that they are put upon; none makes one of nothing.
    pub upon: Option<&'a Path>,
    /// What packages would ask (debconf-set-selections(1)); empty for what they take by themselves.
    pub answers: &'a str,
}

/// Makes a tree, as a tar archive, of an archive of packages.
pub fn make(tree: &Tree, archive: &Path, part: &Path) -> Result<()> {
    let mut command = process::tied("mmdebstrap");
    // An ordinary user's path lacks the system's programs; INITRD stops the kernel package's own update-initramfs.
    command.env("INITRD", "No").env("LC_ALL", "C.UTF-8").env("SOURCE_DATE_EPOCH", tree.epoch.to_string());
    command.args(["--format=tar", NO_DEVICES]);
    command.arg(format!("--architectures={}", tree.architecture));
    for option in EXCLUDED.into_iter().chain([KEPT, "force-unsafe-io", "force-confold"]) {
        command.arg(format!("--dpkgopt={option}"));
    }
    if let Some(upon) = tree.upon {
        tracing::info!("adding {} to the base tree", tree.packages.join(", "));
        command.args(["--variant=custom", "--skip=update"]).arg(format!("--setup-hook=tar-in {} /", quoted(upon)?));
        command.env("packages", tree.packages.join(" "));
    } else {
        tracing::info!("making the base tree of {}: this takes about ten minutes, once", tree.suite);
        command.arg("--variant=minbase").arg(format!("--include={}", tree.packages.join(",")));
    }
    command.arg(format!("--setup-hook=tar-in {} /", quoted(archive)?));
    if !tree.answers.is_empty() {
        // Before anything that would ask is installed.
        let hook = if tree.upon.is_some() { "--customize-hook" } else { "--essential-hook" };
        command.env("answers", tree.answers).arg(format!("{hook}={ANSWER}"));
    }
    for hook in [LOCAL_SOURCES, NO_INITRAMFS] {
        command.arg(format!("--setup-hook={hook}"));
    }
    for hook in tree.upon.map(|_| ADD).into_iter().chain([NO_HOST_KEYS, LIST_PACKAGES, OWN_SOURCES]) {
        command.arg(format!("--customize-hook={hook}"));
    }
    process::run(command.arg(tree.suite).arg(part), "making the base tree")
}
