//! The base: the Debian tree that everything else is laid over, made by mmdebstrap for arm64 and cached.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::cache::{Cache, CacheKey};
use crate::config::Image;
use crate::process;

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

/// Gives the base tree's archive, made when the cache has none. `refresh` makes it anew, with today's packages.
pub fn ensure(image: &Image, cache: &Cache, refresh: bool) -> Result<PathBuf> {
    cache.entry("base", &key(image), refresh, |part| make(image, part))
}

/// The cache key: everything that decides what mmdebstrap makes, but for the mirror's state of the day.
pub fn key(image: &Image) -> String {
    CacheKey::default()
        .with("suite", image.suite.as_bytes())
        .with("packages", packages(image).join(",").as_bytes())
        .with("mirror", image.mirror.as_deref().unwrap_or_default().as_bytes())
        .with("recipe", [COMPONENTS, KEPT, NO_INITRAMFS, NO_HOST_KEYS, LIST_PACKAGES].join("\n").as_bytes())
        .with("excluded", EXCLUDED.join("\n").as_bytes())
        .digest()
}

/// Every package asked for, without their dependencies.
pub fn packages(image: &Image) -> Vec<&str> {
    let own = PACKAGES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    own.chain(image.packages.iter().map(String::as_str)).collect()
}

fn make(image: &Image, part: &Path) -> Result<()> {
    tracing::info!("making the base tree of {}: this takes about ten minutes, once", image.suite);
    let mut command = process::tool("mmdebstrap");
    // An ordinary user's path lacks the system's programs; INITRD stops the kernel package's own update-initramfs.
    command.env("INITRD", "No").env("LC_ALL", "C.UTF-8");
    command.args(["--quiet", "--format=tar", "--variant=minbase", "--architectures=arm64"]);
    command.arg(format!("--components={COMPONENTS}")).arg(format!("--include={}", packages(image).join(",")));
    for option in EXCLUDED.into_iter().chain([KEPT, "force-unsafe-io", "force-confold"]) {
        command.arg(format!("--dpkgopt={option}"));
    }
    command.arg(format!("--setup-hook={NO_INITRAMFS}"));
    command.arg(format!("--customize-hook={NO_HOST_KEYS}")).arg(format!("--customize-hook={LIST_PACKAGES}"));
    command.arg(&image.suite).arg(part).args(&image.mirror);
    process::run(&mut command, "making the base tree").map_err(|error| error.context(hint(image)))
}

fn hint(image: &Image) -> String {
    let mirror = image.mirror.as_deref().unwrap_or("the default mirror");
    format!(
        "building from {mirror}, suite {}, failed\nhint: is the mirror reachable, and do all packages exist there?",
        image.suite
    )
}
