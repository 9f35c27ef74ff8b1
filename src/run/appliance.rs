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
    let changed = collect(config, &base.join(FOLDER))?;
    let folder = config.backup.folder.join("snapshots").join(NAME);
    if !changed && !is_due(config, run, &folder)? {
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
    let rules = Rules { keep: KEEP, protect: &[run], zone: &config.zone()?, now: Timestamp::now() };
    snapshot::prune(&folder, &rules)?;
    Ok(Some(made.archive))
}

/// Whether the newest snapshot isn't the one that is off-site, or that one is old.
fn is_due(config: &Config, run: &str, folder: &Path) -> Result<bool> {
    let pushed = Clock::load(&config.backup.state).of(NAME).complete.map(|push| push.snapshot);
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

/// Brings what belongs to the appliance into `folder`, and says whether something is new there.
fn collect(config: &Config, folder: &Path) -> Result<bool> {
    durable::private_folder(folder)?;
    let mut changed = replace(&folder.join("appliance.toml"), config.text.as_bytes())?;
    let mounted = [("root", Path::new("/")), ("backup-disk", config.backup.folder.as_path())];
    for (name, place) in mounted {
        let place = fs::canonicalize(place).with_context(|| format!("looking for {}", place.display()))?;
        let device = mounts::source_of(&place)?.and_then(|mapped| luks::device_below(&mapped));
        if let Some(device) = device {
            changed |= replace(&folder.join(format!("{name}{}", headers::END)), &luks::read_header(&device)?)?;
        } else {
            tracing::debug!("{} isn't on a LUKS volume, so it has no header to keep", place.display());
        }
    }
    Ok(changed)
}

/// Writes `content` to `path`, unless it stands there already.
fn replace(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    durable::write(path, content, 0o600)?;
    Ok(true)
}
