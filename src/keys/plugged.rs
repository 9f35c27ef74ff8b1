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
        if let Place::Mounted(mounted) = &self.place {
            mounted.again(Access::Write)?;
        }
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
        if let Place::Mounted(mounted) = &self.place {
            mounted.again(Access::Write)?;
        }
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
        if let Place::Mounted(mounted) = &self.place {
            mounted.again(Access::Write)?;
        }
        let path = path_on_stick(uuid);
        self.replace(&coming_name(&path), &path).with_context(|| format!("giving the key on {} its name", self.name()))?;
        self.settle(uuid)
    }

    /// Gives a key for the root `uuid` its name, where the power went before it had that. A later one can then come beside it.
    ///
    /// # Errors
    /// It can't be renamed.
    pub fn complete(&self, uuid: Uuid) -> Result<()> {
        if let Place::Mounted(mounted) = &self.place {
            mounted.again(Access::Write)?;
        }
        self.finish(uuid).with_context(|| format!("renaming the key on {}", self.name()))?;
        self.settle(uuid)
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
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::Uid;
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::{Mounted, Place, Stick};
    use crate::devices::tests::ext4;
    use crate::keys::keyfile::{KeyFile, new_name, path_on_stick};
    use crate::keys::stick::make_image;

    fn sticks(folder: &TempDir) -> [PathBuf; 2] {
        let (mounted, image) = (folder.path().join("mounted"), folder.path().join("stick.img"));
        fs::create_dir(&mounted).unwrap();
        make_image(&image, &[]).unwrap();
        [mounted, image]
    }

    #[test]
    fn a_key_is_put_read_and_replaced_in_a_folder_and_in_an_image() {
        let folder = tempfile::tempdir().unwrap();
        for path in sticks(&folder) {
            let stick = Stick::at(&path).unwrap();
            let uuid = Uuid::new_v4();
            assert!(stick.key(uuid).unwrap().is_none());
            for _ in 0..2 {
                let key = KeyFile::generate(uuid).unwrap();
                stick.put(&key).unwrap();
                assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), key.key.expose(), "{}", path.display());
            }
            assert!(stick.key(Uuid::new_v4()).unwrap().is_none());
        }
    }

    #[test]
    fn a_key_that_was_not_renamed_yet_counts_where_there_is_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (stick, uuid) = (Stick::at(folder.path()).unwrap(), Uuid::new_v4());
        let key = KeyFile::generate(uuid).unwrap();
        stick.put(&key).unwrap();
        let path = folder.path().join(path_on_stick(uuid));
        fs::rename(&path, new_name(&path)).unwrap();
        assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), key.key.expose());
        // What the power cut has left of the name's own file doesn't hide it.
        fs::write(&path, b"damaged").unwrap();
        assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), key.key.expose());
        fs::remove_file(new_name(&path)).unwrap();
        let error = stick.key(uuid).unwrap_err().to_string();
        assert!(error.ends_with("is too short: it has 7 of 128 bytes"), "{error}");
    }

    #[test]
    fn the_renaming_that_was_left_to_do_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for (place, path) in sticks(&folder).into_iter().enumerate() {
            let (stick, uuid) = (Stick::at(&path).unwrap(), Uuid::new_v4());
            let name = path_on_stick(uuid);
            let left = KeyFile::generate(uuid).unwrap();
            stick.write(&new_name(&name), &left.encode()).unwrap();
            stick.complete(uuid).unwrap();
            assert!(stick.read(&new_name(&name)).unwrap().is_none(), "{place}: no other may be written over it");
            assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), left.key.expose());
            // Beside a whole one it is only a leftover.
            let other = KeyFile::generate(uuid).unwrap();
            stick.write(&new_name(&name), &other.encode()).unwrap();
            stick.complete(uuid).unwrap();
            assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), left.key.expose());
        }
    }

    #[test]
    fn no_key_that_may_open_something_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        for path in sticks(&folder) {
            let (stick, uuid) = (Stick::at(&path).unwrap(), Uuid::new_v4());
            let name = path_on_stick(uuid);
            stick.has_room_for(uuid, None).unwrap();
            let key = KeyFile::generate(uuid).unwrap();
            stick.put(&key).unwrap();
            stick.has_room_for(uuid, Some(&key)).unwrap();
            let error = stick.has_room_for(uuid, None).unwrap_err().to_string();
            assert!(error.contains("has another key for this root, ") && error.contains("\nhint: take another stick"), "{error}");
            stick.write(&name, &KeyFile::generate(Uuid::nil()).unwrap().encode()).unwrap();
            let error = stick.has_room_for(uuid, None).unwrap_err().to_string();
            assert!(error.contains("has the key of another appliance, 00000000-"), "{error}");
            stick.write(&name, &crate::secret::Secret::new(b"damaged".to_vec())).unwrap();
            stick.has_room_for(uuid, None).unwrap();
        }
    }

    #[test]
    fn what_is_no_stick_is_told_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let told = |name: &str| format!("{:#}", Stick::at(&path(name)).unwrap_err());
        fs::write(path("short"), "no image").unwrap();
        File::create(path("zeros")).unwrap().set_len(16 << 20).unwrap();
        File::create(path("ext4")).unwrap().set_len(16 << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(path("ext4")));
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, words) in [
            ("short", "it is no image of a stick"),
            ("zeros", "it is no image of a stick"),
            ("ext4", "the image has ext4, and only FAT is read and written in a file\nhint: "),
            ("pipe", "it is neither a device, nor a folder, nor a file"),
        ] {
            assert!(told(name).contains(words), "{}", told(name));
        }
        let (uuid, elsewhere) = (Uuid::new_v4(), path("elsewhere"));
        for dir in ["stick", "elsewhere"] {
            fs::create_dir(path(dir)).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, path("stick/vaultberry")).unwrap();
        let stick = Stick::at(&path("stick")).unwrap();
        let error = format!("{:#}", stick.put(&KeyFile::generate(uuid).unwrap()).unwrap_err());
        assert!(error.contains("vaultberry is no folder\nhint: remove it"), "{error}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        // What is at a key's place blocks nobody.
        fs::remove_file(path("stick/vaultberry")).unwrap();
        fs::create_dir(path("stick/vaultberry")).unwrap();
        nix::unistd::mkfifo(&path("stick").join(path_on_stick(uuid)), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = format!("{:#}", stick.key(uuid).unwrap_err());
        assert!(error.contains("the key file is not a file"), "{error}");
    }

    /// An ext4 file system in a file, and a namespace of this thread's own to mount it in; none when this isn't root, who
    /// alone can, which is said.
    fn ext4_stick(folder: &TempDir) -> Option<PathBuf> {
        if !Uid::effective().is_root() {
            eprintln!("not run: a file system can be mounted by root only");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let image = folder.path().join("ext4.img");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-J", "size=4"]).arg(&image));
        Some(image)
    }

    /// A device for a file; gone with this.
    struct Loop(String);

    impl Loop {
        fn of(image: &Path) -> Self {
            Self(run(Command::new("losetup").args(["--find", "--show"]).arg(image)))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What a reader without a journal finds.
    fn without_journal(image: &Path, uuid: Uuid) -> Vec<u8> {
        let cat = format!("cat /{}", path_on_stick(uuid).display());
        Command::new("debugfs").args(["-R", &cat]).arg(image).output().unwrap().stdout
    }

    #[test]
    fn a_key_on_a_mounted_ext4_stick_is_found_without_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let Some(image) = ext4_stick(&folder) else { return };
        let mounted = folder.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted));
        let (stick, uuid) = (Stick::at(&mounted).unwrap(), Uuid::new_v4());
        for _ in 0..2 {
            let key = KeyFile::generate(uuid).unwrap();
            stick.put(&key).unwrap();
            assert!(without_journal(&image, uuid) == *key.encode().expose(), "it lies in the journal alone");
        }
        run(Command::new("umount").arg(&mounted));
    }

    #[test]
    fn a_key_that_was_put_on_a_device_is_read_from_a_new_mount_that_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let Some(image) = ext4_stick(&folder) else { return };
        let device = Loop::of(&image);
        let node = &device.0;
        let mounted = Mounted::of(ext4(node)).unwrap();
        let stick = Stick { named: PathBuf::from(node), place: Place::Mounted(Box::new(mounted)) };
        let uuid = Uuid::new_v4();
        for _ in 0..2 {
            let key = KeyFile::generate(uuid).unwrap();
            stick.put(&key).unwrap();
            assert!(without_journal(&image, uuid) == *key.encode().expose(), "it lies in the journal alone");
            assert_eq!(stick.key(uuid).unwrap().unwrap().key.expose(), key.key.expose());
            let error = fs::write(stick.folder().join("x"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        // Whoever writes to it could have the key in memory alone.
        drop(stick);
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        run(Command::new("mount").args([Path::new(node), &elsewhere]));
        let error = Mounted::of(ext4(node)).unwrap_err().to_string();
        assert!(error.starts_with("the stick is mounted already\nhint: name the folder"), "{error}");
        run(Command::new("umount").arg(&elsewhere));
    }
}
