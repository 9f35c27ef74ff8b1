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
/// copy of something that the configuration no longer names at this place.
pub fn make_folder(mirror: &Path, folder: &Path) -> Result<()> {
    // Only its user may look into a mirror: it holds another machine's files with their owners' numbers and their set-user-ID
    // bits, which must mean nothing to a local user.
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
    }
    Ok(())
}

/// How many files there are below `folder`; none when it is no folder.
pub fn count(folder: &Path) -> u64 {
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let mut folders: Vec<PathBuf> = is_folder(folder).then(|| folder.to_owned()).into_iter().collect();
    let mut files = 0;
    while let Some(entries) = folders.pop().map(fs::read_dir) {
        for entry in entries.into_iter().flatten().flatten() {
            if is_folder(&entry.path()) { folders.push(entry.path()) } else { files += 1 }
        }
    }
    files
}

/// Removes from the mirror's `files` what lies in none of `places`, and gives the names of what went: an earlier configuration
/// named it.
pub fn remove_others(files: &Path, places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let (mut folders, mut gone) = (vec![PathBuf::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        let here = files.join(&folder);
        let removing = || format!("removing from {} what the configuration no longer names", here.display());
        for entry in fs::read_dir(&here).with_context(removing)? {
            let entry = entry.with_context(removing)?;
            let name = folder.join(entry.file_name());
            let is_folder = entry.file_type().with_context(removing)?.is_dir();
            if places.contains(&name) {
                continue;
            }
            if is_folder && places.iter().any(|place| place.starts_with(&name)) {
                folders.push(name);
                continue;
            }
            let removed = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            removed.with_context(removing)?;
            gone.push(name);
        }
    }
    Ok(gone)
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

    use super::{count, is_folder, make_folder, relative, remove_others};

    #[test]
    fn what_no_path_names_goes_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["srv/www/a", "srv/www2/b", "srv/c", "home/demo/d", "old/e"] {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let precious = tempfile::tempdir().unwrap();
        fs::write(precious.path().join("kept"), "x").unwrap();
        symlink(precious.path(), folder.path().join("srv/away")).unwrap();
        let mut gone = remove_others(folder.path(), &["srv/www".into(), "home/demo".into(), "etc/none".into()]).unwrap();
        gone.sort();
        assert_eq!(gone, ["old", "srv/away", "srv/c", "srv/www2"].map(PathBuf::from));
        assert!(precious.path().join("kept").exists());
        assert_eq!(
            (count(folder.path()), count(&folder.path().join("srv/www/a")), count(&folder.path().join("none"))),
            (2, 0, 0)
        );
    }

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
        make_folder(&mirror, Path::new("home")).unwrap();
        symlink(&precious, mirror.join("home/demo")).unwrap();
        assert!(!is_folder(&mirror, Path::new("home/demo")) && !is_folder(&mirror, Path::new("home/demo/data")));
        make_folder(&mirror, Path::new("home/demo/data")).unwrap();
        assert!(is_folder(&mirror, Path::new("home/demo/data")));
        assert!(fs::symlink_metadata(mirror.join("home/demo")).unwrap().is_dir());
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);
    }
}
