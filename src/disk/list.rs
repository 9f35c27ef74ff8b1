//! The disks that are there, as a person tells them apart.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use uuid::Uuid;

use super::{NAME, content, which};
use crate::amount::amount;
use crate::config::Disk;
use crate::devices::{self, Block};
use crate::log::printable;
use crate::luks;

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its node, as `/dev/sda`.
    pub node: PathBuf,
    /// Its serial number, as udev knows it.
    pub serial: Option<String>,
    /// The UUID of the volume on it.
    pub uuid: Option<Uuid>,
    /// What the config calls it: its serial number, or that UUID.
    pub config_name: Option<String>,
    /// What its maker calls it.
    pub model: Option<String>,
    /// Its bytes.
    pub size: u64,
    /// What it is for: `backup`, `root`, or nothing of the appliance's.
    pub purpose: Option<&'static str>,
    /// Whether it is the open backup disk.
    pub open: bool,
    /// What it holds, in words.
    pub holds: String,
}

impl Row {
    /// What a person knows it by.
    pub fn name(&self) -> String {
        let words = [self.model.as_deref(), self.serial.as_deref()].into_iter().flatten();
        let words: Vec<String> = words.map(|word| printable(word.as_bytes())).collect();
        format!("{} ({}, {})", words.join(" "), self.node.display(), amount(self.size)).trim_start().to_owned()
    }

    /// One line of the list.
    pub fn line(&self) -> String {
        let purpose = match self.purpose {
            Some("backup") if self.open => "backup disk, open",
            Some("backup") => "backup disk, not open",
            Some("root") => "this system's own",
            _ => "not named in the config",
        };
        let uuid = self.uuid.map_or(String::new(), |uuid| format!(" {uuid}"));
        format!("{}: {purpose}; it holds {}{uuid}", self.name(), self.holds)
    }
}

/// All whole disks with something to write on, and which of them are `named`.
///
/// # Errors
/// udev can't be asked.
pub fn list(named: Option<&Disk>) -> Result<Vec<Row>> {
    let present = devices::present()?;
    let root = present.iter().find(|block| block.node == Path::new("/dev/mapper/root") || is_below_root(block));
    let root = root.map(|block| block.disk.clone());
    let mut rows = Vec::new();
    for block in present.iter().filter(|block| block.whole && is_real(block)) {
        let name = named.and_then(|disk| which::name_of(disk, block)).cloned();
        let purpose = if root.as_ref() == Some(&block.disk) { Some("root") } else { name.as_ref().map(|_| "backup") };
        match row(block) {
            Ok(row) => rows.push(Row { purpose, config_name: name, ..row }),
            Err(error) if name.is_some() => rows.push(unreadable(block, &error)),
            // An empty card reader is no disk.
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
    rows.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(rows)
}

/// One of them, as a backup disk.
///
/// # Errors
/// It can't be read.
pub(super) fn row(block: &Block) -> Result<Row> {
    Ok(Row {
        node: block.node.clone(),
        serial: block.serial.clone(),
        model: block.model.clone(),
        uuid: luks::uuid(&block.node),
        config_name: block.serial.clone(),
        size: size_of(&block.node)?,
        purpose: Some("backup"),
        open: luks::device_below(&luks::mapped(NAME)).is_some_and(|below| below == block.node),
        holds: content::of(block)?.words().to_owned(),
    })
}

/// One of them that can't be read.
fn unreadable(block: &Block, error: &anyhow::Error) -> Row {
    Row {
        node: block.node.clone(),
        serial: block.serial.clone(),
        model: block.model.clone(),
        uuid: None,
        config_name: block.serial.clone(),
        size: size_of(&block.node).unwrap_or(0),
        purpose: Some("backup"),
        open: false,
        holds: format!("what can't be read: {error:#}"),
    }
}

/// The bytes of a device.
pub(super) fn size_of(node: &Path) -> Result<u64> {
    let size = File::open(node).and_then(|mut device| device.seek(SeekFrom::End(0)));
    size.with_context(|| format!("asking for the size of {}", node.display()))
}

/// Whether root is on it.
fn is_below_root(block: &Block) -> bool {
    luks::device_below(&luks::mapped(crate::unlock::ROOT_NAME)).is_some_and(|below| below == block.node)
}

/// A disk of its own, and not one that the kernel makes of memory, files or other disks.
fn is_real(block: &Block) -> bool {
    let name = block.node.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    !["dm-", "loop", "md", "ram", "sr", "zram", "nbd"].iter().any(|made| name.starts_with(made))
}

#[cfg(test)]
mod tests {
    use super::{Row, is_real};
    use crate::devices::tests::block;

    #[test]
    fn a_disk_is_known_by_model_and_serial_number() {
        let mut row = Row {
            node: "/dev/sda".into(),
            serial: Some("575831".into()),
            uuid: None,
            config_name: Some("575831".into()),
            model: Some("Elements_25A3".into()),
            size: 2 << 40,
            purpose: Some("backup"),
            open: true,
            holds: "nothing".into(),
        };
        assert_eq!(row.line(), "Elements_25A3 575831 (/dev/sda, 2.0 TiB): backup disk, open; it holds nothing");
        row.uuid = Some(uuid::uuid!("0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01"));
        row.holds = "a backup of this appliance".into();
        assert!(
            row.line().ends_with("; it holds a backup of this appliance 0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01"),
            "{}",
            row.line()
        );
        (row.uuid, row.holds) = (None, "nothing".into());
        (row.model, row.serial, row.purpose) = (None, None, None);
        assert_eq!(row.line(), "(/dev/sda, 2.0 TiB): not named in the config; it holds nothing");
    }

    #[test]
    fn what_the_kernel_makes_up_is_no_disk() {
        for (node, real) in
            [("/dev/sda", true), ("/dev/mmcblk0", true), ("/dev/vdb", true), ("/dev/dm-0", false), ("/dev/loop3", false)]
        {
            assert_eq!(is_real(&block(node, |_| {})), real, "{node}");
        }
    }
}
