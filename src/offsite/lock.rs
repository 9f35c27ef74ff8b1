//! Whether the store keeps a copy from being deleted (Object Lock).
//!
//! The appliance asks for no lock: it has no right to, since an intruder who had it could lock junk for a century. The
//! bucket's default retention does it, and what came of that is read back. A store that knows no lock takes the setting and
//! ignores it without a word, so that only this reading tells.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use super::commit::Commit;
use super::store::Store;

/// How much shorter a lock may be than was asked for: a bucket counts in days, from when the object was begun.
const SLACK: Duration = Duration::from_hours(24);

/// What of a copy isn't locked for as long as the configuration asks for; a sentence for a person, with what helps.
///
/// # Errors
/// The store doesn't say.
pub async fn missing(store: &Store, commit: &Commit, key: &str, now: Timestamp) -> Result<Option<String>> {
    let Some(locked) = store.offsite.locked else { return Ok(None) };
    for key in [&commit.archive.key, &commit.index.key, key] {
        let until = store.head(key).await?.and_then(|said| said.locked_until);
        if let Some(told) = too_short(until, now, locked) {
            let hint = match until {
                Some(_) => "lengthen the bucket's default retention, or say less in [offsite] locked",
                None => {
                    "whoever has the appliance's access key can delete it; `vaultberry offsite policy` shows how a bucket locks \
                     what comes, for stores that can"
                }
            };
            return Ok(Some(format!("{key} {told}\nhint: {hint}")));
        }
    }
    Ok(None)
}

/// How a lock `until` then isn't one for `wanted` from `now` on.
fn too_short(until: Option<Timestamp>, now: Timestamp, wanted: Duration) -> Option<String> {
    let Some(until) = until else { return Some(String::from("isn't locked")) };
    let least = now.saturating_add(wanted.saturating_sub(SLACK)).unwrap_or(Timestamp::MAX);
    (until < least).then(|| format!("is locked until {until:.0} only, which is less than [offsite] locked asks for"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::too_short;

    #[test]
    fn a_lock_may_be_a_day_shorter_and_no_more() {
        let (now, month) = ("2026-11-23T02:30:00Z".parse().unwrap(), Duration::from_hours(30 * 24));
        let told = |until: &str| too_short(Some(until.parse().unwrap()), now, month);
        assert_eq!(told("2026-12-23T02:30:00Z"), None);
        assert_eq!(told("2026-12-22T02:30:00Z"), None);
        assert_eq!(
            told("2026-12-22T02:29:59Z").unwrap(),
            "is locked until 2026-12-22T02:29:59Z only, which is less than [offsite] locked asks for"
        );
        assert_eq!(too_short(None, now, month).unwrap(), "isn't locked");
        assert_eq!(told("9999-12-30T00:00:00Z"), None);
    }
}
