//! The disk image: an MBR, which every Pi boots, a FAT firmware partition, and the LUKS partition with root.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::payload::{self, Blocks, Direction, VolumeKey};
use crate::luks::HEADER_SIZE;
use crate::process;

const SECTOR: u64 = 512;
/// Where the firmware partition begins: aligned to the erase blocks of a card.
pub const FIRMWARE_START: u64 = 4 << 20;
/// Bytes of the firmware partition: room for several kernels and initramfs.
pub const FIRMWARE_SIZE: u64 = 512 << 20;
/// Where the LUKS partition begins.
pub const ROOT_START: u64 = FIRMWARE_START + FIRMWARE_SIZE;

/// How an image of some size is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the whole image.
    pub size: u64,
    /// The disk signature: names the partitions (`PARTUUID`).
    pub disk_id: u32,
}

impl Layout {
    /// Bytes of the LUKS partition.
    pub fn root_partition(&self) -> u64 {
        self.size - ROOT_START
    }

    /// Bytes of the file system in it.
    pub fn root_file_system(&self) -> u64 {
        self.root_partition() - HEADER_SIZE
    }
}

/// Makes the image `path`, sparse, with its partition table and an empty firmware file system.
pub fn create(path: &Path, layout: &Layout) -> Result<File> {
    let image = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let image = image.with_context(|| format!("creating {}", path.display()))?;
    image.set_len(layout.size).with_context(|| format!("sizing {}", path.display()))?;
    let table = format!(
        "label: dos\nlabel-id: 0x{:08x}\nstart={}, size={}, type=c, bootable\nstart={}, type=83\n",
        layout.disk_id,
        FIRMWARE_START / SECTOR,
        FIRMWARE_SIZE / SECTOR,
        ROOT_START / SECTOR
    );
    process::output_with_input(
        process::tool("sfdisk").args(["--quiet", "--wipe=never"]).arg(path),
        "writing the partition table",
        table.as_bytes(),
    )?;
    process::run(
        process::tool("mkfs.vfat")
            .args(["--invariant", "-F", "32", "-n", "FIRMWARE", "-i", &format!("{:08x}", layout.disk_id)])
            .args(["--offset", &(FIRMWARE_START / SECTOR).to_string()])
            .arg(path)
            .arg((FIRMWARE_SIZE / 1024).to_string()),
        "making the firmware partition",
    )?;
    Ok(image)
}

/// Copies a folder's content into the firmware partition.
pub fn fill_firmware(path: &Path, folder: &Path) -> Result<()> {
    let doing = "filling the firmware partition";
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{doing}: reading {}", folder.display()))? {
        files.push(entry.with_context(|| format!("{doing}: reading {}", folder.display()))?.path());
    }
    files.sort();
    ensure!(!files.is_empty(), "{doing}: there are no files for it in {}", folder.display());
    let drive = firmware_drive(path);
    process::run(process::tool("mcopy").env("TZ", "UTC").args(["-s", "-Q", "-m", "-i", &drive]).args(files).arg("::"), doing)
}

/// Reads a file of the firmware partition.
pub fn read_firmware(path: &Path, name: &str) -> Result<Vec<u8>> {
    let mut command = process::tool("mtype");
    command.args(["-i", &firmware_drive(path), &format!("::{name}")]);
    process::output(&mut command, &format!("reading {name} in the firmware partition of {}", path.display()))
}

/// The firmware partition as mtools names it.
fn firmware_drive(path: &Path) -> String {
    format!("{}@@{FIRMWARE_START}", path.display())
}

/// Writes the LUKS partition: the header, and the file system's used blocks through the cipher.
pub fn write_root(image: &File, header: &[u8], ext4: &Path, key: &VolumeKey, used: &[Range<u64>]) -> Result<()> {
    image.write_all_at(header, ROOT_START).context("writing the LUKS header")?;
    let plain = File::open(ext4).with_context(|| format!("opening {}", ext4.display()))?;
    let (from, to) = (Blocks { file: &plain, start: 0 }, Blocks { file: image, start: ROOT_START + HEADER_SIZE });
    payload::convert(Direction::Encrypt, key, from, to, used).context("encrypting root")
}
