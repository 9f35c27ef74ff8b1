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
