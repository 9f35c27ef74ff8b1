//! Which disk is meant: of those that are there, one that the config names, by its serial number or by the UUID of its volume.

use std::path::Path;

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use crate::config::{Config, Disk};
use crate::devices::{self, Block};

/// The disks that the config names.
///
/// # Errors
/// It names none.
pub fn named(config: &Config) -> Result<&Disk> {
    config.disk.as_ref().context(
        "the config names no backup disk\nhint: add `[disk]` with its `serials`; `vaultberry disk list` shows those that are there",
    )
}

/// The config's name for this device; none when it doesn't name it.
pub fn name_of<'a>(disk: &'a Disk, block: &Block) -> Option<&'a String> {
    disk.serials.iter().find(|name| is(block, name))
}

/// Whether a whole disk is the one of this name.
fn is(block: &Block, name: &str) -> bool {
    let by_volume = || Uuid::try_parse(name).is_ok_and(|uuid| block.is_luks(uuid));
    block.whole && (block.serial.as_deref() == Some(name) || by_volume())
}

/// Those of the named disks that are there, in the config's order. Each has the config's name for its serial number.
///
/// # Errors
/// None is there, or two have one serial number.
pub fn there(disk: &Disk) -> Result<Vec<Block>> {
    of(disk, &devices::present()?)
}

/// The same, also when none is there.
///
/// # Errors
/// Two have one serial number.
pub fn any(disk: &Disk) -> Result<Vec<Block>> {
    among(disk, &devices::present()?)
}

/// The disk at this node; none when the config doesn't name it.
///
/// # Errors
/// As for [`there`].
pub fn at(disk: &Disk, node: &Path) -> Result<Option<Block>> {
    let present = devices::present()?;
    if present.iter().find(|block| block.node == node).and_then(|block| name_of(disk, block)).is_none() {
        return Ok(None);
    }
    Ok(of(disk, &present)?.into_iter().find(|block| block.node == node))
}

fn of(disk: &Disk, present: &[Block]) -> Result<Vec<Block>> {
    let found = among(disk, present)?;
    if found.is_empty() {
        let names = disk.serials.join(" or ");
        bail!("the backup disk {names} isn't there\nhint: plug it in; `vaultberry disk list` shows what is there");
    }
    Ok(found)
}

fn among(disk: &Disk, present: &[Block]) -> Result<Vec<Block>> {
    let mut found: Vec<Block> = Vec::new();
    for name in &disk.serials {
        let mut same = present.iter().filter(|block| is(block, name));
        let (first, second) = (same.next(), same.next());
        if let (Some(one), Some(other)) = (first, second) {
            bail!(
                "two disks have the serial number {name}: {} and {}\nhint: format each while the other is away, and write the UUID of \
                 its volume in the place of its serial number; `vaultberry disk list` shows it",
                one.node.display(),
                other.node.display()
            );
        }
        let known = |block: &&Block| !found.iter().any(|other| other.node == block.node);
        if let Some(mut block) = first.filter(known).cloned() {
            block.serial = Some(name.clone());
            found.push(block);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{among, of};
    use crate::config::Disk;
    use crate::devices::Block;
    use crate::devices::tests::{block, encrypt};

    fn whole(node: &str, serial: &str) -> Block {
        block(node, |block| (block.whole, block.serial) = (true, Some(serial.to_owned())))
    }

    fn nodes(serials: &[&str], present: &[Block]) -> Result<Vec<String>, String> {
        let disk = Disk { serials: serials.iter().map(|&serial| serial.to_owned()).collect() };
        let found = of(&disk, present).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|block| block.node.display().to_string()).collect())
    }

    #[test]
    fn those_that_are_there_come_in_the_order_of_the_config() {
        let mut present = vec![whole("/dev/sda", "B"), whole("/dev/sdb", "A"), whole("/dev/sdc", "C")];
        present.push(block("/dev/sdb1", |block| block.serial = Some("A".to_owned())));
        assert_eq!(nodes(&["A", "B"], &present).unwrap(), ["/dev/sdb", "/dev/sda"]);
        assert_eq!(nodes(&["X", "B"], &present).unwrap(), ["/dev/sda"]);
        let none = nodes(&["X", "Y"], &present).unwrap_err();
        assert!(none.starts_with("the backup disk X or Y isn't there\nhint: plug it in"), "{none}");
        assert_eq!(among(&Disk { serials: vec!["X".to_owned()] }, &present).unwrap(), []);
        present.push(whole("/dev/sdd", "A"));
        let two = nodes(&["A"], &present).unwrap_err();
        assert!(two.starts_with("two disks have the serial number A: /dev/sdb and /dev/sdd\nhint: format each while "), "{two}");
        // By their volumes they are told apart.
        let (one, other) = ("0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01", "0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a02");
        for (at, uuid) in [(1, one), (4, other)] {
            present[at] = block(present[at].node.clone().to_str().unwrap(), |block| {
                (block.whole, block.serial) = (true, Some("A".to_owned()));
                encrypt(block, uuid);
            });
        }
        assert_eq!(nodes(&[other, one], &present).unwrap(), ["/dev/sdd", "/dev/sdb"]);
        assert_eq!(nodes(&["B", one], &present[..2]).unwrap(), ["/dev/sda", "/dev/sdb"]);
    }
}
