//! A stick at hand: its folder where it is mounted, its device, or an image of one. Key files are put on it, and read off it.
//!
//! A key file is replaced in three steps, of which each leaves a whole one: the new file beside the old, under the same name
//! with `.new` behind it; the old one goes; the new one takes its name. The unlock takes `.new` where the name is missing, and
//! the next replacement begins with the renaming that was left to do.
//!
//! What was put is then read from the stick itself, as the unlock reads it: a device is mounted anew for that.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use uuid::Uuid;

use super::keyfile::{self, KeyFile, coming_name, new_name, path_on_stick};
use super::settle;
use super::stick;
use crate::devices::{self, Block};
use crate::luks::slots::id;
use crate::secret::Secret;
use crate::{durable, process};

/// How long somebody else's look at a stick is waited for, and how often.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 50;

/// A stick, as its owner names it.
#[derive(Debug)]
pub struct Stick {
    named: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Mounted(Box<Mounted>),
    /// What mtools call a drive: an image, and where the file system begins.
    Image(String),
}

impl Stick {
    /// The stick at `path`: a folder, a block device, or an image with one partition or none.
    ///
    /// # Errors
    /// There is none, or it can't be mounted: also where somebody else has mounted it to write to it.
    pub fn at(path: &Path) -> Result<Self> {
        let looking = || format!("looking at the stick {}", path.display());
        let kind = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(missing(path)),
            about => about.with_context(looking)?.file_type(),
        };
        let place = if kind.is_dir() {
            Place::Folder(path.to_owned())
        } else if kind.is_block_device() {
            Place::Mounted(Box::new(Mounted::new(path)?))
        } else {
            ensure!(kind.is_file(), "{}: it is neither a device, nor a folder, nor a file", looking());
            let offset = stick::file_system_in(&File::open(path).with_context(looking)?).with_context(looking)?;
            Place::Image(format!("{}@@{offset}", path.display()))
        };
        Ok(Self { named: path.to_owned(), place })
    }

    /// The stick as its owner named it.
    pub fn name(&self) -> String {
        self.named.display().to_string()
    }

    /// Whether it is the image that `root` is in, or on root's own disk: a key there goes with root to the thief, and the unlock
    /// doesn't look for one.
    ///
    /// # Errors
    /// One of the two can't be looked at.
    pub fn is_with(&self, root: &Path) -> Result<bool> {
        let about = |path: &Path| fs::metadata(path).with_context(|| format!("looking at {}", path.display()));
        let (own, other) = (about(&self.named)?, about(root)?);
        if other.is_file() {
            return Ok((own.dev(), own.ino()) == (other.dev(), other.ino()));
        }
        let present = devices::present()?;
        let disk = present.iter().find(|block| about(&block.node).is_ok_and(|node| node.rdev() == other.rdev()));
        let Some(disk) = disk.map(|block| &block.disk) else { return Ok(false) };
        let here = if own.is_dir() { own.dev() } else { own.rdev() };
        Ok(present.iter().any(|block| block.disk == *disk && about(&block.node).is_ok_and(|node| node.rdev() == here)))
    }

    /// The key for the root `uuid`; none when there is no such file.
    ///
    /// # Errors
    /// It can't be read, or isn't that key.
    pub fn key(&self, uuid: Uuid) -> Result<Option<KeyFile>> {
        keyfile::find(uuid, &self.name(), |path| self.read(path))
    }

    /// Makes sure that no key is lost when one for the root `uuid` is put on it: none is there under that name but `same`, or
    /// what isn't a whole key.
    ///
    /// # Errors
    /// There is one.
    pub fn has_room_for(&self, uuid: Uuid, same: Option<&KeyFile>) -> Result<()> {
        let path = path_on_stick(uuid);
        for name in [&path, &new_name(&path)] {
            let bytes = self.read(name).ok().flatten();
            let Some(there) = bytes.and_then(|bytes| KeyFile::decode_any(bytes.expose()).ok()) else { continue };
            ensure!(
                there.uuid == uuid,
                "{} has the key of another appliance, {}, under the name of this one's\nhint: give {} its right name there",
                self.name(),
                there.uuid,
                name.display()
            );
            ensure!(
                same.is_some_and(|same| same.key.expose() == there.key.expose()),
                "{} has another key for this root, {}, which may open another card of the same image, or this one after a rotation\n\
                 hint: take another stick; or, if `vaultberry key check` says there that it opens nothing, remove {}",
                self.name(),
                id(there.key.expose()),
                name.display()
            );
        }
        Ok(())
    }

    /// Puts a key on it, in the place of the one for the same root.
    ///
    /// # Errors
    /// It can't be written, or doesn't come back from the stick as it was written.
    pub fn put(&self, key: &KeyFile) -> Result<()> {
        let (path, bytes) = (path_on_stick(key.uuid), key.encode());
        let writing = || format!("writing the key to {}", self.name());
        let new = new_name(&path);
        self.open_to_write()?;
        self.finish(key.uuid).with_context(writing)?;
        self.write(&new, &bytes).with_context(writing)?;
        // Twice: the old key goes only when the new one lies there whole.
        self.comes_back(&new, &bytes).with_context(writing)?;
        self.replace(&new, &path).with_context(writing)?;
        self.settle(key.uuid)?;
        self.comes_back(&path, &bytes).with_context(writing)
    }

    /// Puts a key beside its place, where no boot looks for it, as long as it has no keyslot.
    ///
    /// # Errors
    /// As for [`Stick::put`].
    pub fn bring(&self, key: &KeyFile) -> Result<()> {
        let (path, bytes) = (coming_name(&path_on_stick(key.uuid)), key.encode());
        let writing = || format!("writing the key to {}", self.name());
        self.open_to_write()?;
        self.write(&path, &bytes).with_context(writing)?;
        self.settle(key.uuid)?;
        self.comes_back(&path, &bytes).with_context(writing)
    }

    /// The key for the root `uuid` that was brought, and hasn't taken its place.
    pub fn brought(&self, uuid: Uuid) -> Option<KeyFile> {
        let bytes = self.read(&coming_name(&path_on_stick(uuid))).ok().flatten()?;
        KeyFile::decode(bytes.expose(), uuid).ok()
    }

    /// Gives the key that was brought its place.
    ///
    /// # Errors
    /// It can't be renamed.
    pub fn take_place(&self, uuid: Uuid) -> Result<()> {
        self.open_to_write()?;
        let path = path_on_stick(uuid);
        self.replace(&coming_name(&path), &path).with_context(|| format!("giving the key on {} its name", self.name()))?;
        self.settle(uuid)
    }

    /// Gives a key for the root `uuid` its name, where the power went before it had that. A later one can then come beside it.
    ///
    /// # Errors
    /// It can't be renamed.
    pub fn complete(&self, uuid: Uuid) -> Result<()> {
        self.open_to_write()?;
        self.finish(uuid).with_context(|| format!("renaming the key on {}", self.name()))?;
        self.settle(uuid)
    }

    fn open_to_write(&self) -> Result<()> {
        if let Place::Mounted(mounted) = &self.place { mounted.again(Access::Write) } else { Ok(()) }
    }

    fn finish(&self, uuid: Uuid) -> Result<()> {
        let path = path_on_stick(uuid);
        let uuid_of =
            |path: &Path| self.read(path).ok().flatten().and_then(|bytes| Some(KeyFile::decode_any(bytes.expose()).ok()?.uuid));
        let new = new_name(&path);
        if uuid_of(&path).is_none() && uuid_of(&new) == Some(uuid) { self.replace(&new, &path) } else { Ok(()) }
    }

    /// Lets the key for the root `uuid` be read from the stick itself, as the unlock will find it, and not from memory.
    ///
    /// # Errors
    /// Something on it can't be written, or it can't be mounted anew.
    pub fn settle(&self, uuid: Uuid) -> Result<()> {
        let settling = || format!("bringing everything to the stick {}", self.name());
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(path_on_stick(uuid));
                settle::folder(folder, &[new_name(&path), coming_name(&path), path]).with_context(settling)
            }
            Place::Mounted(mounted) => mounted.again(Access::Read),
            Place::Image(_) => File::open(&self.named).and_then(|image| image.sync_all()).with_context(settling),
        }
    }

    fn comes_back(&self, path: &Path, bytes: &Secret<Vec<u8>>) -> Result<()> {
        let back = self.read(path)?;
        ensure!(
            back.is_some_and(|back| back.expose() == bytes.expose()),
            "it doesn't come back as it was written\nhint: the stick may be full, or broken"
        );
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<Secret<Vec<u8>>>> {
        if let Place::Image(drive) = &self.place {
            let list = process::tool("mdir").args(["-b", "-i", drive]).arg(inside(path)).output().context("starting `mdir`")?;
            if !list.status.success() {
                return Ok(None);
            }
            let read = process::output(process::tool("mtype").args(["-i", drive]).arg(inside(path)), "reading the stick's image");
            return read.map(Secret::new).map(Some);
        }
        keyfile::read(&self.folder().join(path)).with_context(|| format!("reading the key on {}", self.name()))
    }

    fn write(&self, path: &Path, bytes: &Secret<Vec<u8>>) -> Result<()> {
        let folder = path.parent().expect("a key lies in a folder");
        if let Place::Image(drive) = &self.place {
            // It may be there.
            let _ = process::tool("mmd").args(["-D", "s", "-i", drive]).arg(inside(folder)).output();
            let mut copy = process::tool("mcopy");
            copy.args(["-o", "-i", drive, "-"]).arg(inside(path));
            let copied = process::output_with_input(&mut copy, "writing to the stick's image", bytes.expose());
            return copied
                .map(drop)
                .context("copying the key\nhint: `mdir -i` shows whether the image is full, or can't be written");
        }
        let folder = self.folder().join(folder);
        match fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => durable::private_folder(&folder)?,
            // A link would lead the key elsewhere.
            about => {
                let about = about.with_context(|| format!("looking at {}", folder.display()))?;
                ensure!(about.is_dir(), "{} is no folder\nhint: remove it from the stick", folder.display());
            }
        }
        durable::write(&self.folder().join(path), bytes.expose(), 0o600)
    }

    fn replace(&self, new: &Path, old: &Path) -> Result<()> {
        if let Place::Image(drive) = &self.place {
            let _ = process::tool("mdel").args(["-i", drive]).arg(inside(old)).output();
            let mut rename = process::tool("mren");
            rename.args(["-i", drive]).arg(inside(new)).arg(inside(old));
            return process::run(&mut rename, "renaming the key in the stick's image");
        }
        let (new, old) = (self.folder().join(new), self.folder().join(old));
        fs::rename(&new, &old).with_context(|| format!("renaming {}", new.display()))?;
        durable::sync_folder_of(&old)
    }

    fn folder(&self) -> &Path {
        match &self.place {
            Place::Folder(folder) => folder,
            Place::Mounted(mounted) => mounted.folder.path(),
            Place::Image(_) => unreachable!("an image is reached by mtools"),
        }
    }
}

/// What is said of a stick that isn't there.
pub fn missing(path: &Path) -> String {
    format!("there is no stick {}\nhint: `lsblk -f` shows those that are plugged in, and where they are mounted", path.display())
}

/// A path as mtools want it.
fn inside(path: &Path) -> String {
    format!("::{}", path.display())
}

/// Mounts a stick read-only, as it is at boot.
///
/// # Errors
/// There is no file system for keys on it, or it can't be mounted.
pub fn mount_read_only(block: &Block, folder: &Path) -> Result<()> {
    // A read-only mount of ext4 still replays its journal, which writes.
    let options = (block.key_file_system() == Some("ext4")).then_some("noload");
    mount_with(block, folder, MsFlags::MS_RDONLY, options)
}

fn mount_with(block: &Block, folder: &Path, access: MsFlags, options: Option<&str>) -> Result<()> {
    let fs_type = block.key_file_system().context("the device holds no file system for keys")?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | access;
    mount(Some(&block.node), folder, Some(fs_type), flags, options)
        .with_context(|| format!("mounting {} as {fs_type}", block.node.display()))
}

/// What a mounted stick is for.
#[derive(Clone, Copy, Debug)]
enum Access {
    Read,
    Write,
}

/// A stick's file system, mounted for as long as this lives.
#[derive(Debug)]
struct Mounted {
    block: Block,
    folder: TempDir,
}

impl Mounted {
    fn new(node: &Path) -> Result<Self> {
        let node = fs::canonicalize(node).with_context(|| format!("looking at the stick {}", node.display()))?;
        let present = devices::present()?;
        let named = present.iter().find(|block| block.node == node);
        let named = named.with_context(|| format!("udev doesn't know the stick {}", node.display()))?;
        let on_it = |block: &&Block| block.node == node || (named.whole && block.disk == named.disk);
        let mut file_systems = present.iter().filter(on_it).filter(|block| block.may_hold_key());
        let Some(block) = file_systems.next() else {
            bail!("the stick {} has no FAT or ext4 file system\nhint: format it: mkfs.vfat -n VB-KEY DEVICE", node.display());
        };
        ensure!(
            file_systems.next().is_none(),
            "the stick {} has several file systems\nhint: name the partition: `lsblk -f` shows them",
            node.display()
        );
        Self::of(block.clone())
    }

    fn of(block: Block) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vaultberry-stick-").tempdir().context("making a folder for the stick")?;
        let mounted = Self { block, folder };
        mounted.mount(Access::Read)?;
        Ok(mounted)
    }

    fn mount(&self, access: Access) -> Result<()> {
        let mounted = match access {
            Access::Read => mount_read_only(&self.block, self.folder.path()),
            Access::Write => mount_with(&self.block, self.folder.path(), MsFlags::MS_SYNCHRONOUS, None),
        };
        match mounted {
            Err(error) if error.downcast_ref() == Some(&Errno::EBUSY) => {
                Err(error.context("the stick is mounted already\nhint: name the folder where it is: `lsblk` shows it"))
            }
            other => other,
        }
    }

    /// Mounts it anew. Nothing that memory has of it stays.
    fn again(&self, access: Access) -> Result<()> {
        let mut unmounted = Err(Errno::EBUSY);
        // A program that looks at whatever is plugged in may be looking right now.
        for _ in 0..LOOKS {
            unmounted = umount2(self.folder.path(), MntFlags::empty());
            if unmounted != Err(Errno::EBUSY) {
                break;
            }
            sleep(LOOK);
        }
        unmounted.with_context(|| format!("unmounting the stick {}", self.block.node.display()))?;
        self.mount(access)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Everything on it is written: it was mounted so.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

#[cfg(test)]
mod tests;
