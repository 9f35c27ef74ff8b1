//! Growing root's partition to the end of its card: an image is smaller than the card that it is flashed to.
//!
//! It happens in the initramfs, before root is opened, since a volume takes as much as its partition has when it is opened. The
//! file system follows when the system is up. All that is written is one sector, the partition table (a classic MBR), which
//! a card writes whole or not at all; a boot that is cut short is made up for by the next.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::devices::Block;
use crate::process;

/// Bytes of a sector, as partition tables and sysfs count.
const SECTOR: u64 = 512;

/// Sectors of an encryption sector: a volume that isn't a whole number of them can't be opened.
const ALIGNED: u64 = 8;

/// A rest of fewer sectors isn't worth a write: 16 MiB.
const WORTH: u64 = (16 << 20) / SECTOR;

/// Where the table's four entries begin, and how long each is.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;

/// A partition table, and the sector numbers that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Sectors of the whole card.
    card: u64,
    /// The first sector of root's partition.
    start: u64,
    /// Its sectors now.
    length: u64,
}

/// Grows the partition `root` when its card has room behind it; gives its new size in bytes, or none when nothing was to do.
///
/// # Errors
/// The table isn't one that an image has, or can't be written. Root opens as it was.
pub fn partition(root: &Block) -> Result<Option<u64>> {
    if root.whole {
        return Ok(None);
    }
    let growing = || format!("growing root's partition {}", root.node.display());
    let card = node_of(&root.disk).with_context(growing)?;
    let place = Place { card: sectors(&root.disk, "size")?, start: of(root, "start")?, length: of(root, "size")? };
    if place.grown().is_none() {
        return Ok(None);
    }
    let mut device = File::options().read(true).write(true).open(&card).with_context(growing)?;
    let mut table = [0; 512];
    device.read_exact(&mut table).with_context(growing)?;
    let Some(length) = grow(&mut table, place).with_context(growing)? else { return Ok(None) };
    device
        .seek(SeekFrom::Start(0))
        .and_then(|_| device.write_all(&table))
        .and_then(|()| device.sync_all())
        .with_context(growing)?;
    read_again(&device).with_context(|| format!("{}: telling the kernel", growing()))?;
    // The nodes are made anew.
    let settled = process::run(process::tool("udevadm").args(["settle", "--timeout=10"]), "waiting for udev");
    settled.with_context(growing)?;
    Ok(Some(length * SECTOR))
}

impl Place {
    /// How many sectors the partition could have; none when it isn't worth it.
    fn grown(self) -> Option<u64> {
        let room = self.card.checked_sub(self.start)?.min(u64::from(u32::MAX)) / ALIGNED * ALIGNED;
        (room >= self.length + WORTH).then_some(room)
    }
}

/// Changes the entry of the partition in a table; gives its new length in sectors, none where nothing is to do.
fn grow(table: &mut [u8; 512], place: Place) -> Result<Option<u64>> {
    ensure!(table.ends_with(&[0x55, 0xaa]), "there is no partition table");
    let Some(length) = place.grown() else { return Ok(None) };
    let mut own = None;
    for at in (0..4).map(|number| ENTRIES + number * ENTRY) {
        let number = |at: usize| u64::from(u32::from_le_bytes(table[at..at + 4].try_into().expect("four bytes")));
        let (kind, start, size) = (table[at + 4], number(at + 8), number(at + 12));
        ensure!(kind != 0xee, "the partition table is a GPT, which no image has");
        if kind != 0 && start == place.start && size == place.length {
            own = Some(at);
        } else if kind != 0 && start > place.start {
            bail!("another partition follows");
        }
    }
    let at = own.context("the partition isn't in the table")?;
    let sectors = u32::try_from(length).expect("bounded above");
    table[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    Ok(Some(length))
}

/// A number that sysfs has for the partition.
fn of(root: &Block, name: &str) -> Result<u64> {
    let node = root.node.file_name().context("a device has a name")?;
    sectors(&Path::new("/sys/class/block").join(node), name)
}

fn sectors(folder: &Path, name: &str) -> Result<u64> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("reading {}", path.display()))
}

fn node_of(disk: &Path) -> Result<PathBuf> {
    Ok(Path::new("/dev").join(disk.file_name().context("a disk has a name")?))
}

/// Lets the kernel read the partition table again, which it does only while no partition is in use.
#[expect(unsafe_code, reason = "there is no other way to make this request")]
fn read_again(device: &File) -> nix::Result<()> {
    // BLKRRPART, in the kernel's include/uapi/linux/fs.h.
    nix::ioctl_none!(reread, 0x12, 95);
    // SAFETY: the descriptor is open as long as `device` is borrowed, and the request takes no argument.
    unsafe { reread(device.as_raw_fd()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, Place, grow};

    /// A table with the two partitions of an image.
    fn table(start: u32, length: u32) -> [u8; 512] {
        let mut table = [0; 512];
        for (number, (kind, start, length)) in [(0x0c_u8, 8192_u32, 1_048_576_u32), (0x83, start, length)].into_iter().enumerate()
        {
            let at = ENTRIES + 16 * number;
            table[at + 4] = kind;
            table[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            table[at + 12..at + 16].copy_from_slice(&length.to_le_bytes());
        }
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }

    const START: u32 = 1_056_768;
    const LENGTH: u32 = 7_331_840;

    fn place(card: u64) -> Place {
        Place { card, start: START.into(), length: LENGTH.into() }
    }

    #[test]
    fn only_the_length_of_the_last_partition_changes() {
        let before = table(START, LENGTH);
        // A card of 16 GB with an odd number of sectors.
        let mut after = before;
        assert_eq!(grow(&mut after, place(31_116_287)).unwrap(), Some(30_059_512));
        assert_eq!(after, table(START, 30_059_512));
        assert_eq!((u64::from(START) + 30_059_512) * 512 % 4096, 0);
        // What is beyond 2 TiB an MBR can't say.
        let mut after = before;
        assert_eq!(grow(&mut after, place(1 << 40)).unwrap(), Some(u64::from(u32::MAX) - 7));
    }

    #[test]
    fn a_card_without_room_is_left_alone() {
        let end = u64::from(START) + u64::from(LENGTH);
        for card in [end, end + 8, end + 32767, end - 8, 0] {
            let mut table = table(START, LENGTH);
            assert_eq!(grow(&mut table, place(card)).unwrap(), None, "{card}");
        }
    }

    #[test]
    fn a_table_that_no_image_has_is_left_alone() {
        let card = place(31_116_288);
        let change = |at: usize, value: u8| {
            let mut table = table(START, LENGTH);
            table[at] = value;
            table
        };
        for (mut wrong, told) in [
            (change(511, 0), "there is no partition table"),
            (change(ENTRIES + 4, 0xee), "the partition table is a GPT"),
            (table(START, LENGTH - 8), "the partition isn't in the table"),
            (change(ENTRIES + 11, 1), "another partition follows"),
        ] {
            let before = wrong;
            assert_eq!(grow(&mut wrong, card).unwrap_err().to_string().split(',').next(), Some(told));
            assert_eq!(wrong, before);
        }
    }
}
