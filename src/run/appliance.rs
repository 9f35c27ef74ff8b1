//! The appliance's own copy: what a new one is built from when this one has burnt.
//!
//! Its configuration, and the headers of the encrypted root and backup disk, which hold their keys behind the recovery
//! passphrase: a disk whose first sectors are spoiled opens again with its header. They go the way of a source with the
//! name `_appliance`, which no real one can have: a snapshot on the backup disk, sealed, off-site. Keys and credentials stay
//! where they are.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::headers;
use crate::config::{Config, Keep};
use crate::offsite::{self, clock::Clock};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::retention::Rules;
use crate::snapshot::{self, ARCHIVE_END, Request, list};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::stop::Stop;
use crate::warnings::Warnings;
use crate::{durable, luks, mounts};

/// What it is called where sources have their names.
pub const NAME: &str = "_appliance";

/// The folder in the archive.
pub(super) const FOLDER: &str = "appliance";

/// The mark beside it that something in it is in no snapshot yet: a run may end in between.
const CHANGED: &str = "changed";

/// How many of its snapshots stay on the backup disk.
const KEEP: Keep = Keep { last: 3, ..Keep::NONE };

/// Makes a snapshot named `run` of what belongs to the appliance, when it has changed since the last that is off-site, or when
/// that is old; gives its archive.
///
/// # Errors
/// Something of it can't be read or written.
pub fn snapshot(config: &Config, run: &str, stop: &Stop) -> Result<Option<PathBuf>> {
    headers::forget(config)?;
    let base = config.backup.folder.join("current").join(NAME);
    let changed = base.join(CHANGED);
    collect(config, &base.join(FOLDER), &changed)?;
    let folder = config.backup.folder.join("snapshots").join(NAME);
    if !changed.exists() && !is_due(config, run, &folder)? {
        return Ok(None);
    }
    durable::private_folder(&folder)?;
    let request = Request {
        source: NAME,
        name: run,
        folder: &folder,
        roots: &[Root { base, path: PathBuf::from(FOLDER) }],
        owners: &Owners::default(),
        outcome: Outcome::Complete,
        warnings: Warnings::default(),
    };
    let made = snapshot::create(request, stop, &Progress::default())?;
    if changed.exists() {
        fs::remove_file(&changed).with_context(|| format!("removing {}", changed.display()))?;
    }
    let rules = Rules { keep: KEEP, protect: &[run], zone: &config.zone()?, now: Timestamp::now() };
    snapshot::prune(&folder, &rules)?;
    Ok(Some(made.archive))
}

/// Whether the newest snapshot isn't the one that is off-site, or that one is old.
fn is_due(config: &Config, run: &str, folder: &Path) -> Result<bool> {
    let Some(target) = config.offsite.as_ref().map(offsite::target) else { return Ok(false) };
    let pushed = Clock::load(&config.backup.state).of(NAME, &target).complete.map(|push| push.snapshot);
    if pushed.is_none() || newest(folder)? != pushed {
        return Ok(true);
    }
    let nowhere = Path::new("");
    let candidate = offsite::Candidate { source: NAME, name: run, archive: nowhere, index: nowhere, outcome: Outcome::Complete };
    Ok(offsite::due(config, &candidate))
}

/// The name of the newest snapshot in `folder`.
fn newest(folder: &Path) -> Result<Option<String>> {
    let reading = || format!("looking into {}", folder.display());
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        entries => {
            for entry in entries.with_context(reading)? {
                let name = entry.with_context(reading)?.file_name().to_string_lossy().into_owned();
                names.extend(name.strip_suffix(ARCHIVE_END).filter(|name| list::time_of(name).is_some()).map(String::from));
            }
        }
    }
    Ok(names.into_iter().max())
}

/// Brings what belongs to the appliance into `folder`, and makes the mark `changed` before something there changes.
fn collect(config: &Config, folder: &Path, changed: &Path) -> Result<()> {
    durable::private_folder(folder)?;
    replace(&folder.join("appliance.toml"), config.text.as_bytes(), changed)?;
    let mounted = [("root", Path::new("/")), ("backup-disk", config.backup.folder.as_path())];
    for (name, place) in mounted {
        let place = fs::canonicalize(place).with_context(|| format!("looking for {}", place.display()))?;
        let device = mounts::source_of(&place)?.and_then(|mapped| luks::device_below(&mapped));
        if let Some(device) = device {
            replace(&folder.join(format!("{name}{}", headers::END)), &luks::read_header(&device)?, changed)?;
        } else {
            tracing::debug!("{} isn't on a LUKS volume, so it has no header to keep", place.display());
        }
    }
    Ok(())
}

/// Writes `content` to `path`, unless it stands there already; first comes the mark `changed`.
fn replace(path: &Path, content: &[u8], changed: &Path) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    durable::write(changed, b"", 0o600)?;
    durable::write(path, content, 0o600)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::{CHANGED, NAME, snapshot};
    use crate::config::{Config, Offsite, sample};
    use crate::offsite::{self, clock::Clock};
    use crate::outcome::Outcome;
    use crate::stop::Stop;

    #[test]
    fn a_change_is_remembered_until_a_snapshot_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = sample::config(folder.path());
        let every = Duration::from_hours(366 * 24);
        config.offsite = Some(Offsite { every, ..sample::offsite("http://127.0.0.1:1", folder.path()) });
        fs::create_dir_all(&config.backup.folder).unwrap();
        fs::create_dir_all(&config.backup.state).unwrap();
        let made = |config: &Config, run: &str| snapshot(config, run, &Stop::default());
        let proven = |config: &Config, run: &str| {
            let target = offsite::target(config.offsite.as_ref().unwrap());
            Clock::load(&config.backup.state).record(NAME, run, Outcome::Complete, &target, Timestamp::now()).unwrap();
        };
        assert!(made(&config, "20261120T023000Z").unwrap().is_some());
        proven(&config, "20261120T023000Z");
        assert_eq!(made(&config, "20261121T023000Z").unwrap(), None);

        // It is collected, and then nothing can be written where snapshots lie.
        config.text.push_str("# another\n");
        let (snapshots, aside) = (config.backup.folder.join("snapshots"), config.backup.folder.join("aside"));
        fs::rename(&snapshots, &aside).unwrap();
        fs::write(&snapshots, "").unwrap();
        made(&config, "20261122T023000Z").unwrap_err();
        fs::remove_file(&snapshots).unwrap();
        fs::rename(&aside, &snapshots).unwrap();
        assert!(made(&config, "20261123T023000Z").unwrap().is_some());
        proven(&config, "20261123T023000Z");
        assert!(!config.backup.folder.join("current").join(NAME).join(CHANGED).exists());
        assert_eq!(made(&config, "20261124T023000Z").unwrap(), None);
    }
}
