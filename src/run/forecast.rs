//! Whether the disk has room for a night, before it begins: a night that can't end well is better not begun.
//!
//! What a source will need is what its last archive took, and a tenth more. What its mirror grows by nobody knows; a part of the
//! disk is kept free for that ([`space::reserve`]). When that isn't enough, the rules of `keep` are applied at once instead of after
//! the snapshot, for those sources whose last night was a good one; then the sources are given room in their order.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::amount::amount;
use crate::config::Config;
use crate::run::report::Missed;
use crate::snapshot::retention::Rules;
use crate::snapshot::{self, ARCHIVE_END};
use crate::space;

/// Removes old snapshots by the rules if a run would be short of room otherwise. `good`: the sources whose last night left a
/// snapshot.
pub fn make_room(config: &Config, good: &HashMap<String, Missed>) -> Result<()> {
    let folder = &config.backup.folder;
    let needs: u64 = needs(config)?.iter().map(|(_, bytes)| bytes).sum();
    let is_short = || space::of(folder).map(|space| space.free < space::reserve(space.total).saturating_add(needs));
    if !is_short()? {
        return Ok(());
    }
    let zone = config.zone()?;
    for source in config.sources.iter().filter(|source| good.contains_key(&source.name)) {
        let rules = Rules { keep: source.keep, protect: &[], zone: &zone, now: Timestamp::now() };
        for name in snapshot::prune(&folder.join("snapshots").join(&source.name), &rules)? {
            tracing::info!(source = source.name, "removed the old snapshot {name}: the disk is short of room");
        }
    }
    Ok(())
}

/// Why there is no room for a source, by name, for those that there is none for.
pub fn short(config: &Config) -> Result<HashMap<String, String>> {
    let space = space::of(&config.backup.folder)?;
    Ok(share(&needs(config)?, space.free.saturating_sub(space::reserve(space.total))))
}

/// What each source will probably need, in bytes.
fn needs(config: &Config) -> Result<Vec<(&str, u64)>> {
    let snapshots = config.backup.folder.join("snapshots");
    let need = |name: &str| newest(&snapshots.join(name)).map(|bytes| bytes.saturating_mul(11) / 10);
    config.sources.iter().map(|source| Ok((source.name.as_str(), need(&source.name)?))).collect()
}

/// Gives each source of `room` what it needs, in their order.
fn share(needs: &[(&str, u64)], mut room: u64) -> HashMap<String, String> {
    let mut short = HashMap::new();
    for (name, need) in needs {
        if let Some(left) = room.checked_sub(*need) {
            room = left;
            continue;
        }
        let why = format!(
            "a night of {name} needs about {}, as its last one did, and the disk has {} for it\nhint: see what `vaultberry \
             snapshot list` shows; keep less (`keep`), unpin, or take a bigger disk",
            amount(*need),
            amount(room)
        );
        short.insert((*name).to_owned(), why);
    }
    short
}

/// The bytes of the newest archive in `folder`; 0 where there is none.
fn newest(folder: &Path) -> Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(|| format!("reading {}", folder.display()))?,
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    // Names sort by time.
    let newest = names.filter(|name| name.as_encoded_bytes().ends_with(ARCHIVE_END.as_bytes())).max();
    let Some(path) = newest.map(|name| folder.join(name)) else { return Ok(0) };
    Ok(fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?.len())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{newest, share};

    #[test]
    fn room_is_given_in_order_and_who_does_not_fit_takes_none() {
        let short = share(&[("a", 60 << 20), ("b", 50 << 20), ("c", 40 << 20), ("new", 0)], 100 << 20);
        assert_eq!(short.keys().collect::<Vec<_>>(), ["b"]);
        assert!(
            short["b"].starts_with("a night of b needs about 50.0 MiB, as its last one did, and the disk has 40.0 MiB for it\n")
        );
        assert!(share(&[("a", 5)], 5).is_empty());
    }

    #[test]
    fn the_newest_archive_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(&folder.path().join("none")).unwrap(), 0);
        assert_eq!(newest(folder.path()).unwrap(), 0);
        for (name, bytes) in [("2.tar.gz", 7), ("1.tar.gz", 900), ("2.index.jsonl.zst", 50), ("3.tar.gz.part", 800)] {
            fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(newest(folder.path()).unwrap(), 7);
    }
}
