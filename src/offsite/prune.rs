//! Removing old copies from the store: on another machine than the appliance, with another access key. That of the appliance
//! may not delete, which is what protects the copies; that this refuses to run where pushes come from is only a reminder.
//!
//! The rules are those of the snapshots on the disk, `keep`; pins aren't known here. Only proven copies are judged and
//! removed; what is unproven may be under way, and is for the bucket's lifecycle. The commit object goes first: a copy of
//! which something is gone already doesn't count any more. In a bucket that keeps versions they stay until its lifecycle
//! removes them.
//!
//! Whoever has the appliance's key can write a commit object that agrees with itself. Copies of that kind, with names beside
//! those of good ones, would be kept in their stead. So what came to the store long after its name says it was made neither
//! counts nor goes: it is told.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::list;
use super::store::{self, Store};
use crate::config::{Config, Offsite};
use crate::snapshot::list::time_of;
use crate::snapshot::retention::{self, Kept, Rules, Verdict};
use crate::stop::Stop;

/// How much later than its name says a copy may come: a store may be down for a while.
const LATE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What the rules say of the proven copies, by source, each from the oldest to the newest.
///
/// # Errors
/// The store can't be asked, or this is the appliance.
pub fn plan(
    config: &Config,
    offsite: &Offsite,
    credentials: &Path,
    now: Timestamp,
    stop: &Stop,
) -> Result<BTreeMap<String, Vec<Verdict>>> {
    if config.backup.state.join("pushes.json").exists() {
        bail!(
            "this is the appliance: it pushes from here\n\
             hint: prune on another machine, with an access key that may delete and is never on the appliance"
        );
    }
    let mut kept: BTreeMap<String, (Vec<Kept>, Vec<Verdict>)> = BTreeMap::new();
    for copy in list::list(offsite, credentials, None, stop)?.into_iter().filter(|copy| copy.proven) {
        let (judged, told) = kept.entry(copy.source).or_default();
        if is_late(&copy.snapshot, copy.stored) {
            let why = "it came to the store long after its name says; look who put it there";
            told.push(Verdict { name: copy.snapshot, reasons: vec![why.to_owned()] });
        } else {
            judged.push(Kept { name: copy.snapshot, outcome: copy.outcome, pinned: false });
        }
    }
    let zone = config.zone()?;
    let judged = kept.into_iter().map(|(source, (kept, told))| {
        let own = config.sources.iter().find(|known| known.name == source);
        let keep = own.map_or(config.backup.keep, |source| source.keep);
        let mut verdicts = retention::judge(&kept, &Rules { keep, protect: &[], zone: &zone, now });
        verdicts.extend(told);
        verdicts.sort_by(|one, other| one.name.cmp(&other.name));
        (source, verdicts)
    });
    Ok(judged.collect())
}

/// Whether a copy came too late to be what its name says; also when the store doesn't say when it came.
fn is_late(name: &str, stored: Option<Timestamp>) -> bool {
    match (time_of(name), stored) {
        (Some(named), Some(stored)) => stored.duration_since(named) > LATE,
        _ => true,
    }
}

/// Removes a copy.
///
/// # Errors
/// The store doesn't do it. What is left of the copy doesn't count.
pub fn remove(offsite: &Offsite, credentials: &Path, source: &str, name: &str, stop: &Stop) -> Result<()> {
    let store = Store::connect(offsite, credentials, stop)?;
    let keys = store.keys(source, name);
    super::runtime()?.block_on(async {
        for key in [&keys.commit, &keys.archive, &keys.index] {
            let request = store.client.delete_object().bucket(&store.bucket).key(key);
            store.ask(format!("removing {key} from {}", store::place(offsite)), request.send()).await?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::is_late;

    #[test]
    fn a_copy_may_come_two_weeks_after_its_name_says() {
        let late = |stored: Option<&str>| is_late("20261101T023000Z", stored.map(|time| time.parse().unwrap()));
        assert!(!late(Some("2026-11-01T03:00:00Z")) && !late(Some("2026-11-15T02:30:00Z")));
        assert!(late(Some("2026-11-15T02:30:01Z")) && late(None));
        // A clock that was ahead.
        assert!(!late(Some("2026-10-01T00:00:00Z")));
    }
}
