//! The backup disk: a whole disk under LUKS2 with an ext4 in it, known by the serial number that the config names.
//!
//! It has two keyslots: a random key file on root, which opens it at every boot, and the recovery passphrase, which opens
//! it anywhere when the SD card is dead. A blank disk is formatted on first use; any other disk is never touched unless
//! a person names it.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use uuid::Uuid;

use crate::config::{Config, Disk};
use crate::devices::{self, Block};
use crate::keys::keyfile::{KEY_SIZE, random};
use crate::keys::recovery;
use crate::log::printable;
use crate::luks::slots::{self, Holder, Kind, Slot};
use crate::luks::{self, Key, Tried};
use crate::secret::Secret;
use crate::{durable, mounts, process};

/// The name of the open disk: `/dev/mapper/vaultberry-backup`.
pub const NAME: &str = "vaultberry-backup";
/// The key that opens the backup disk; random bytes, mode 0600, on the encrypted root.
pub const KEY_PATH: &str = "/etc/vaultberry/keys/backup-disk.key";
/// The recovery passphrase, mode 0600, on the encrypted root: a new disk gets it as its second key.
pub const RECOVERY_PATH: &str = "/etc/vaultberry/keys/recovery";

/// What is found at both ends of a disk and sampled in between must be zeros for a disk to be called blank.
const ENDS: u64 = 1 << 20;
const SAMPLES: u64 = 256;

/// What a disk holds, as far as this appliance is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Blank,
    /// A volume that our key file opens.
    Ours,
    /// A volume that it doesn't open.
    ForeignLuks,
    Other(String),
}

/// Prepares the disk for its first use: formats a blank one, finishes a format that was cut short, leaves one of ours alone.
///
/// # Errors
/// Any other disk is refused, unless `erase` repeats its serial number.
pub fn init(config: &Config, erase: Option<&str>) -> Result<()> {
    let disk = wanted(config)?;
    let block = find(disk)?;
    if let Some(erase) = erase {
        ensure!(erase == disk.serial, "the config names the disk {}, not {erase}", disk.serial);
    }
    match content(&block)? {
        _ if erase.is_some() => {
            ensure!(!luks::mapped(NAME).exists(), "the backup disk is open\nhint: `vaultberry disk close` closes it");
            format(&block)?;
        }
        Content::Ours => {}
        Content::Blank => format(&block)?,
        found => bail!(refusal(&block, disk, &found)),
    }
    finish_format(&block)
}

fn refusal(block: &Block, disk: &Disk, found: &Content) -> String {
    let (what, hint) = match found {
        Content::ForeignLuks => (
            "an encrypted volume that this appliance has no key for",
            String::from("`vaultberry disk attach` takes it over with the recovery passphrase of the appliance that made it"),
        ),
        Content::Other(what) => (what.as_str(), format!("`vaultberry disk init --erase {}` erases it", disk.serial)),
        Content::Blank | Content::Ours => ("nothing that stands in the way", String::new()),
    };
    format!("the disk {} ({}) is not blank: it holds {what}\nhint: {hint}", disk.serial, block.node.display())
}

/// Opens the disk and mounts it at the backup folder. Does nothing when that is so already.
pub fn open(config: &Config) -> Result<()> {
    let disk = wanted(config)?;
    let folder = &config.backup.folder;
    let mapped = luks::mapped(NAME);
    if mounts::source_of(folder)?.is_some_and(|source| source == mapped) {
        return Ok(());
    }
    if !mapped.exists() {
        let block = find(disk)?;
        open_volume(&block)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    mount(Some(&mapped), folder, Some("ext4"), flags, None::<&str>)
        .with_context(|| format!("mounting the backup disk at {}", folder.display()))
}

/// Unmounts and closes the disk. Does nothing when it isn't open.
pub fn close(config: &Config) -> Result<()> {
    let folder = &config.backup.folder;
    let mapped = luks::mapped(NAME);
    if mounts::source_of(folder)?.is_some_and(|source| source == mapped) {
        umount2(folder, MntFlags::empty()).with_context(|| format!("unmounting {}", folder.display()))?;
    }
    if mapped.exists() { luks::close(NAME) } else { Ok(()) }
}

/// Takes over a disk of another appliance, a dead one's: its recovery passphrase adds this appliance's two keys. The old
/// ones stay.
pub fn attach(config: &Config, typed: &Secret<String>) -> Result<()> {
    let block = find(wanted(config)?)?;
    match content(&block)? {
        Content::Ours => return Ok(()),
        Content::ForeignLuks => {}
        Content::Blank => bail!("the disk {} is blank\nhint: `vaultberry disk init` formats it", block.node.display()),
        Content::Other(what) => bail!("the disk {} is not a backup disk: it holds {what}", block.node.display()),
    }
    let (own, key) = (own_passphrase()?, own_key()?);
    let typed = recovery::normalize(typed.expose());
    // The key file last, as in a format.
    for new in [Key::Passphrase(&own), Key::Random(&key)] {
        // Another flash of the same image has the same passphrase.
        if luks::test_key(&block.node, new)? == Tried::Opened {
            continue;
        }
        if slots::add(&block.node, Key::Passphrase(&typed), new, &Holder::of(&new))?.is_none() {
            bail!(
                "this passphrase doesn't open {}\nhint: it stands on the recovery sheet of the appliance that made the disk",
                block.node.display()
            );
        }
    }
    Ok(())
}

/// Gives the backup disk this recovery passphrase in the place of the one that it has, and keeps it for the next disk.
///
/// # Errors
/// The disk isn't there, isn't this appliance's, or can't be written.
pub fn renew_passphrase(config: &Config, phrase: &Secret<String>) -> Result<()> {
    durable::write(Path::new(RECOVERY_PATH), phrase.expose().as_bytes(), 0o600)?;
    let Some(disk) = &config.disk else { return Ok(()) };
    let node = find(disk)?.node;
    let key = read_key()?.with_context(|| format!("the key of the backup disk, {KEY_PATH}, isn't there"))?;
    let new = Key::Passphrase(phrase);
    let old: Vec<Slot> = slots::slots(&node)?;
    let added = slots::add(&node, Key::Random(&key), new, &Holder::of(&new))?;
    added.with_context(|| format!("the key {KEY_PATH} doesn't open {}", node.display()))?;
    for slot in old.iter().filter(|slot| slot.holder.as_ref().is_some_and(|holder| holder.kind == Kind::Recovery)) {
        slots::kill(&node, slot.number)?;
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

fn wanted(config: &Config) -> Result<&Disk> {
    config.disk.as_ref().context(
        "the config names no backup disk\nhint: add `[disk]` with its `serial`; `lsblk -o NAME,SERIAL,SIZE,MODEL` shows it",
    )
}

fn find(disk: &Disk) -> Result<Block> {
    let mut found = devices::present()?.into_iter().filter(|block| block.whole && block.serial.as_deref() == Some(&disk.serial));
    let block = found.next().with_context(|| {
        format!(
            "the backup disk {} isn't there\nhint: plug it in; `lsblk -o NAME,SERIAL,SIZE,MODEL` shows what is there",
            disk.serial
        )
    })?;
    match found.next() {
        None => Ok(block),
        Some(other) => {
            bail!("two disks have the serial number {}: {} and {}", disk.serial, block.node.display(), other.node.display())
        }
    }
}

fn content(block: &Block) -> Result<Content> {
    if luks::uuid(&block.node).is_some() {
        let key = read_key()?;
        let ours = match &key {
            Some(key) => luks::test_key(&block.node, Key::Random(key))? == Tried::Opened,
            None => false,
        };
        return Ok(if ours { Content::Ours } else { Content::ForeignLuks });
    }
    if let Some(found) = block.content() {
        return Ok(Content::Other(format!("a {} signature", found.escape_default())));
    }
    Ok(if is_zeros(&block.node)? { Content::Blank } else { Content::Other(String::from("data")) })
}

/// Are both ends, and samples in between, zeros?
fn is_zeros(node: &Path) -> Result<bool> {
    let reading = || format!("reading {}", node.display());
    let mut file = File::open(node).with_context(reading)?;
    let size = file.seek(SeekFrom::End(0)).with_context(reading)?;
    let mut buffer = vec![0; usize::try_from(ENDS).expect("a small number")];
    let mut zeros = |offset: u64, length: u64| -> Result<bool> {
        let part = &mut buffer[..usize::try_from(length.min(size - offset)).expect("a part of the buffer")];
        file.read_exact_at(part, offset).with_context(reading)?;
        Ok(part.iter().all(|byte| *byte == 0))
    };
    for sample in 0..SAMPLES {
        if !zeros(size / SAMPLES * sample, 4096)? {
            return Ok(false);
        }
    }
    Ok(zeros(0, ENDS)? && zeros(size.saturating_sub(ENDS), ENDS)?)
}

fn format(block: &Block) -> Result<()> {
    let (phrase, key) = (own_passphrase()?, own_key()?);
    // The key file last: a disk that it opens has both keys, also after a power cut in between.
    luks::format(&block.node, Uuid::new_v4(), "vaultberry-backup", None, &[Key::Passphrase(&phrase), Key::Random(&key)])
}

/// Makes the file system where the volume has none: right after the format, or after a power cut in between.
fn finish_format(block: &Block) -> Result<()> {
    let mapped = luks::mapped(NAME);
    if !mapped.exists() {
        open_volume(block)?;
    }
    if has_signature(&mapped)? {
        return Ok(());
    }
    process::run(
        process::tool("mkfs.ext4").args(["-q", "-m", "0", "-L", "vaultberry", "-E", "lazy_itable_init=1"]).arg(&mapped),
        "making the backup disk's file system",
    )
}

/// Does blkid(8) find a file system? Only its exit code 2 says that there is none; anything else mustn't lead to a format.
fn has_signature(device: &Path) -> Result<bool> {
    let doing = "looking for the backup disk's file system";
    let status = process::tool("blkid").args(["-p", "-o", "value", "-s", "TYPE"]).arg(device).stdout(Stdio::null()).status();
    match status.with_context(|| format!("{doing}: starting `blkid`"))?.code() {
        Some(0) => Ok(true),
        Some(2) => Ok(false),
        _ => bail!("{doing}: `blkid` failed on {}", device.display()),
    }
}

fn open_volume(block: &Block) -> Result<()> {
    let key = read_key()?.with_context(|| format!("the key of the backup disk, {KEY_PATH}, isn't there"))?;
    match luks::open(&block.node, NAME, Key::Random(&key))? {
        Tried::Opened => Ok(()),
        Tried::WrongKey => bail!(
            "the key {KEY_PATH} doesn't open {}\nhint: `vaultberry disk attach` takes over the disk of another appliance",
            block.node.display()
        ),
    }
}

fn read_key() -> Result<Option<Secret<Vec<u8>>>> {
    match fs::read(KEY_PATH) {
        Ok(key) => Ok(Some(Secret::new(key))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading the backup disk's key {KEY_PATH}")),
    }
}

fn own_passphrase() -> Result<Secret<String>> {
    let typed = fs::read_to_string(RECOVERY_PATH).map(Secret::new).with_context(|| {
        format!("reading the recovery passphrase in {RECOVERY_PATH}\nhint: write eight words or more there, mode 0600")
    })?;
    Ok(recovery::normalize(typed.expose()))
}

/// The key of this appliance's backup disks; drawn when there is none.
fn own_key() -> Result<Secret<Vec<u8>>> {
    if let Some(key) = read_key()? {
        return Ok(key);
    }
    let path = PathBuf::from(KEY_PATH);
    let key = random(KEY_SIZE)?;
    fs::create_dir_all(path.parent().expect("the key lies in a folder")).context("making the folder of the keys")?;
    durable::write(&path, key.expose(), 0o600)?;
    Ok(key)
}
