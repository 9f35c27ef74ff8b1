//! The initramfs: made in a chroot of the base tree, and cached, because update-initramfs runs under emulation for a minute.
//!
//! It is the same for every appliance; what differs, the unlock's settings, follows as a segment of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache::{Cache, CacheKey, Kind};
use super::namespace;

const STAGE: &str = include_str!("../../image/stages/boot.sh");

/// Gives the archive of `boot/`, made when the cache has none. `work` is a folder for the tree; `overlay` the system overlay;
/// `epoch` the time of its youngest file.
pub fn ensure(cache: &Cache, base: &Path, overlay: &[u8], work: &Path, epoch: u64) -> Result<PathBuf> {
    let name = base.file_name().unwrap_or_default().as_encoded_bytes();
    let key = CacheKey::default()
        .with("base", name)
        .with("overlay", overlay)
        .with("stage", STAGE.as_bytes())
        .with("epoch", &epoch.to_le_bytes())
        .digest();
    let epoch = epoch.to_string();
    cache.entry(Kind::Boot, &key, false, |part| {
        tracing::info!("making the initramfs: this takes about a minute");
        let overlay_path = work.join("system.tar");
        fs::write(&overlay_path, overlay).with_context(|| format!("writing {}", overlay_path.display()))?;
        let arguments: [&OsStr; 5] =
            [work.as_os_str(), base.as_os_str(), overlay_path.as_os_str(), epoch.as_ref(), part.as_os_str()];
        namespace::run(STAGE, arguments, "making the initramfs")?;
        namespace::remove(&work.join("tree"))
    })
}
