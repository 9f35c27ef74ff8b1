//! Bringing what was put on a stick down to the stick itself, where it is mounted by its owner.
//!
//! The unlock reads an ext4 stick without its journal, and a written file may lie in the journal alone for minutes. What is
//! read after a write comes from memory, whatever the stick made of it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::unistd::syncfs;

/// Brings everything below `folder` to its device, and lets `files`, where they are, be read from there.
///
/// # Errors
/// It can't be written.
pub fn folder(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let syncing = || format!("syncing {}", folder.display());
    let handle = File::open(folder).with_context(syncing)?;
    syncfs(&handle).with_context(syncing)?;
    empty_journal(&handle).with_context(syncing)?;
    // The drive's own memory, too.
    handle.sync_all().with_context(syncing)?;
    for path in files {
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            file => {
                let file = file.with_context(|| format!("opening {}", path.display()))?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).with_context(syncing)?;
            }
        }
    }
    Ok(())
}

/// Writes what is in ext4's journal to where it belongs.
fn empty_journal(folder: &File) -> Result<()> {
    let is_ext4 = fstatfs(folder)?.filesystem_type() == EXT4_SUPER_MAGIC;
    // A folder on this machine's own disk is no stick, and its journal is no business of ours.
    if !is_ext4 || folder.metadata()?.dev() == fs::metadata("/")?.dev() {
        return Ok(());
    }
    match checkpoint(folder) {
        // There is no journal.
        Ok(()) | Err(Errno::ENODEV | Errno::ENOTTY) => Ok(()),
        Err(Errno::EPERM) => bail!("only root can empty the journal of an ext4 stick\nhint: run this as root"),
        Err(error) => Err(error).context("emptying the journal"),
    }
}

#[expect(unsafe_code, reason = "there is no other way to make this request")]
fn checkpoint(folder: &File) -> nix::Result<()> {
    // EXT4_IOC_CHECKPOINT, in the kernel's include/uapi/linux/ext4.h; without flags it discards nothing.
    nix::ioctl_write_ptr!(ext4_checkpoint, b'f', 43, u32);
    // SAFETY: the descriptor is open as long as `folder` is borrowed, and the kernel only reads the number.
    unsafe { ext4_checkpoint(folder.as_raw_fd(), &0) }.map(drop)
}
