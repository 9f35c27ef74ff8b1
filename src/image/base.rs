//! The base: the Debian tree that everything else is laid over, made by mmdebstrap for arm64 and cached.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cache::{Cache, CacheKey, Kind};
use super::lock::{Lock, digest};
use super::packages::{Set, Store, quoted};
use super::tools;
use crate::config::Image;
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
const OWN_SOURCES: &str = "rm \"$1/etc/apt/sources.list\" && \
    tar -xf \"$1/vaultberry-packages/sources.tar\" -C \"$1/etc/apt\" && rm -r \"$1/vaultberry-packages\"";

/// What an appliance's tree is made of: what Debian calls essential or required, what every appliance needs, and what its
/// config asks for.
pub fn set(image: &Image) -> Set {
    let own = packages(image).into_iter();
    Set {
        suite: image.suite.clone(),
        mirror: image.mirror.clone(),
        proxy: image.proxy.clone(),
        architecture: String::from(ARCHITECTURE),
        components: COMPONENTS,
        packages: ["?essential", "?priority(required)", "apt"].into_iter().chain(own).map(str::to_owned).collect(),
    }
}

/// Gives the base tree's archive, made when the cache has none.
pub fn ensure(image: &Image, store: &Store, lock: &Lock) -> Result<PathBuf> {
    store.cache.entry(Kind::Base, &key(image, lock), false, |part| {
        let archive = store.archive(&set(image), &lock.packages)?;
        make(
            &Tree { suite: &image.suite, architecture: ARCHITECTURE, packages: &packages(image), epoch: lock.epoch },
            &archive,
            part,
        )
    })
}

/// Whether the cache has all that a build from this lock takes: the trees, or the packages that they are made of.
pub fn is_served(image: &Image, store: &Store, lock: &Lock) -> bool {
    let has_tools = || tools::set(image).is_ok_and(|set| store.has(&set, &lock.tools));
    (is_cached(image, store.cache, lock) || store.has(&set(image), &lock.packages))
        && (tools::is_cached(store.cache, &lock.tools) || has_tools())
}

/// Whether the cache has the base tree.
pub fn is_cached(image: &Image, cache: &Cache, lock: &Lock) -> bool {
    cache.path(Kind::Base, &key(image, lock)).exists()
}

/// The cache key: everything that decides what mmdebstrap makes.
fn key(image: &Image, lock: &Lock) -> String {
    CacheKey::default()
        .with("suite", image.suite.as_bytes())
        .with("asked for", packages(image).join(",").as_bytes())
        .with("packages", digest(&lock.packages).as_bytes())
        .with("epoch", &lock.epoch.to_le_bytes())
        // What apt on the appliance goes to.
        .with("mirror", image.mirror.as_deref().unwrap_or_default().as_bytes())
        .with("recipe", [KEPT, NO_INITRAMFS, NO_HOST_KEYS, LIST_PACKAGES, LOCAL_SOURCES, OWN_SOURCES].join("\n").as_bytes())
        .with("excluded", EXCLUDED.join("\n").as_bytes())
        .digest()
}

/// Every package asked for, without their dependencies.
pub fn packages(image: &Image) -> Vec<&str> {
    let own = PACKAGES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    own.chain(image.packages.iter().map(String::as_str)).collect()
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
}

/// Makes a tree, as a tar archive, of an archive of packages.
pub fn make(tree: &Tree, archive: &Path, part: &Path) -> Result<()> {
    tracing::info!("making the base tree of {}: this takes about ten minutes, once", tree.suite);
    let mut command = process::tool("mmdebstrap");
    // An ordinary user's path lacks the system's programs; INITRD stops the kernel package's own update-initramfs.
    command.env("INITRD", "No").env("LC_ALL", "C.UTF-8").env("SOURCE_DATE_EPOCH", tree.epoch.to_string());
    command.args(["--quiet", "--format=tar", "--variant=minbase"]);
    command.arg(format!("--architectures={}", tree.architecture)).arg(format!("--include={}", tree.packages.join(",")));
    for option in EXCLUDED.into_iter().chain([KEPT, "force-unsafe-io", "force-confold"]) {
        command.arg(format!("--dpkgopt={option}"));
    }
    command.arg(format!("--setup-hook=tar-in {} /", quoted(archive)?));
    for hook in [LOCAL_SOURCES, NO_INITRAMFS] {
        command.arg(format!("--setup-hook={hook}"));
    }
    for hook in [NO_HOST_KEYS, LIST_PACKAGES, OWN_SOURCES] {
        command.arg(format!("--customize-hook={hook}"));
    }
    process::run(command.arg(tree.suite).arg(part), "making the base tree")
}
