//! The beginning of a new kernel's trial: before root is opened, the firmware partition is told to boot the old one next time.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::console::Consoles;
use crate::devices::Block;
use crate::kernel::trial;

/// Where the firmware partition is mounted for a moment.
const FOLDER: &str = "/run/vaultberry-firmware";

/// What is known of it while root is closed.
#[derive(Default)]
pub struct Trial {
    /// FAT file systems that have been seen.
    seen: Vec<Block>,
    begun: bool,
}

impl Trial {
    /// Takes note of a device that may be the firmware partition.
    pub fn see(&mut self, block: &Block) {
        if block.content() == Some("vfat") && !self.seen.iter().any(|seen| seen.node == block.node) {
            self.seen.push(block.clone());
        }
    }

    /// Begins the trial, once, when the firmware partition on root's disk is there. Root opens all the same when that fails.
    pub fn begin(&mut self, root: &Block, consoles: &mut Consoles) {
        let firmware = self.seen.iter().find(|block| block.disk == root.disk);
        let Some(firmware) = firmware.filter(|_| !self.begun) else { return };
        self.begun = true;
        match begin(&firmware.node) {
            Ok(None) => {}
            Ok(Some(old)) => consoles.say(&format!("this kernel is on trial: unless the system comes up, {old} boots next")),
            Err(error) => consoles.say(&format!("beginning the trial of this kernel: {error:#}")),
        }
    }
}

/// Most boots only look: the partition is written to when there is a trial.
fn begin(node: &Path) -> Result<Option<String>> {
    let Some(booted) = trial::booted()? else { return Ok(None) };
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder).with_context(|| format!("making the folder {FOLDER}"))?;
    let mount = |flags| {
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | flags;
        mount(Some(node), folder, Some("vfat"), flags, None::<&str>).with_context(|| format!("mounting {}", node.display()))
    };
    mount(MsFlags::MS_RDONLY)?;
    let begun = trial::is_first_boot(folder, &booted).and_then(|first| {
        if !first {
            return Ok(None);
        }
        mount(MsFlags::MS_REMOUNT)?;
        trial::begin(folder, &booted)
    });
    umount2(folder, MntFlags::empty()).with_context(|| format!("unmounting {}", node.display()))?;
    begun
}
