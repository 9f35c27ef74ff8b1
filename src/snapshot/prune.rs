//! Removing what retention says, so that a power cut at any moment leaves nothing that looks like a snapshot and isn't one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::durable;
use crate::snapshot::list::Found;
use crate::snapshot::retention::{Kept, Rules, Verdict};
use crate::snapshot::{ARCHIVE_END, INDEX_END, list, retention};

/// What the rules say of the snapshots in `folder`, one source's: from the oldest to the newest.
pub fn plan(folder: &Path, rules: &Rules<'_>) -> Result<Vec<Verdict>> {
    let kept = |found: Found| Kept {
        pinned: found.pin.is_some(),
        outcome: found.index.ok().map(|trailer| trailer.outcome),
        name: found.name,
    };
    let kept: Vec<Kept> = list::of(folder)?.into_iter().map(kept).collect();
    Ok(retention::judge(&kept, rules))
}

/// Removes from `folder`, one source's, what no rule wants, and gives the names, from the oldest to the newest. See
/// [`super::retention`].
///
/// It is for a run that has just made a snapshot of this source, and for a person: whoever prunes after failures ends with
/// nothing.
///
/// The archives go first, then, once that is on the disk, the indexes: an index without an archive is a leftover that
/// [`super::clean`] knows, while an archive without an index would be a snapshot that nobody can judge, for ever.
pub fn prune(folder: &Path, rules: &Rules<'_>) -> Result<Vec<String>> {
    let gone = plan(folder, rules)?.into_iter().filter(|verdict| verdict.reasons.is_empty());
    let names: Vec<String> = gone.map(|verdict| verdict.name).collect();
    for end in [ARCHIVE_END, INDEX_END] {
        for name in &names {
            let path = folder.join(format!("{name}{end}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing the old snapshot {}", path.display()));
                }
                _ => {}
            }
        }
        if let Some(name) = names.first() {
            durable::sync_folder_of(&folder.join(name))?;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use crate::config::Keep;
    use crate::outcome::Outcome;
    use crate::snapshot::list::tests::plant;
    use crate::snapshot::retention::Rules;
    use crate::snapshot::{clean, list};

    fn prune(folder: &Path, last: u16, protect: &[&str]) -> anyhow::Result<Vec<String>> {
        let keep = Keep { last, ..Keep::NONE };
        super::prune(folder, &Rules { keep, protect, zone: &TimeZone::UTC, now: Timestamp::now() })
    }

    #[test]
    fn a_real_folder_keeps_what_the_table_says_and_all_that_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let plant = |day: &str, outcome| plant(folder.path(), &format!("{day}T023000Z"), outcome);
        let names = || list::of(folder.path()).unwrap().into_iter().map(|found| found.name).collect::<Vec<_>>();
        for day in ["20200101", "20200102", "20200103", "20200104", "30000101"] {
            plant(day, Outcome::Complete);
        }
        for day in ["20200105", "20200106", "20200107"] {
            plant(day, Outcome::Partial);
        }
        // Damaged: older than all, and it stays.
        plant("20190101", Outcome::Complete);
        fs::write(folder.path().join("20190101T023000Z.index.jsonl.zst"), "").unwrap();
        fs::write(folder.path().join("by-hand.tar.gz"), "").unwrap();
        let removed = prune(folder.path(), 2, &["20200101T023000Z"]).unwrap();
        assert_eq!(removed, ["20200102T023000Z", "20200105T023000Z"]);
        let expected = ["20190101", "20200101", "20200103", "20200104", "20200106", "20200107", "30000101"];
        let left: Vec<String> = expected.iter().map(|day| format!("{day}T023000Z")).chain(["by-hand".into()]).collect();
        assert_eq!(names(), left);
        // one archive without an index, all others with
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7 * 2 + 1);
        assert_eq!(prune(folder.path(), 2, &["20200101T023000Z"]).unwrap(), Vec::<String>::new());
        assert_eq!(prune(&folder.path().join("none"), 2, &[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_a_cut_in_the_middle_leaves_is_a_leftover_and_no_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        for day in 1..=3 {
            plant(folder.path(), &format!("2020010{day}T023000Z"), Outcome::Complete);
        }
        let index = folder.path().join("20200101T023000Z.index.jsonl.zst");
        let bytes = fs::read(&index).unwrap();
        assert_eq!(prune(folder.path(), 1, &[]).unwrap(), ["20200101T023000Z", "20200102T023000Z"]);
        fs::write(&index, bytes).unwrap();
        assert_eq!(list::of(folder.path()).unwrap().len(), 1);
        assert_eq!(clean(folder.path()).unwrap(), [index]);
    }
}
