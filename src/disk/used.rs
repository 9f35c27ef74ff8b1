//! Which backup disk was used when: `disks.json` on root, for disks that change places.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{NAME, which};
use crate::config::Config;
use crate::{devices, durable, luks};

/// When each disk was last written to, by the config's name for it.
pub type Used = BTreeMap<String, Timestamp>;

/// The config's name for the open disk; none when none is open.
///
/// # Errors
/// udev can't be asked.
pub fn open_now(config: &Config) -> Result<Option<String>> {
    let Some(below) = luks::device_below(&luks::mapped(NAME)) else { return Ok(None) };
    let (Some(disk), Some(block)) = (&config.disk, devices::by_node(&below)?) else { return Ok(None) };
    Ok(which::name_of(disk, &block).cloned())
}

/// Remembers that the open disk is used now.
///
/// # Errors
/// It can't be read or written.
pub fn remember(config: &Config, now: Timestamp) -> Result<()> {
    if config.disk.is_none() {
        return Ok(());
    }
    let Some(serial) = open_now(config)? else { return Ok(()) };
    let mut used = load(&config.backup.state)?;
    used.insert(serial, now);
    let text = serde_json::to_vec(&used).context("putting the disks into JSON")?;
    durable::write(&path(&config.backup.state), &text, 0o600)
}

/// What is remembered.
///
/// # Errors
/// It can't be read.
pub fn load(state: &Path) -> Result<Used> {
    let path = path(state);
    match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Used::new()),
        bytes => {
            let reading = || format!("reading {}\nhint: remove it; it only says which disk was used when", path.display());
            serde_json::from_slice(&bytes.with_context(reading)?).with_context(reading)
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("disks.json")
}
