//! Old copies of LUKS headers: with one, a key that was revoked still opens its volume.
//!
//! Those of the appliance lie on the backup disks, of which not each is there when a key goes. So what must go is noted in
//! the state folder first, as a time, and each disk is looked through whenever it is opened, and before new copies are made.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::appliance::{FOLDER, NAME};
use crate::config::Config;
use crate::disk::{self, used};
use crate::durable;
use crate::snapshot::{ARCHIVE_END, list};

/// What a copy's name ends with.
pub const END: &str = ".luks-header";

/// Does something that makes headers from before dangerous, and removes the copies of them that are within reach. Gives what
/// came of it, and how many copies that were.
///
/// # Errors
/// Those of `change`; or the time can't be noted, or a copy can't be removed.
pub fn outdate<T>(config: &Config, change: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
    // A power cut in between leaves the note: the copies go when the disk is opened.
    note(&config.backup.state, Timestamp::now())?;
    let changed = change()?;
    // Once more: a run may have made a copy meanwhile.
    note(&config.backup.state, Timestamp::now())?;
    Ok((changed, forget(config)?))
}

/// Removes the copies of LUKS headers that the open backup disk has from before the noted time, with the snapshots that they
/// are in; gives how many.
///
/// # Errors
/// One can't be removed, or what is noted can't be read.
pub fn forget(config: &Config) -> Result<usize> {
    let folder = &config.backup.folder;
    let Some(before) = noted(&config.backup.state)? else { return Ok(0) };
    if config.disk.is_some() && disk::mounted(folder).is_err() {
        return Ok(0);
    }
    let copies = files(&folder.join("current").join(NAME).join(FOLDER))?;
    // Half-written ones, too.
    let copies = copies.into_iter().filter(|path| path.to_string_lossy().contains(END));
    let mut gone = 0;
    for path in copies.chain(files(&folder.join("snapshots").join(NAME))?) {
        if made(&path)? <= before {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            let name = path.to_string_lossy();
            gone += usize::from(name.ends_with(END) || name.ends_with(ARCHIVE_END));
        }
    }
    Ok(gone)
}

/// The serial numbers of the config's disks that aren't open: their copies go when they are opened.
///
/// # Errors
/// udev can't be asked.
pub fn away(config: &Config) -> Result<Vec<String>> {
    let Some(disk) = &config.disk else { return Ok(Vec::new()) };
    let open = used::open_now(config)?.filter(|_| disk::mounted(&config.backup.folder).is_ok());
    Ok(disk.serials.iter().filter(|serial| Some(*serial) != open.as_ref()).cloned().collect())
}

/// When a file was made: its snapshot's run began then, since a run reads the header and writes later.
fn made(path: &Path) -> Result<Timestamp> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if let Some(time) = name.split('.').next().and_then(list::time_of) {
        return Ok(time);
    }
    let looking = || format!("looking at {}", path.display());
    let modified = fs::symlink_metadata(path).and_then(|about| about.modified()).with_context(looking)?;
    Timestamp::try_from(modified).with_context(looking)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let looking = || format!("looking into {}", folder.display());
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.with_context(looking)?.map(|entry| Ok(entry.with_context(looking)?.path())).collect(),
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("forget-headers-before")
}

fn note(state: &Path, time: Timestamp) -> Result<()> {
    durable::write(&path(state), time.to_string().as_bytes(), 0o600)
}

fn noted(state: &Path) -> Result<Option<Timestamp>> {
    let path = path(state);
    let reading = || format!("reading {}", path.display());
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.with_context(reading)?.trim().parse().map(Some).with_context(reading),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use anyhow::bail;
    use jiff::{Timestamp, ToSpan as _};

    use super::{forget, note, outdate};
    use crate::config;
    use crate::snapshot::list::name_of;

    /// A copy in the mirror, and a snapshot of it from so many hours ago.
    fn copies(backup: &Path, hours: i64) -> [std::path::PathBuf; 2] {
        let name = name_of(Timestamp::now() - hours.hours());
        let paths = [
            backup.join("current/_appliance/appliance/root.luks-header"),
            backup.join(format!("snapshots/_appliance/{name}.tar.gz")),
        ];
        for path in &paths {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "header").unwrap();
        }
        paths
    }

    #[test]
    fn copies_from_before_go_at_once_and_from_each_disk_that_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config::parse(config::EXAMPLE).unwrap();
        config.disk = None;
        (config.backup.state, config.backup.folder) = (folder.path().join("state"), folder.path().join("one"));
        fs::create_dir(&config.backup.state).unwrap();
        let [copy, snapshot] = copies(&config.backup.folder, 1);
        assert_eq!(forget(&config).unwrap(), 0, "nothing is noted");
        // The power fails before anything is removed.
        outdate::<()>(&config, || bail!("cut")).unwrap_err();
        assert!(copy.exists() && snapshot.exists());
        assert_eq!(forget(&config).unwrap(), 2);
        assert!(!copy.exists() && !snapshot.exists());

        // Another disk comes; what is newer stays.
        config.backup.folder = folder.path().join("two");
        let [_, old] = copies(&config.backup.folder, 2);
        let [copy, new] = copies(&config.backup.folder, 0);
        note(&config.backup.state, Timestamp::now() - 1.hour()).unwrap();
        assert_eq!(forget(&config).unwrap(), 1);
        assert!(!old.exists() && new.exists() && copy.exists());
        assert_eq!(outdate(&config, || Ok(5)).unwrap(), (5, 2));

        // Into the folder where no disk is mounted nobody looks.
        let [copy, _] = copies(&config.backup.folder, 1);
        config.disk = Some(config::Disk { serials: vec!["A".into()] });
        assert_eq!(outdate(&config, || Ok(())).unwrap(), ((), 0));
        assert!(copy.exists());
        assert_eq!(super::away(&config).unwrap(), ["A"]);
    }
}
