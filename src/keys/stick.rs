//! The stick as an image: one MBR partition with a FAT file system, labelled `VB-KEY`, that holds `vaultberry/*.key`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::durable::Durable;
use crate::process;

/// Bytes of a stick image: room for thousands of keys, and the least that every FAT driver reads as FAT16.
const SIZE: u64 = 16 << 20;
/// Where the partition begins, in sectors of 512 bytes.
const START: u64 = 2048;
/// The same in bytes.
pub const PARTITION: u64 = START * 512;

/// Writes a stick image with these key files to `path`, mode 0600.
pub fn make_image(path: &Path, keys: &[&Path]) -> Result<()> {
    let mut image = Durable::create(path, 0o600)?;
    image.file().set_len(SIZE).with_context(|| format!("sizing {}", path.display()))?;
    process::output_with_input(
        process::tool("sfdisk").arg("--quiet").arg(image.part()),
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
