//! Reading a key file off a stick.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, umount2};
use uuid::Uuid;

use crate::devices::Block;
use crate::keys::keyfile::{FILE_SIZE, KeyFile, path_on_stick};
use crate::keys::plugged::{mount_read_only, new_name};
use crate::secret::Secret;

const MOUNT_POINT: &str = "/run/vaultberry/stick";

/// What a file system has for an appliance.
#[derive(Debug)]
pub enum Found {
    /// Its key.
    Key(KeyFile),
    /// Keys, but only of other appliances.
    Others,
    /// No key at all.
    Nothing,
}

/// Mounts the file system read-only, looks for the key for `uuid`, and unmounts again.
///
/// # Errors
/// It can't be read, or what is there under the key's name isn't that key.
pub fn read_key(block: &Block, uuid: Uuid) -> Result<Found> {
    let mounted = Mounted::new(block)?;
    let path = Path::new(MOUNT_POINT).join(path_on_stick(uuid));
    // Where the power went while a key was replaced, its new name may be missing.
    let read = read_file(&path).and_then(|bytes| if bytes.is_none() { read_file(&new_name(&path)) } else { Ok(bytes) });
    let others = path.parent().is_some_and(holds_keys);
    drop(mounted);
    match read? {
        Some(bytes) => Ok(Found::Key(KeyFile::decode(bytes.expose(), uuid).map_err(|fault| anyhow!("the key on it {fault}"))?)),
        None if others => Ok(Found::Others),
        None => Ok(Found::Nothing),
    }
}

fn holds_keys(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("key")))
}

fn read_file(path: &Path) -> Result<Option<Secret<Vec<u8>>>> {
    // Not blocking: a named pipe of that name must not stop the boot.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("opening the key file"),
    };
    ensure!(file.metadata().context("looking at the key file")?.is_file(), "the key file is not a file");
    // Room for one byte more than a key file has, so that a long one shows, and none left behind by growing.
    let mut bytes = Secret::new(vec![0; FILE_SIZE + 1]);
    let mut length = 0;
    while length < bytes.expose().len() {
        match (&file).read(&mut bytes.expose_mut()[length..]).context("reading the key file")? {
            0 => break,
            read => length += read,
        }
    }
    bytes.expose_mut().truncate(length);
    Ok(Some(bytes))
}

/// A mounted stick; unmounted when it goes.
struct Mounted;

impl Mounted {
    fn new(block: &Block) -> Result<Self> {
        fs::create_dir_all(MOUNT_POINT).with_context(|| format!("making {MOUNT_POINT}"))?;
        mount_read_only(block, Path::new(MOUNT_POINT))?;
        Ok(Self)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached, so that a stick pulled in this moment can't stop the boot.
        let _ = umount2(MOUNT_POINT, MntFlags::MNT_DETACH);
    }
}
