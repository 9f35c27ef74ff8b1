//! A new kernel's trial, before root is opened: says that there is one, and sees to it that the old one boots next time.

use std::path::{Path, PathBuf};

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
    /// Whether the firmware partition has been looked at.
    looked: bool,
    /// The firmware partition, once a trial has begun.
    begun: Option<PathBuf>,
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
        let Some(firmware) = firmware.filter(|_| !self.looked) else { return };
        self.looked = true;
        match begin(&firmware.node) {
            Ok(None) => {}
            Ok(Some(old)) => {
                self.begun = Some(firmware.node.clone());
                consoles.say(&format!("this kernel is on trial: unless the system comes up, {old} boots next"));
            }
            Err(error) => consoles.say(&format!("beginning the trial of this kernel: {error:#}")),
        }
    }

    /// Notes that the board reboots because no key came.
    pub fn leave_undecided(&mut self, consoles: &mut Consoles) {
        let Some(node) = self.begun.take() else { return };
        match on_firmware(&node, trial::leave_undecided) {
            Ok(Some(true)) => consoles.say("no key came, so this kernel will be tried again once the old one has come up"),
            Ok(_) => {}
            Err(error) => consoles.say(&format!("noting that the trial is undecided: {error:#}")),
        }
    }
}

/// Most boots only look: the partition is written to when the boot loader hasn't given the switch back. Gives what boots next
/// when this pair is on trial.
fn begin(node: &Path) -> Result<Option<String>> {
    let Some(booted) = trial::booted()? else { return Ok(None) };
    let Some(switch) = mounted(node, MsFlags::MS_RDONLY, |folder| trial::of(folder, &booted))? else { return Ok(None) };
    if switch.is_armed() {
        on_firmware(node, trial::begin)?;
    }
    Ok(Some(switch.given_back().boots))
}

/// Writes to the firmware partition for the pair that runs; none where the command line doesn't say which.
fn on_firmware<T>(node: &Path, write: impl FnOnce(&Path, &str) -> Result<T>) -> Result<Option<T>> {
    let Some(booted) = trial::booted()? else { return Ok(None) };
    // What is written to a folder is on the card at once: vfat writes a new name only later, also when the folder is synced.
    mounted(node, MsFlags::MS_DIRSYNC, |folder| write(folder, &booted)).map(Some)
}

fn mounted<T>(node: &Path, flags: MsFlags, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder).with_context(|| format!("making the folder {FOLDER}"))?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | flags;
    mount(Some(node), folder, Some("vfat"), flags, None::<&str>).with_context(|| format!("mounting {}", node.display()))?;
    let worked = work(folder);
    umount2(folder, MntFlags::empty()).with_context(|| format!("unmounting {}", node.display()))?;
    worked
}
