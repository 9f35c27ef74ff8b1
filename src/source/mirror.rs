//! Where a source's paths stand in its mirror, and how that place is made ready.
//!
//! rsync gets the name of a folder to write and delete in. If a component of that name were a symbolic link, which an earlier
//! configuration may have mirrored there from the server (`/home` before, `/home/demo` now), rsync would write and delete
//! where the link points. So every component is made a real folder first.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::durable;
use crate::sandbox::Account;

/// Where the dumps of databases stand in a mirror. The configuration lets no path of the server be there.
pub const DUMPS: &str = "dumps";

/// Where a server's files stand in its mirror.
pub const FILES: &str = "files";

/// Where rsync keeps what it couldn't finish.
pub const PARTIAL: &str = "partial";

/// A part of a mirror that goes into a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder that stands for the server's `/`.
    pub base: PathBuf,
    /// The part, relative to it: its name in the archive.
    pub path: PathBuf,
}

/// The place of the absolute `path` inside a mirror or an archive: the same without the leading slash.
pub fn relative(path: &Path) -> Result<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => relative.push(name),
            _ => bail!("mirroring {}: it is no plain absolute path", path.display()),
        }
    }
    if relative.as_os_str().is_empty() {
        bail!("mirroring {}: a whole root file system can't be mirrored\nhint: name the folders that matter", path.display());
    }
    Ok(relative)
}

/// Makes `folder`, inside `mirror`, a real folder with real folders above it. Whatever else stands in the way goes: it is a
/// copy of something that the configuration no longer names at this place. What is made belongs to `account`.
pub fn make_folder(mirror: &Path, folder: &Path, account: Option<Account>) -> Result<()> {
    // Only the appliance's root may look into mirrors: they hold other machines' files with their owners' numbers and
    // their set-user-ID bits, which must mean nothing to a local user.
    durable::private_folder(mirror)?;
    let mut place = mirror.to_owned();
    for component in folder {
        place.push(component);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => fs::remove_file(&place).with_context(|| format!("removing {}", place.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| making(&place)),
        }
        fs::DirBuilder::new().mode(0o700).create(&place).with_context(|| making(&place))?;
        account.map_or(Ok(()), |account| account.give(&place))?;
    }
    Ok(())
}

/// Whether `folder`, inside `mirror`, is a real folder with real folders above it, up to the mirror itself.
pub fn is_folder(mirror: &Path, folder: &Path) -> bool {
    let mut place = mirror.to_owned();
    let real = |place: &Path| fs::symlink_metadata(place).is_ok_and(|found| found.is_dir());
    real(&place)
        && folder.iter().all(|component| {
            place.push(component);
            real(&place)
        })
}

fn making(folder: &Path) -> String {
    format!("making the mirror folder {}", folder.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::{is_folder, make_folder, relative};

    #[test]
    fn an_absolute_path_loses_its_slash_and_nothing_else_is_taken() {
        assert_eq!(relative(Path::new("/srv//www/")).unwrap(), PathBuf::from("srv/www"));
        assert!(relative(Path::new("/")).is_err());
        assert!(relative(Path::new("/srv/../etc")).is_err());
    }

    #[test]
    fn a_mirrored_link_in_the_way_is_replaced_and_what_it_points_to_is_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "kept").unwrap();
        let mirror = folder.path().join("current/web");
        make_folder(&mirror, Path::new("home"), None).unwrap();
        symlink(&precious, mirror.join("home/demo")).unwrap();
        assert!(!is_folder(&mirror, Path::new("home/demo")) && !is_folder(&mirror, Path::new("home/demo/data")));
        make_folder(&mirror, Path::new("home/demo/data"), None).unwrap();
        assert!(is_folder(&mirror, Path::new("home/demo/data")));
        assert!(fs::symlink_metadata(mirror.join("home/demo")).unwrap().is_dir());
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);
    }
}
