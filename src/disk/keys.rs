//! The two keys of this appliance's backup disks.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::durable;
use crate::keys::keyfile::{KEY_SIZE, random};
use crate::keys::recovery;
use crate::secret::Secret;

/// The key that opens the backup disks; random bytes, mode 0600, on the encrypted root.
pub const KEY_PATH: &str = "/etc/vaultberry/keys/backup-disk.key";
/// The recovery passphrase, mode 0600, on the encrypted root: a new disk gets it as its second key.
pub const RECOVERY_PATH: &str = "/etc/vaultberry/keys/recovery";

/// The key file's content; none when there is no key yet.
pub(super) fn read() -> Result<Option<Secret<Vec<u8>>>> {
    match fs::read(KEY_PATH) {
        Ok(key) => Ok(Some(Secret::new(key))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading the backup disk's key {KEY_PATH}")),
    }
}

/// The same, where there must be one.
pub(super) fn known() -> Result<Secret<Vec<u8>>> {
    read()?.with_context(|| format!("the key of the backup disk, {KEY_PATH}, isn't there"))
}

/// The key, drawn when there is none.
pub(super) fn own() -> Result<Secret<Vec<u8>>> {
    if let Some(key) = read()? {
        return Ok(key);
    }
    let path = PathBuf::from(KEY_PATH);
    let key = random(KEY_SIZE)?;
    fs::create_dir_all(path.parent().expect("the key lies in a folder")).context("making the folder of the keys")?;
    durable::write(&path, key.expose(), 0o600)?;
    Ok(key)
}

/// The recovery passphrase.
pub(super) fn passphrase() -> Result<Secret<String>> {
    let typed = fs::read_to_string(RECOVERY_PATH).map(Secret::new).with_context(|| {
        format!("reading the recovery passphrase in {RECOVERY_PATH}\nhint: write eight words or more there, mode 0600")
    })?;
    Ok(recovery::normalize(typed.expose()))
}
