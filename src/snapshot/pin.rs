//! Snapshots that a person wants to stay, whatever the rules say: `<name>.pin` beside the archive, with the reason in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::durable;
use crate::snapshot::{ARCHIVE_END, PIN_END};

/// The longest reason, in bytes.
const LONGEST: usize = 1000;

/// Pins the snapshot `archive`, for `reason`, which may be empty; a second time gives it another reason.
///
/// # Errors
/// There is no such archive, or the reason is more than a line of 1000 bytes.
pub fn pin(archive: &Path, reason: &str) -> Result<()> {
    let pinning = || format!("pinning {}", archive.display());
    fs::symlink_metadata(archive).with_context(pinning)?;
    let line = reason.len() <= LONGEST && !reason.chars().any(char::is_control);
    ensure!(line, "{}: the reason must be one line of at most {LONGEST} bytes", pinning());
    durable::write(&file_of(archive), format!("{reason}\n").as_bytes(), 0o600)
}

/// Lets the rules decide again; says whether it was pinned.
pub fn unpin(archive: &Path) -> Result<bool> {
    let file = file_of(archive);
    match fs::remove_file(&file) {
        Ok(()) => durable::sync_folder_of(&file).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("unpinning {}", archive.display())),
    }
}

/// Why the snapshot `archive` is pinned; none when it isn't. One that can't be read is a pin: a doubt removes nothing.
pub fn reason(archive: &Path) -> Option<String> {
    match fs::read(file_of(archive)) {
        Ok(reason) => Some(String::from_utf8_lossy(&reason).trim_end().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("(the reason can't be read: {error})")),
    }
}

fn file_of(archive: &Path) -> PathBuf {
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    archive.with_file_name(format!("{}{PIN_END}", name.strip_suffix(ARCHIVE_END).unwrap_or(&name)))
}
