//! The firmware partition: what the board reads before there is a kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::statfs::{MSDOS_SUPER_MAGIC, statfs};

use super::pair;
use super::tree::Tree;
use crate::unlock::settings;
use crate::{digest, durable, mounts};

/// Where the appliance has it mounted. Not at `/boot/firmware`, where Debian's packages write in place.
pub const FOLDER: &str = "/boot/pi";

/// The mounted firmware partition of this appliance.
///
/// # Errors
/// Nothing is mounted there, or something else.
pub fn mounted() -> Result<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    ensure!(
        Path::new(settings::PATH).exists() || folder.exists(),
        "this machine is no appliance: neither {} nor {FOLDER} is there\n\
         hint: name a card in a reader with --root and --firmware",
        settings::PATH
    );
    let hint = || format!("hint: `mount {FOLDER}`; where that fails, look at the card's first partition with fsck.vfat");
    let source = mounts::source_of(&folder)?;
    ensure!(source.is_some(), "the firmware partition isn't mounted at {FOLDER}\n{}", hint());
    let found = statfs(&folder).with_context(|| format!("looking at {FOLDER}"))?.filesystem_type();
    ensure!(found == MSDOS_SUPER_MAGIC, "what is mounted at {FOLDER} isn't a firmware partition: it isn't FAT\n{}", hint());
    Ok(folder)
}

/// The names of all pairs that are there, complete or not, sorted; also of what an interrupted write has left.
///
/// # Errors
/// The partition can't be read.
pub fn pairs(firmware: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading {}", firmware.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(firmware).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let is_folder = entry.path().is_dir();
        names.extend(entry.file_name().into_string().ok().filter(|name| is_folder && pair::is_name(name)));
    }
    names.sort();
    Ok(names)
}

/// Brings the board's own boot programs up to date: each is replaced as a whole, and only when it differs. Gives how many.
///
/// # Errors
/// One can't be read or written.
pub fn update_programs(tree: &Tree, firmware: &Path) -> Result<usize> {
    let mut replaced = 0;
    for (name, from) in tree.boot_programs()? {
        let to = firmware.join(&name);
        if to.exists() && digest::sha256_of(&to)? == digest::sha256_of(&from)? {
            continue;
        }
        let content = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        let folder = to.parent().context("a boot program lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        durable::write(&to, &content, 0o644)?;
        replaced += 1;
    }
    Ok(replaced)
}
