//! Files that are either wholly there or not there at all.
//!
//! Everything durable is written under a temporary name (`NAME.part`), synced, renamed, and then the folder is synced, so
//! that a power cut at any moment leaves the old state or the new one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file being written under its temporary name. Dropped without [`Durable::publish`], it is removed.
#[derive(Debug)]
pub struct Durable {
    file: Option<File>,
    part: PathBuf,
    path: PathBuf,
}

impl Durable {
    /// Creates `PATH.part`, replacing a leftover of an earlier try, with the permission bits `mode`.
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        let part = part_name(path);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing the leftover {}", part.display()));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)
            .with_context(|| format!("creating {}", part.display()))?;
        Ok(Self { file: Some(file), part, path: path.to_owned() })
    }

    /// The open file, at its temporary name.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("the file is open until it is published")
    }

    /// The temporary name, for programs that write the file by name.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Syncs the content, gives the file its final name and syncs the folder.
    pub fn publish(mut self) -> Result<()> {
        self.file().sync_all().with_context(|| format!("syncing {}", self.part.display()))?;
        fs::rename(&self.part, &self.path)
            .with_context(|| format!("renaming {} to {}", self.part.display(), self.path.display()))?;
        // Only now: until here a failure removes the part.
        self.file = None;
        sync_folder_of(&self.path)
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Best effort: the next try replaces a leftover in any case.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Publishes `content` as `path` with the permission bits `mode`.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut durable = Durable::create(path, mode)?;
    durable.file().write_all(content).with_context(|| format!("writing {}", durable.part().display()))?;
    durable.publish()
}

/// Makes a folder, and those above it, for its owner alone: mode 0700. One that is there stays as it is.
pub fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("making the folder {}", path.display()))
}

/// Syncs the folder that holds `path`, so that a rename in it survives a power cut.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("syncing the folder {}", folder.display()))
}

/// What a temporary name ends with.
pub const PART: &str = ".part";

/// The temporary name of `path`: the same with [`PART`] behind it.
pub fn part_name(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(PART);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Durable, part_name, write};

    #[test]
    fn publishing_replaces_content_and_leaves_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"old", 0o600).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!part_name(&path).exists());
    }

    #[test]
    fn an_unpublished_file_leaves_the_old_one_and_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"old", 0o644).unwrap();
        drop(Durable::create(&path, 0o644).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(!part_name(&path).exists());
    }
}
