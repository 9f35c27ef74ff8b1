//! The disk image: an MBR, which every Pi boots, a FAT firmware partition, and the LUKS partition with root.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::payload::{self, Blocks, Direction, VolumeKey};
use super::tools::Tools;
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
pub fn create(tools: &Tools, path: &Path, layout: &Layout) -> Result<File> {
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
        // No kernel is told, since it would sync every disk of this machine for that.
        process::tool("sfdisk").args(["--quiet", "--wipe=never", "--no-tell-kernel"]).arg(path),
        "writing the partition table",
        table.as_bytes(),
    )?;
    process::run(
        tools
            .command("mkfs.vfat")?
            .args(["--invariant", "-F", "32", "-n", "FIRMWARE", "-i", &format!("{:08x}", layout.disk_id)])
            .args(["--offset", &(FIRMWARE_START / SECTOR).to_string()])
            .arg(path)
            .arg((FIRMWARE_SIZE / 1024).to_string()),
        "making the firmware partition",
    )?;
    Ok(image)
}

/// Copies a folder's content into the firmware partition, in the order of the names, so that two images are the same. All files
/// get the time `epoch`, in seconds since 1970.
pub fn fill_firmware(tools: &Tools, path: &Path, folder: &Path, epoch: u64) -> Result<()> {
    let filling = "filling the firmware partition";
    let drive = firmware_drive(path);
    let tool = |name: &str| -> Result<Command> {
        let mut command = tools.command(name)?;
        command.env("SOURCE_DATE_EPOCH", epoch.to_string()).arg("-i").arg(&drive);
        Ok(command)
    };
    let mut folders = vec![(folder.to_owned(), String::from("::"))];
    while let Some((folder, place)) = folders.pop() {
        let reading = || format!("{filling}: reading {}", folder.display());
        let mut entries = fs::read_dir(&folder).with_context(reading)?.collect::<Result<Vec<_>, _>>().with_context(reading)?;
        entries.sort_by_key(DirEntry::file_name);
        let (inner, files): (Vec<_>, Vec<_>) = entries.iter().map(DirEntry::path).partition(|path| path.is_dir());
        ensure!(!files.is_empty(), "{filling}: there are no files for it in {}", folder.display());
        process::run(tool("mcopy")?.arg("-Q").args(files).arg(&place), filling)?;
        for folder in inner.into_iter().rev() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("{}/{name}", place.trim_end_matches('/'));
            process::run(tool("mmd")?.arg(&place), filling)?;
            folders.push((folder.clone(), place));
        }
    }
    Ok(())
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
