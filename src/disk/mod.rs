//! The backup disk: a whole disk under LUKS2 with an ext4 in it, known by a serial number that the config names.
//!
//! It has two keyslots: a random key file on root, which opens it at every boot, and the recovery passphrase, which opens
//! it anywhere when the SD card is dead. A blank disk is formatted on first use; any other disk is never touched unless
//! a person names it. There may be several, which change places: one is open at a time, under one name.

mod content;
mod keys;
mod list;
mod renew;
pub mod used;
mod which;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

use crate::config::Config;
use crate::devices::Block;
use crate::keys::recovery;
use crate::log::printable;
use crate::luks::cipher::Cipher;
use crate::luks::slots;
use crate::luks::{self, Key, Tried};
use crate::secret::Secret;
use crate::{mounts, process};
use content::Content;
pub use keys::{KEY_PATH, RECOVERY_PATH};
pub use list::{Row, list};
pub use renew::{renew_passphrase, renewable};

/// The name of the open disk: `/dev/mapper/vaultberry-backup`.
pub const NAME: &str = "vaultberry-backup";

/// The name of a disk that is being formatted, and the label of its volume until it has a file system. No other disk is ever
/// given one: what can't be read on it now may be readable again, or be mended.
const NEW: &str = "vaultberry-new";

/// Held by whoever opens, closes or formats disks: each that is plugged in has a unit of its own, and all share the names.
const LOCK: &str = "/run/vaultberry-disk.lock";

/// How long a disk that was pulled while it was in use may linger before another is opened. The unit waits longer.
const LINGER: Duration = Duration::from_mins(2);

/// Prepares disks for their first use: formats a blank one, finishes a format that was cut short, leaves one of ours alone.
///
/// `node` means one disk, else all that the config names and that are there. `really` is the serial number of a disk that
/// is to be formatted whatever it holds. `consent` is asked before anything else than a blank disk is formatted, and told what
/// will be lost.
///
/// # Errors
/// A disk isn't blank, and there is no consent; or it can't be read or written.
pub fn init(
    config: &Config,
    node: Option<&Path>,
    really: Option<&str>,
    consent: impl Fn(&Row) -> Result<bool>,
) -> Result<Vec<Block>> {
    let disk = which::named(config)?;
    let _alone = alone()?;
    let blocks = match node {
        Some(node) => which::at(disk, node)?.into_iter().collect(),
        None => which::there(disk)?,
    };
    if let Some(serial) = really {
        let names = disk.serials.join(", ");
        ensure!(disk.serials.iter().any(|known| known == serial), "the config names {names}, and not {serial}");
        ensure!(blocks.iter().any(|block| block.serial.as_deref() == Some(serial)), "the disk {serial} isn't there");
    }
    let meant = |block: &&Block| really.is_none() || block.serial.as_deref() == really;
    let mut formatted = Vec::new();
    for block in blocks.iter().filter(meant) {
        if prepare(block, really.is_some(), &consent)? {
            formatted.push(block.clone());
        }
    }
    Ok(formatted)
}

/// Prepares one disk; gives whether it was formatted.
fn prepare(block: &Block, really: bool, consent: &impl Fn(&Row) -> Result<bool>) -> Result<bool> {
    let found = content::of(block)?;
    let wanted = match &found {
        _ if really => true,
        Content::Blank => true,
        Content::Ours => false,
        _ => {
            let row = list::row(block)?;
            ensure!(consent(&row)?, refusal(&row, &found));
            true
        }
    };
    if wanted {
        let open = luks::device_below(&luks::mapped(NAME)).is_some_and(|below| below == block.node);
        ensure!(!open, "the disk {} is open\nhint: `vaultberry disk detach` closes it", block.node.display());
        format(block)?;
    }
    if wanted || found == Content::Ours {
        finish_format(block)?;
    }
    Ok(wanted)
}

fn alone() -> Result<Flock<File>> {
    let locking = || format!("locking {LOCK}");
    let file = File::options().create(true).truncate(false).write(true).open(LOCK).with_context(locking)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(locking)
}

fn refusal(row: &Row, found: &Content) -> String {
    let hint = if *found == Content::ForeignLuks {
        "`vaultberry disk attach` takes it over with the recovery passphrase of the appliance that made it".to_owned()
    } else {
        format!("`vaultberry disk init --yes-really {}` erases it", row.config_name.as_deref().unwrap_or_default())
    };
    format!("the disk {} is not blank: it holds {}\nhint: {hint}", row.name(), found.words())
}

/// Opens a disk and mounts it at the backup folder; gives which. Does nothing when one is there already: then none.
///
/// # Errors
/// None is there, or is one of ours, or it can't be mounted.
pub fn open(config: &Config) -> Result<Option<Block>> {
    let disk = which::named(config)?;
    let _alone = alone()?;
    let folder = &config.backup.folder;
    let mapped = luks::mapped(NAME);
    let below = luks::device_below(&mapped);
    if below.is_some() && mounts::source_of(folder)?.is_some_and(|source| source == mapped) {
        return Ok(None);
    }
    let mut opened = None;
    if below.is_none() {
        close_lost(folder)?;
        let block = first_of_ours(which::there(disk)?)?;
        finish_format(&block)?;
        open_volume(&block, NAME)?;
        // The disk is open all the same.
        if let Err(error) = renew::bring(&block.node) {
            tracing::warn!("giving the backup disk the recovery passphrase of today: {error:#}");
        }
        opened = Some(block);
    }
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    mounts::mount(&mapped, folder)?;
    Ok(opened)
}

/// Whether the config names the disk at `node`.
///
/// # Errors
/// Two disks have its serial number, or udev can't be asked.
pub fn is_named(config: &Config, node: &Path) -> Result<bool> {
    let Some(disk) = &config.disk else { return Ok(false) };
    Ok(which::at(disk, node)?.is_some())
}

fn first_of_ours(blocks: Vec<Block>) -> Result<Block> {
    let (mut refused, mut unreadable) = (None, None);
    for block in blocks {
        match content::of(&block) {
            Ok(Content::Ours) => return Ok(block),
            Ok(found) => refused = refused.or(Some((block, found))),
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    if let Some(error) = unreadable {
        return Err(error);
    }
    let (block, found) = refused.context("a disk is there")?;
    let hint = match found {
        Content::ForeignLuks => "`vaultberry disk attach` takes over the disk of another appliance",
        _ => "`vaultberry disk init` formats it",
    };
    bail!("{} can't be opened: it holds {}\nhint: {hint}", list::row(&block)?.name(), found.words())
}

/// Unmounts and closes the open disk. Does nothing when none is open, or, with `node`, another one.
///
/// # Errors
/// It is in use.
pub fn close(config: &Config, node: Option<&Path>) -> Result<()> {
    let _alone = alone()?;
    let folder = &config.backup.folder;
    let mapped = luks::mapped(NAME);
    let Some(below) = luks::device_below(&mapped) else { return close_lost(folder) };
    if node.is_some_and(|node| node != below) {
        return Ok(());
    }
    if mounts::source_of(folder)?.is_some_and(|source| source == mapped) {
        mounts::unmount(folder, false)
            .with_context(|| format!("closing the backup disk\nhint: `fuser -vm {}` shows who uses it", folder.display()))?;
    }
    luks::close(NAME)
}

/// Does away with what is left of a disk that was pulled out while it was open. Who still writes to it gets errors; when the last
/// of them has ended, nothing is left.
fn close_lost(folder: &Path) -> Result<()> {
    let mapped = luks::mapped(NAME);
    while mounts::source_of(folder)?.is_some_and(|source| source == mapped) {
        mounts::unmount(folder, true)?;
    }
    let until = Instant::now() + LINGER;
    // libcryptsetup says each time that the disk is gone.
    let mut pause = Duration::from_secs(1);
    while mapped.exists() {
        match luks::close(NAME) {
            Err(error) if Instant::now() > until => return Err(error.context("the disk that was pulled out is still in use")),
            _ => {}
        }
        if mapped.exists() {
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(16));
        }
    }
    Ok(())
}

/// Lets the file system have the whole disk, as after a smaller one was copied to it; gives its bytes.
///
/// # Errors
/// No disk is open, or the file system can't be made larger.
pub fn grow(config: &Config) -> Result<u64> {
    mounted(&config.backup.folder)?;
    let mapped = luks::mapped(NAME);
    process::run(process::tool("resize2fs").arg(&mapped), "letting the backup disk's file system take the whole disk")?;
    list::size_of(&mapped)
}

/// Takes over disks of another appliance, a dead one's: its recovery passphrase adds this appliance's two keys. The old
/// ones stay. Gives those that were taken over.
///
/// # Errors
/// A disk that is there isn't one, or the passphrase doesn't open it.
pub fn attach(config: &Config, typed: &Secret<String>) -> Result<Vec<Block>> {
    let _alone = alone()?;
    let mut attached = Vec::new();
    for block in which::there(which::named(config)?)? {
        match content::of(&block)? {
            Content::Ours => {}
            Content::ForeignLuks => {
                take_over(&block, typed)?;
                attached.push(block);
            }
            Content::Blank => bail!("the disk {} is blank\nhint: `vaultberry disk init` formats it", block.node.display()),
            Content::Other(what) => bail!("the disk {} is not a backup disk: it holds {what}", block.node.display()),
        }
    }
    Ok(attached)
}

fn take_over(block: &Block, typed: &Secret<String>) -> Result<()> {
    let (own, key) = (keys::passphrase()?, keys::own()?);
    let typed = recovery::normalize(typed.expose());
    // The key file last, as in a format.
    for new in [Key::Passphrase(&own), Key::Random(&key)] {
        // Another flash of the same image has the same passphrase.
        if luks::test_key(&block.node, new)? == Tried::Opened {
            continue;
        }
        if slots::add(&block.node, Key::Passphrase(&typed), new, &renew::holder(&new)?)?.is_none() {
            bail!(
                "this passphrase doesn't open {}\nhint: it stands on the recovery sheet of the appliance that made the disk",
                block.node.display()
            );
        }
    }
    Ok(())
}

/// Makes sure that what is mounted at `folder` is the backup disk. Without it the folder is an ordinary one on root.
pub fn mounted(folder: &Path) -> Result<()> {
    const HINT: &str = "hint: plug the disk in and run `vaultberry disk open`";
    // Names in mountinfo have no symbolic links in them.
    let Ok(folder) = fs::canonicalize(folder) else {
        bail!("the backup disk is not mounted: there is no folder {}\n{HINT}", folder.display());
    };
    match mounts::source_of(&folder)? {
        None => bail!("the backup disk is not mounted at {}\n{HINT}", folder.display()),
        Some(device) if device == luks::mapped(NAME) => Ok(()),
        Some(device) => bail!(
            "the backup disk is not mounted at {}: {} is there instead of {}\n{HINT}",
            folder.display(),
            printable(device.as_os_str().as_bytes()),
            luks::mapped(NAME).display()
        ),
    }
}

fn format(block: &Block) -> Result<()> {
    let (phrase, key) = (keys::passphrase()?, keys::own()?);
    // The key file last: a disk that it opens has both keys, also after a power cut in between.
    let keys = [Key::Passphrase(&phrase), Key::Random(&key)];
    luks::format(&block.node, Uuid::new_v4(), NEW, Cipher::of_this_cpu()?, None, &keys)?;
    slots::describe(&block.node, 0, &renew::holder(&keys[0])?)
}

/// Makes the file system of a volume that has just been formatted, also when the power failed in between. Any other volume is
/// left as it is.
fn finish_format(block: &Block) -> Result<()> {
    if luks::label(&block.node)? != NEW {
        return Ok(());
    }
    // Left by one that was killed.
    if luks::mapped(NEW).exists() {
        luks::close(NEW)?;
    }
    let mapped = open_volume(block, NEW)?;
    let made = process::run(
        process::tool("mkfs.ext4").args(["-q", "-F", "-m", "0", "-L", "vaultberry", "-E", "lazy_itable_init=1"]).arg(&mapped),
        "making the backup disk's file system",
    );
    luks::close(NEW)?;
    made?;
    luks::set_label(&block.node, NAME)
}

fn open_volume(block: &Block, name: &str) -> Result<PathBuf> {
    match luks::open(&block.node, name, Key::Random(&keys::known()?))? {
        Tried::Opened => Ok(luks::mapped(name)),
        Tried::WrongKey => bail!(
            "the key {KEY_PATH} doesn't open {}\nhint: `vaultberry disk attach` takes over the disk of another appliance",
            block.node.display()
        ),
    }
}
