//! Reading a key file off a stick.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use uuid::Uuid;

use crate::devices::Block;
use crate::keys::keyfile::{self, KeyFile, path_on_stick};
use crate::keys::plugged::mount_read_only;

const MOUNT_POINT: &str = "/run/vaultberry/stick";

/// What a file system has for an appliance.
#[derive(Debug)]
pub enum Found {
    /// Its key.
    Key(KeyFile),
    /// Keys, but only of other appliances.
    Others,
    /// No key at all.
    Nothing,
}

/// Mounts the file system read-only, looks for the key for `uuid`, and unmounts again.
///
/// # Errors
/// It can't be read, or what is there under the key's name isn't that key.
pub fn read_key(block: &Block, uuid: Uuid) -> Result<Found> {
    let mounted = Mounted::new(block)?;
    let stick = Path::new(MOUNT_POINT);
    let found = keyfile::find(uuid, "it", |path| keyfile::read(&stick.join(path)));
    let others = stick.join(path_on_stick(uuid)).parent().is_some_and(holds_keys);
    drop(mounted);
    match found? {
        Some(key) => Ok(Found::Key(key)),
        None if others => Ok(Found::Others),
        None => Ok(Found::Nothing),
    }
}

fn holds_keys(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("key")))
}

/// A mounted stick; unmounted when it goes.
struct Mounted;

impl Mounted {
    fn new(block: &Block) -> Result<Self> {
        fs::create_dir_all(MOUNT_POINT).with_context(|| format!("making {MOUNT_POINT}"))?;
        mount_read_only(block, Path::new(MOUNT_POINT))?;
        Ok(Self)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached, so that a stick pulled in this moment can't stop the boot.
        let _ = umount2(MOUNT_POINT, MntFlags::MNT_DETACH);
    }
}
