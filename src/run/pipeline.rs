//! One source, from server to snapshot. Whatever happens to it ends in its report and touches no other source.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::{Backup, Source};
use crate::durable;
use crate::log::printable;
use crate::offsite;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::run::Accept;
use crate::run::appliance;
use crate::run::report::{Missed, SourceReport};
use crate::snapshot::retention::Rules;
use crate::snapshot::{self, Request, Snapshot};
use crate::source::{self, Stale, apart};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// What all sources of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Night<'a> {
    /// Where everything goes.
    pub backup: &'a Backup,
    /// The run's name.
    pub run: &'a str,
    /// The appliance's time zone.
    pub zone: &'a TimeZone,
    /// What is right though it seems wrong.
    pub accept: &'a Accept,
    /// Ends it early.
    pub stop: &'a Stop,
    /// Held by whoever makes a snapshot: that takes all processors, and memory for each.
    pub archiving: &'a Mutex<()>,
}

/// Pulls `source` and makes its snapshot, named after the run.
///
/// A source whose pull failed gets no snapshot: the mirror is then neither the old state nor the new. A partial pull gets
/// one, and its index says `partial`.
pub fn source(night: &Night<'_>, source: &Source, progress: &Progress) -> SourceReport {
    tracing::info!(source = source.name, "begins");
    match pull_and_keep(night, source, progress) {
        Ok((mut snapshot, missed, stale_dumps)) => {
            let pruned = prune(night, source, &mut snapshot.warnings);
            for line in &snapshot.warnings.lines {
                tracing::warn!(source = source.name, "{line}");
            }
            tracing::info!(source = source.name, "{}: {}", snapshot.outcome, snapshot.archive.display());
            SourceReport { missed, stale_dumps, pruned, ..SourceReport::made(&source.name, &night.backup.folder, snapshot) }
        }
        Err(error) => {
            tracing::error!(source = source.name, "{error:#}");
            SourceReport::failed(&source.name, &error)
        }
    }
}

/// Removes what runs that were cut short have left of snapshots and pushes below `backup`.
pub fn clean(backup: &Path, sources: &[Source]) -> Result<()> {
    let mut leftovers = Vec::new();
    for name in sources.iter().map(|source| source.name.as_str()).chain([appliance::NAME]) {
        leftovers.extend(snapshot::clean(&backup.join("snapshots").join(name))?);
    }
    leftovers.extend(offsite::clean(backup)?);
    for leftover in leftovers {
        tracing::info!("removed {}, left by a run that was cut short", leftover.display());
    }
    Ok(())
}

/// Removes what the new snapshot has made superfluous, and gives the names. Old snapshots that stay are no failure.
fn prune(night: &Night<'_>, source: &Source, warnings: &mut Warnings) -> Vec<String> {
    let folder = night.backup.folder.join("snapshots").join(&source.name);
    let rules = Rules { keep: source.keep, protect: &[night.run], zone: night.zone, now: Timestamp::now() };
    let pruned = snapshot::prune(&folder, &rules).unwrap_or_else(|error| {
        warnings.push(printable(format!("{error:#}").as_bytes()));
        Vec::new()
    });
    for name in &pruned {
        tracing::info!(source = source.name, "removed the old snapshot {name}");
    }
    pruned
}

fn pull_and_keep(night: &Night<'_>, source: &Source, progress: &Progress) -> Result<(Snapshot, Missed, Vec<Stale>)> {
    let Night { backup, run, accept, stop, .. } = *night;
    let backup = &backup.folder;
    for folder in ["current", "snapshots"] {
        let folder = backup.join(folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
    }
    let mirror = backup.join("current").join(&source.name);
    let folder = backup.join("snapshots").join(&source.name);
    durable::private_folder(&mirror)?;
    let accept = apart::Accept {
        deletions: accept.deletions.contains(&source.name),
        smaller_dumps: accept.smaller_dumps.contains(&source.name),
    };
    let pulled = apart::pull(source, &mirror, accept, stop, progress)?;
    let missed = Missed { unreadable: pulled.unreadable, vanished: pulled.vanished };
    let stale = pulled.stale;
    let mut roots = source::roots(source, &mirror)?;
    if pulled.outcome == Outcome::Partial {
        // A path that never was pulled is among the warnings already.
        roots.retain(|root| root.base.join(&root.path).symlink_metadata().is_ok());
    }
    let request = Request {
        source: &source.name,
        name: run,
        folder: &folder,
        roots: &roots,
        owners: &pulled.owners,
        outcome: pulled.outcome,
        warnings: pulled.warnings,
    };
    let _held = night.archiving.lock().unwrap_or_else(PoisonError::into_inner);
    stop.check()?;
    Ok((snapshot::create(request, stop, progress)?, missed, stale))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::sample;
    use crate::run::appliance;
    use crate::snapshot::ARCHIVE_END;

    #[test]
    fn what_is_left_of_snapshots_goes_also_the_appliance_s_own() {
        let backup = tempfile::tempdir().unwrap();
        let left = ["web", appliance::NAME].map(|name| backup.path().join("snapshots").join(name));
        let left = left.map(|folder| folder.join(format!("20261123T023000Z{ARCHIVE_END}.part")));
        for part in &left {
            fs::create_dir_all(part.parent().unwrap()).unwrap();
            fs::write(part, "").unwrap();
        }
        super::clean(backup.path(), &[sample::source("web")]).unwrap();
        assert_eq!(left.map(|part| part.exists()), [false, false]);
    }
}
