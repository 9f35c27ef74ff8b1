//! Files: one is read and checked, and a first one is written to begin with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;

use super::error::LoadError;
use super::{Config, EXAMPLE, parse};

/// Nobody writes a megabyte by hand; a device or an image named by mistake shall not fill the memory.
const LARGEST: u64 = 1 << 20;

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// When the file can't be read as text, or with everything that is wrong in it.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    load_with_text(path).map(|(_, config)| config)
}

/// The same, and the text that was read: a file may change, and a pipe can be read only once.
///
/// # Errors
///
/// Those of [`load`].
pub fn load_with_text(path: &Path) -> Result<(String, Config), LoadError> {
    let unreadable = |reason: String, hint: String| LoadError::Unreadable { path: path.to_owned(), reason, hint };
    let check = format!("name an appliance.toml; `vaultberry init {}` writes one", path.display());
    let text = read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => unreadable(String::from("there is no such file"), check.clone()),
        io::ErrorKind::IsADirectory => {
            let inside = path.join("appliance.toml");
            let hint = format!("name the file in it; `vaultberry init {}` writes one", inside.display());
            unreadable(String::from("this is a folder, not a file"), hint)
        }
        io::ErrorKind::PermissionDenied => {
            unreadable(error.to_string(), String::from("run this as a user who may read it, or allow it with chmod u+r"))
        }
        io::ErrorKind::FileTooLarge => unreadable(
            format!("this is larger than {LARGEST} bytes, so it is no appliance.toml"),
            String::from("name an appliance.toml; `vaultberry init` writes one"),
        ),
        _ => unreadable(error.to_string(), String::from("look at the file and the disk it is on")),
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
        unreadable(format!("line {line} is not UTF-8 text"), String::from("save the file as UTF-8"))
    })?;
    match parse(&text) {
        Ok(config) => Ok((text, config)),
        Err(errors) => Err(LoadError::Invalid { path: path.to_owned(), errors }),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Writes the annotated [`EXAMPLE`] to a new file at `path`.
///
/// # Errors
///
/// When there is anything at `path` already, which stays as it is, or when the file can't be written.
pub fn init(path: &Path) -> anyhow::Result<()> {
    let creating = || format!("creating {}", path.display());
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
            "creating {}: it is there already, and init never overwrites\n\
             hint: name another file, as in `vaultberry init second.toml`, or move this one away",
            path.display()
        ),
        result => result.with_context(creating)?,
    };
    let written = file.write_all(EXAMPLE.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a file would stop the next try; the error that matters is the first one.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("writing {}", path.display()))
}
