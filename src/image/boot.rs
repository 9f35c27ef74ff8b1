//! The initramfs: made in a chroot of the base tree, and cached, because update-initramfs runs under emulation for a minute.
//!
//! It is the same for every appliance; what differs, the unlock's settings, follows as a segment of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache::{Cache, CacheKey};
use super::namespace;

const STAGE: &str = include_str!("../../image/stages/boot.sh");

/// Gives the archive of `boot/`, made when the cache has none. `work` is a folder for the tree; `overlay` the system overlay.
pub fn ensure(cache: &Cache, base: &Path, overlay: &[u8], work: &Path, refresh: bool) -> Result<PathBuf> {
    let name = base.file_name().unwrap_or_default().as_encoded_bytes();
    let modified = fs::metadata(base).and_then(|base| base.modified()).context("looking at the base tree")?;
    let stamp = format!("{modified:?}");
    let key = CacheKey::default()
        .with("base", name)
        .with("made", stamp.as_bytes())
        .with("overlay", overlay)
        .with("stage", STAGE.as_bytes())
        .digest();
    cache.entry("boot", &key, refresh, |part| {
        tracing::info!("making the initramfs: this takes about a minute");
        let overlay_path = work.join("system.tar");
        fs::write(&overlay_path, overlay).with_context(|| format!("writing {}", overlay_path.display()))?;
        let arguments = [work, base, &overlay_path, part];
        namespace::run(STAGE, arguments, "making the initramfs")?;
        namespace::remove(&work.join("tree"))
    })
}
