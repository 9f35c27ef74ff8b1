//! The two keys of this appliance's backup disks.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::keys::keyfile::{KEY_SIZE, random};
use crate::keys::recovery;
use crate::luks::slots::{self, Holder};
use crate::secret::Secret;
use crate::{durable, luks, unlock};

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
///
/// # Errors
/// It can't be read, or isn't root's any more: no sheet may have it.
pub(super) fn passphrase() -> Result<Secret<String>> {
    let root = luks::device_below(&luks::mapped(unlock::ROOT_NAME)).and_then(|device| luks::read_header(&device).ok());
    ensure!(
        !root.is_some_and(|header| changed_elsewhere(&slots::holders(&header))),
        "the recovery passphrase of root was changed on another machine, and this appliance doesn't know it\n\
         hint: `vaultberry key recovery rotate` makes one for root and the backup disks"
    );
    let typed = fs::read_to_string(RECOVERY_PATH).map(Secret::new).with_context(|| {
        format!("reading the recovery passphrase in {RECOVERY_PATH}\nhint: write eight words or more there, mode 0600")
    })?;
    Ok(recovery::normalize(typed.expose()))
}

/// Whether root has a passphrase from another machine, and isn't getting one for all.
fn changed_elsewhere(root: &[Holder]) -> bool {
    let is_elsewhere = |holder: &Holder| holder.id.as_deref() == Some(slots::ELSEWHERE);
    let comes = |holder: &Holder| holder.replaces.as_deref() == Some(slots::ALL) && !is_elsewhere(holder);
    root.iter().any(is_elsewhere) && !root.iter().any(comes)
}

#[cfg(test)]
mod tests {
    use super::{changed_elsewhere, slots};
    use crate::luks::slots::{Holder, Kind};

    #[test]
    fn a_passphrase_from_another_machine_is_noticed_until_one_for_all_takes_its_place() {
        let holder = |id: Option<&str>, replaces: Option<&str>| Holder {
            kind: Kind::Recovery,
            id: id.map(String::from),
            name: None,
            replaces: replaces.map(String::from),
        };
        let (elsewhere, all) = (Some(slots::ELSEWHERE), Some(slots::ALL));
        for (noticed, root) in [
            (false, vec![holder(None, None)]),
            (true, vec![holder(elsewhere, None)]),
            (true, vec![holder(None, None), holder(elsewhere, all)]),
            (false, vec![holder(elsewhere, None), holder(None, all)]),
        ] {
            assert_eq!(changed_elsewhere(&root), noticed, "{root:?}");
        }
    }
}
