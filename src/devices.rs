//! Block devices as udev knows them: those that are there, and those that come.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use udev::{Device, Enumerator, EventType, MonitorBuilder, MonitorSocket};
use uuid::Uuid;

/// A block device with what udev's probe found on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The node, as `/dev/sda1`.
    pub node: PathBuf,
    /// The whole disk that it is on, as a path in sysfs.
    pub disk: PathBuf,
    /// The serial number of the disk, without the model where the two are known apart.
    pub serial: Option<String>,
    /// What the disk's maker calls it.
    pub model: Option<String>,
    /// Is this the whole disk, not a partition?
    pub whole: bool,
    /// The label of the file system.
    pub label: Option<String>,
    /// The UUID of the partition, in lower case; none on a whole disk.
    pub partuuid: Option<String>,
    fs_type: Option<String>,
    fs_uuid: Option<String>,
    partition_table: Option<String>,
}

impl Block {
    fn read(device: &Device) -> Option<Self> {
        let text = |name: &str| device.property_value(name).map(|value| value.to_string_lossy().into_owned());
        let parent = device.parent_with_subsystem_devtype("block", "disk").ok().flatten();
        Some(Self {
            node: device.devnode()?.to_owned(),
            disk: parent.as_ref().unwrap_or(device).syspath().to_owned(),
            serial: text("ID_SERIAL_SHORT").or_else(|| text("ID_SERIAL")),
            model: text("ID_MODEL"),
            whole: device.devtype().is_some_and(|kind| kind == "disk"),
            fs_type: text("ID_FS_TYPE"),
            fs_uuid: text("ID_FS_UUID"),
            label: label(text),
            partuuid: text("ID_PART_ENTRY_UUID"),
            partition_table: text("ID_PART_TABLE_TYPE"),
        })
    }

    /// Is this the LUKS volume `uuid`?
    pub fn is_luks(&self, uuid: Uuid) -> bool {
        self.fs_type.as_deref() == Some("crypto_LUKS") && self.fs_uuid.as_deref() == Some(uuid.to_string().as_str())
    }

    /// Is there a file system on it that a key stick may have?
    pub fn may_hold_key(&self) -> bool {
        self.key_file_system().is_some()
    }

    /// The kernel's name of a file system that a key stick may have.
    pub fn key_file_system(&self) -> Option<&str> {
        self.fs_type.as_deref().filter(|fs_type| matches!(*fs_type, "vfat" | "ext4"))
    }

    /// What udev found on it: a file system, a volume or a partition table. None on a blank disk.
    pub fn content(&self) -> Option<&str> {
        self.fs_type.as_deref().or(self.partition_table.as_deref())
    }
}

/// The label as its owner gave it: in the plain property udev puts `_` for blanks.
fn label(text: impl Fn(&str) -> Option<String>) -> Option<String> {
    text("ID_FS_LABEL_ENC").map(|encoded| decode(&encoded)).or_else(|| text("ID_FS_LABEL"))
}

/// Reads what udev encodes: each byte that could mean something to a shell is `\x` and two hexadecimal digits.
fn decode(encoded: &str) -> String {
    let mut plain = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").and_then(|digits| digits.get(..2)).filter(|_| byte == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(escaped) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            plain.push(escaped);
            rest = &after[3..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(formatter, "{} ({})", label.escape_default(), self.node.display()),
            None => write!(formatter, "{}", self.node.display()),
        }
    }
}

/// The block devices that are there now, as far as udev is through with them.
pub fn present() -> Result<Vec<Block>> {
    let doing = "asking udev for block devices";
    let mut enumerator = Enumerator::new().context(doing)?;
    enumerator.match_subsystem("block").context(doing)?;
    enumerator.match_is_initialized().context(doing)?;
    Ok(enumerator.scan_devices().context(doing)?.filter_map(|device| Block::read(&device)).collect())
}

/// The block device with this node, if udev knows it.
pub fn by_node(node: &Path) -> Result<Option<Block>> {
    Ok(present()?.into_iter().find(|block| block.node == node))
}

/// Block devices as they come.
pub struct Watch {
    socket: MonitorSocket,
}

impl Watch {
    /// Begins to listen to udev.
    pub fn start() -> Result<Self> {
        let doing = "listening to udev";
        let socket = MonitorBuilder::new().context(doing)?.match_subsystem("block").context(doing)?.listen().context(doing)?;
        Ok(Self { socket })
    }

    /// The devices that came or changed since the last call; never blocks.
    pub fn events(&self) -> Vec<Block> {
        let came = self.socket.iter().filter(|event| event.event_type() != EventType::Remove);
        came.filter_map(|event| Block::read(&event.device())).collect()
    }
}

impl AsFd for Watch {
    #[expect(unsafe_code, reason = "the udev crate gives only a raw descriptor; it is open as long as the socket lives")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is owned by `self` and isn't closed while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Block, label};

    /// A partition of a disk of its own, without anything on it but what `change` says.
    pub fn block(node: &str, change: impl FnOnce(&mut Block)) -> Block {
        let mut block = Block {
            node: node.into(),
            disk: format!(
                "/sys/block/{}",
                node.trim_start_matches("/dev/").trim_end_matches(|letter: char| letter.is_ascii_digit())
            )
            .into(),
            serial: None,
            model: None,
            whole: false,
            label: None,
            partuuid: None,
            fs_type: None,
            fs_uuid: None,
            partition_table: None,
        };
        change(&mut block);
        block
    }

    /// Puts a LUKS volume on it.
    pub fn encrypt(block: &mut Block, uuid: &str) {
        (block.fs_type, block.fs_uuid) = (Some("crypto_LUKS".to_owned()), Some(uuid.to_owned()));
    }

    #[test]
    fn a_label_is_read_as_its_owner_gave_it() {
        let read = |encoded: Option<&str>| {
            label(|name| if name == "ID_FS_LABEL_ENC" { encoded.map(str::to_owned) } else { Some("MY_KEY".to_owned()) })
        };
        assert_eq!(read(Some(r"MY\x20KEY")).unwrap(), "MY KEY");
        assert_eq!(read(Some(r"a\x5cx20\xc3\xa4ö\x2\")).unwrap(), r"a\x20äö\x2\");
        assert_eq!(read(None).unwrap(), "MY_KEY");
    }

    /// One with an ext4 file system.
    pub fn ext4(node: &str) -> Block {
        block(node, |block| block.fs_type = Some("ext4".to_owned()))
    }
}
