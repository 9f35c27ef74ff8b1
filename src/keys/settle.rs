//! Bringing what was put on a stick down to the stick itself, where it is mounted by its owner.
//!
//! The unlock reads an ext4 stick without its journal, and a written file may lie in the journal alone for minutes. What is
//! read after a write comes from memory, whatever the stick made of it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;

/// Brings everything below `folder` to its device, and lets `files`, where they are, be read from there.
///
/// # Errors
/// It can't be written.
pub fn folder(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let syncing = || format!("syncing {}", folder.display());
    let handle = File::open(folder).with_context(syncing)?;
    // More than a sync of the file: what ext4 has in its journal goes to its place, too.
    syncfs(&handle).with_context(syncing)?;
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
