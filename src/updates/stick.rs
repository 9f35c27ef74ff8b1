//! Whether the next start would find its key.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::devices;
use crate::luks::{self, Key, Tried};
use crate::unlock::ROOT_NAME;
use crate::unlock::settings::{self, Settings};
use crate::unlock::stick::{Found, read_key};

/// Whether a stick is plugged in whose key opens root, looked for as the unlock does. One that can't be read is none.
///
/// # Errors
/// Root or its settings can't be found, or udev doesn't answer.
pub fn is_plugged_in() -> Result<bool> {
    let settings = Settings::read(Path::new(settings::PATH))?;
    let root = luks::device_below(&luks::mapped(ROOT_NAME)).context("looking for root's partition: it isn't open as root")?;
    let present = devices::present()?;
    let disk = present.iter().find(|block| block.is_luks(settings.luks_uuid)).map(|block| &block.disk);
    let accepted = present.iter().filter(|block| settings.accepts(block) && Some(&block.disk) != disk);
    let mut keys = accepted.filter_map(|block| match read_key(block, settings.luks_uuid) {
        Ok(Found::Key(key)) => Some(key),
        _ => None,
    });
    Ok(keys.any(|key| matches!(luks::test_key(&root, Key::Random(&key.key)), Ok(Tried::Opened))))
}
