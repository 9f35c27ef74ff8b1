//! Keeps the recovery passphrase of backup disks the same as the appliance's, also of those that were away when it changed.
//!
//! A disk's keyslot says by its id which passphrase it takes: the time at which the file with it was written, from which
//! nobody learns the passphrase. So to look costs no key derivation.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

use super::content::{self, Content};
use super::keys::{self, KEY_PATH, RECOVERY_PATH};
use super::which;
use crate::config::Config;
use crate::devices::Block;
use crate::durable;
use crate::luks::Key;
use crate::luks::slots::{self, Holder, Kind, Slot};
use crate::secret::Secret;

/// The backup disks of this appliance that are there.
///
/// # Errors
/// Two have one serial number, or one can't be read.
pub fn renewable(config: &Config) -> Result<Vec<Block>> {
    let Some(disk) = &config.disk else { return Ok(Vec::new()) };
    let mut ours = Vec::new();
    for block in which::any(disk)? {
        if content::of(&block)? == Content::Ours {
            ours.push(block);
        }
    }
    Ok(ours)
}

/// Keeps a new recovery passphrase for backup disks, and gives it to these, in the place of the one that they have. Others take
/// it when they are opened.
///
/// # Errors
/// It can't be written.
pub fn renew_passphrase(disks: &[Block], phrase: &Secret<String>) -> Result<()> {
    durable::write(Path::new(RECOVERY_PATH), phrase.expose().as_bytes(), 0o600)?;
    disks.iter().try_for_each(|block| bring(&block.node))
}

/// Gives a disk of ours the appliance's recovery passphrase, unless it has that already.
///
/// # Errors
/// There is no passphrase, or it can't be written.
pub(super) fn bring(node: &Path) -> Result<()> {
    let current = id()?;
    if let Some(other) = replaced(&slots::slots(node)?, &current) {
        replace(node, &other, &keys::known()?, &keys::passphrase()?, current)?;
    }
    Ok(())
}

/// Whose keyslot the one with the appliance's passphrase is.
pub(super) fn holder(new: &Key) -> Result<Holder> {
    let id = matches!(new, Key::Passphrase(_)).then(id).transpose()?;
    let holder = Holder::of(new);
    Ok(Holder { id: id.or(holder.id), ..holder })
}

/// What tells the appliance's passphrase from those before.
fn id() -> Result<String> {
    let written = fs::metadata(RECOVERY_PATH).and_then(|about| about.modified());
    let written = written.with_context(|| format!("looking at the recovery passphrase in {RECOVERY_PATH}"))?;
    Ok(format!("{:x}", written.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()))
}

/// The keyslots whose passphrases must go for the one that is called `current`; none where that stands there, and nothing was cut short.
fn replaced(all: &[Slot], current: &str) -> Option<Vec<Slot>> {
    let kind = |slot: &&Slot| slot.holder.as_ref().is_some_and(|holder| holder.kind == Kind::Recovery);
    let done = |slot: &Slot| {
        slot.holder.as_ref().is_some_and(|holder| holder.id.as_deref() == Some(current) && holder.replaces.is_none())
    };
    let all: Vec<Slot> = all.iter().filter(kind).cloned().collect();
    (!all.iter().any(done)).then_some(all)
}

/// Adds a keyslot for `new` to a disk that `key` opens, and destroys the `old` ones.
fn replace(node: &Path, old: &[Slot], key: &Secret<Vec<u8>>, new: &Secret<String>, current: String) -> Result<()> {
    let new = Key::Passphrase(new);
    // Until the others are gone.
    let coming = Holder { id: Some(current), replaces: Some(String::from(slots::ALL)), ..Holder::of(&new) };
    let number = slots::add(node, Key::Random(key), new, &coming)?;
    let number = number.with_context(|| format!("the key {KEY_PATH} doesn't open {}", node.display()))?;
    for slot in old {
        slots::kill(node, slot.number)?;
    }
    slots::describe(node, number, &Holder { replaces: None, ..coming })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{replace, replaced};
    use crate::keys::keyfile::random;
    use crate::luks::cipher::Cipher;
    use crate::luks::slots::{self, Holder};
    use crate::luks::tests::blank;
    use crate::luks::{Key, format};
    use crate::secret::Secret;

    #[test]
    fn a_disk_takes_the_new_passphrase_once_whenever_it_comes_and_wherever_it_was_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let node = blank(folder.path());
        let (key, old) = (random(64).unwrap(), Secret::new(String::from("eight words or so")));
        format(&node, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Passphrase(&old), Key::Random(&key)]).unwrap();
        let all = || slots::slots(&node).unwrap();
        let new = Secret::new(String::from("eight other words"));
        // Cut after the keyslot came: it and the old one are taken for old.
        let cut = Holder { id: Some("1".into()), replaces: Some("all".into()), ..Holder::of(&Key::Passphrase(&new)) };
        slots::add(&node, Key::Random(&key), Key::Passphrase(&new), &cut).unwrap().unwrap();
        let must_go = replaced(&all(), "1").unwrap();
        assert_eq!(must_go.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 2]);
        replace(&node, &must_go, &key, &new, "1".into()).unwrap();
        assert_eq!(replaced(&all(), "1"), None, "nothing is left to do");
        assert_eq!(all().len(), 2);
        assert_eq!(slots::slot_of(&node, Key::Passphrase(&old)).unwrap(), None);
        assert_eq!(slots::slot_of(&node, Key::Passphrase(&new)).unwrap(), Some(3));
        assert_eq!(slots::slot_of(&node, Key::Random(&key)).unwrap(), Some(1));
        assert_eq!(replaced(&all(), "2").unwrap().len(), 1, "after the next rotation");
    }
}
