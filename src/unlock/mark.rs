//! What tells an accepted stick from others, where the owner wants that only some are looked at.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::devices::Block;

/// One of the ways to name a stick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mark {
    /// The label of its file system: `label:VB-KEY`.
    Label(String),
    /// The partition's UUID, as `lsblk -o PARTUUID` shows it: `partuuid:1a2b3c4d-01`.
    PartUuid(String),
    /// The serial number of its USB device: `serial:0123456789`.
    Serial(String),
}

impl Mark {
    /// Is it on this device?
    pub fn fits(&self, block: &Block) -> bool {
        let (wanted, found) = match self {
            Mark::Label(label) => (label, &block.label),
            Mark::PartUuid(uuid) => (uuid, &block.partuuid),
            Mark::Serial(serial) => (serial, &block.serial),
        };
        found.as_ref() == Some(wanted)
    }

    /// Can it be on any device? A label has at most 16 bytes (ext4; FAT: 11), a partition's UUID is 128 bits long (GPT), or the
    /// 32 of the disk with the partition's number (MBR).
    pub fn can_fit(&self) -> bool {
        match self {
            Mark::Label(label) => label.len() <= 16 && label.trim() == label,
            Mark::PartUuid(uuid) => {
                let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|digit| digit.is_ascii_hexdigit());
                let mbr = uuid.split_once('-').is_some_and(|(disk, number)| is_hex(disk, 8) && is_hex(number, 2));
                mbr || (uuid.len() == 36 && Uuid::try_parse(uuid).is_ok())
            }
            Mark::Serial(serial) => serial.trim() == serial,
        }
    }
}

impl FromStr for Mark {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (kind, value) = text.split_once(':').unwrap_or_default();
        if value.is_empty() || value.chars().any(char::is_control) {
            bail!("{text:?} names no stick");
        }
        Ok(match kind {
            "label" => Mark::Label(value.to_owned()),
            // As udev writes it, and people may not.
            "partuuid" => Mark::PartUuid(value.to_ascii_lowercase()),
            "serial" => Mark::Serial(value.to_owned()),
            _ => bail!("{text:?} names no stick"),
        })
    }
}

impl TryFrom<String> for Mark {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.to_string()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Label(label) => write!(formatter, "label:{label}"),
            Mark::PartUuid(uuid) => write!(formatter, "partuuid:{uuid}"),
            Mark::Serial(serial) => write!(formatter, "serial:{serial}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mark;
    use crate::devices::tests::block;

    #[test]
    fn a_stick_is_known_by_any_of_its_marks_and_by_no_other() {
        let stick = block("/dev/sda1", |block| {
            block.label = Some("VB-KEY".into());
            block.partuuid = Some("1a2b3c4d-01".into());
            block.serial = Some("A:1".into());
        });
        for (mark, fits) in [
            ("label:VB-KEY", true),
            ("label:vb-key", false),
            ("partuuid:1A2B3C4D-01", true),
            ("partuuid:1a2b3c4d-02", false),
            ("serial:A:1", true),
            ("serial:A", false),
        ] {
            let mark: Mark = mark.parse().unwrap();
            assert!(mark.can_fit());
            assert_eq!(mark.fits(&stick), fits, "{mark}");
            assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
            assert!(!mark.fits(&block("/dev/sdb1", |_| ())));
        }
        for wrong in ["label: VB-KEY", "label:a-label-of-17-char", "partuuid:1a2b3c4d", "partuuid:sda1", "serial:7 "] {
            assert!(!wrong.parse::<Mark>().unwrap().can_fit(), "{wrong:?}");
        }
        for right in
            ["label:a-label-of-16-bytes"[..22].to_owned(), format!("partuuid:{}", uuid::Uuid::nil()), "serial:A 1".into()]
        {
            assert!(right.parse::<Mark>().unwrap().can_fit(), "{right:?}");
        }
        for wrong in ["", "VB-KEY", "label:", "uuid:1", "label:a\nb"] {
            assert!(wrong.parse::<Mark>().is_err(), "{wrong:?}");
        }
    }
}
