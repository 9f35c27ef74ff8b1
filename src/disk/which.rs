//! Which disk is meant: of those that are there, one that the config names.

use std::path::Path;

use anyhow::{Context, Result, bail};

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

/// Those of the named disks that are there, in the config's order.
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
    let wanted = present.iter().find(|block| block.whole && block.node == node);
    if wanted.is_none_or(|block| !disk.serials.iter().any(|serial| block.serial.as_deref() == Some(serial))) {
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
    for serial in &disk.serials {
        let mut same = present.iter().filter(|block| block.whole && block.serial.as_ref() == Some(serial));
        let (first, second) = (same.next(), same.next());
        if let (Some(one), Some(other)) = (first, second) {
            bail!("two disks have the serial number {serial}: {} and {}", one.node.display(), other.node.display());
        }
        found.extend(first.cloned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{among, of};
    use crate::config::Disk;
    use crate::devices::Block;
    use crate::devices::tests::block;

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
        assert_eq!(nodes(&["A"], &present).unwrap_err(), "two disks have the serial number A: /dev/sdb and /dev/sdd");
    }
}
