//! Removing old copies from the store: on another machine than the appliance, with another access key, since that of the
//! appliance may not delete.
//!
//! The rules are those of the snapshots on the disk, `keep`. Only proven copies are judged and removed; what is unproven may
//! be under way, and is for the bucket's lifecycle. The commit object goes first: a copy of which something is gone already
//! doesn't count any more.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::list;
use super::store::{self, Store};
use crate::config::{Config, Offsite};
use crate::snapshot::retention::{self, Kept, Rules, Verdict};
use crate::stop::Stop;

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
    let mut kept: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for copy in list::list(offsite, credentials, None, stop)?.into_iter().filter(|copy| copy.proven) {
        let one = Kept { name: copy.snapshot, outcome: copy.outcome, pinned: false };
        kept.entry(copy.source).or_default().push(one);
    }
    let zone = config.zone()?;
    let judged = kept.into_iter().map(|(source, kept)| {
        let own = config.sources.iter().find(|known| known.name == source);
        let keep = own.map_or(config.backup.keep, |source| source.keep);
        let verdicts = retention::judge(&kept, &Rules { keep, protect: &[], zone: &zone, now });
        (source, verdicts)
    });
    Ok(judged.collect())
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
