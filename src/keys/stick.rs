//! The stick as an image: one MBR partition with a FAT file system, labelled `VB-KEY`, that holds `vaultberry/*.key`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::durable::Durable;
use crate::process;

/// Bytes of a stick image: room for thousands of keys, and the least that every FAT driver reads as FAT16.
const SIZE: u64 = 16 << 20;
/// Where the partition begins, in sectors of 512 bytes.
const START: u64 = 2048;
/// The same in bytes.
const PARTITION: u64 = START * 512;

/// Bytes of a partition table (MBR), and of a boot sector: both end with 55 AA.
const SECTOR: usize = 512;
/// Where the MBR's first partition says in which sector it begins: four bytes, the lowest first.
const FIRST_PARTITION: usize = 446 + 8;
/// Where ext4 has its magic number, 53 EF.
const EXT4_MAGIC: u64 = 1024 + 56;

/// Where the FAT file system begins in the image of a stick, in bytes: at its begin, or in its first partition.
///
/// # Errors
/// There is none.
pub fn file_system_in(image: &File) -> Result<u64> {
    const HINT: &str = "hint: write the image to a stick, and name its device; or mount it, and name the folder";
    let mut sector = [0; SECTOR];
    let mut start = 0;
    for _ in 0..2 {
        if image.read_exact_at(&mut sector, start).is_err() || sector[510..] != [0x55, 0xaa] {
            break;
        }
        if is_fat(&sector) {
            return Ok(start);
        }
        let partition = sector[FIRST_PARTITION..][..4].try_into().expect("four bytes");
        start = u64::from(u32::from_le_bytes(partition)) * SECTOR as u64;
    }
    for start in [0, start] {
        let mut magic = [0; 2];
        if image.read_exact_at(&mut magic, start + EXT4_MAGIC).is_ok() && magic == [0x53, 0xef] {
            bail!("the image has ext4, and only FAT is read and written in a file\n{HINT}");
        }
    }
    bail!("it is no image of a stick: it has no FAT file system, and none in its first partition")
}

/// By its name for itself, which FAT12 and FAT16 have at another place than FAT32.
fn is_fat(sector: &[u8; SECTOR]) -> bool {
    matches!(sector[0], 0xeb | 0xe9) && (sector[54..].starts_with(b"FAT") || sector[82..].starts_with(b"FAT"))
}

/// Writes a stick image with these key files to `path`, mode 0600.
pub fn make_image(path: &Path, keys: &[&Path]) -> Result<()> {
    let mut image = Durable::create(path, 0o600)?;
    image.file().set_len(SIZE).with_context(|| format!("sizing {}", path.display()))?;
    process::output_with_input(
        // No kernel is told, since it would sync every disk of this machine for that.
        process::tool("sfdisk").args(["--quiet", "--no-tell-kernel"]).arg(image.part()),
        "partitioning the stick's image",
        format!("label: dos\nstart={START}, type=e\n").as_bytes(),
    )?;
    let blocks = (SIZE / 512 - START) / 2;
    process::run(
        process::tool("mkfs.vfat")
            .args(["-n", "VB-KEY", "--offset", &START.to_string()])
            .arg(image.part())
            .arg(blocks.to_string()),
        "making the stick's file system",
    )?;
    let drive = format!("{}@@{}", image.part().display(), PARTITION);
    process::run(process::tool("mmd").args(["-i", &drive, "::vaultberry"]), "making the stick's folder")?;
    for key in keys {
        process::run(
            process::tool("mcopy").args(["-i", &drive]).arg(key).arg("::vaultberry/"),
            "copying the key to the stick's image",
        )?;
    }
    image.publish()
}
