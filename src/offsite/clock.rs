//! The push clock: which snapshots were last proven to be off-site, and whether it is time for another.
//!
//! `pushes.json` in the state folder keeps, for each source, the last proven push of a complete snapshot, and the last of
//! any. A complete snapshot goes by the first, a partial one by the second: a source that is partial for weeks is pushed
//! once a period and not every night, and its first complete snapshot after that goes out at once.
//!
//! Age is measured between the names of the two snapshots, which say when their runs began. So it doesn't matter how long
//! pulling and pushing took, and a period of a week stays a week. What was pushed elsewhere, or lies in the future because
//! the time was set back, says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Candidate;
use crate::durable;
use crate::outcome::Outcome;
use crate::snapshot::list::time_of;

/// The version of the file's format.
const VERSION: u32 = 1;

/// How much earlier than `every` says a push may be. Cron starts runs by local time: in the week in which summer time
/// begins they are an hour closer, and a run may start a little late one night and not the next.
const EARLY: Duration = Duration::from_hours(2);

/// The clock of all sources.
#[derive(Debug)]
pub struct Clock {
    /// Why the file could not be read, where it is there and couldn't.
    pub damage: Option<String>,
    path: PathBuf,
    sources: BTreeMap<String, Pushes>,
}

/// What is known of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushes {
    /// The last proven push of a complete snapshot.
    pub complete: Option<Push>,
    /// The last proven push.
    pub any: Option<Push>,
}

/// A push that was proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The snapshot's name.
    pub snapshot: String,
    /// When it was proven.
    pub proven: Timestamp,
    /// Where it went: endpoint, bucket and prefix.
    pub target: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    sources: BTreeMap<String, Pushes>,
}

impl Clock {
    /// Reads the clock in the folder `state`. A damaged one is empty, and says so.
    pub fn load(state: &Path) -> Self {
        let path = state.join("pushes.json");
        let (sources, damage) = match read(&path) {
            Ok(sources) => (sources, None),
            Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
        };
        Self { damage, path, sources }
    }

    /// What is known of `source` at `target`: what was pushed elsewhere says nothing.
    pub fn of(&self, source: &str, target: &str) -> Pushes {
        let there = |push: &Option<Push>| push.clone().filter(|push| push.target == target);
        self.sources
            .get(source)
            .map_or_else(Pushes::default, |pushes| Pushes { complete: there(&pushes.complete), any: there(&pushes.any) })
    }

    /// Of each source the last copy at `target` that was proven to be there, a complete one if there was any.
    pub fn proven(&self, target: &str) -> Vec<(String, String)> {
        let last = |source: &String| {
            let Pushes { complete, any } = self.of(source, target);
            Some((source.clone(), complete.or(any)?.snapshot))
        };
        self.sources.keys().filter_map(last).collect()
    }

    /// Whether it is time to push `snapshot` to `target`, when a push is due `every` so often.
    pub fn is_due(&self, snapshot: &Candidate<'_>, target: &str, every: Duration) -> bool {
        let Pushes { complete, any } = self.of(snapshot.source, target);
        let last = match snapshot.outcome {
            Outcome::Complete => complete,
            Outcome::Partial => any,
            Outcome::Failed | Outcome::Skipped => return false,
        };
        let Some(last) = last else { return true };
        match (time_of(snapshot.name), time_of(&last.snapshot)) {
            (Some(now), Some(then)) => {
                // An age below nothing doesn't convert: the time was set back.
                Duration::try_from(now.duration_since(then)).map_or(true, |age| age + EARLY.min(every / 2) >= every)
            }
            _ => true,
        }
    }

    /// Sets the clock: `snapshot` of `source`, made with this outcome, is proven to be at `target`. A newer one that is known
    /// to be there stays: with disks that change places, an older push may be gone on with after it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn record(&mut self, source: &str, snapshot: &str, outcome: Outcome, target: &str, proven: Timestamp) -> Result<()> {
        let push = Push { snapshot: snapshot.to_owned(), proven, target: target.to_owned() };
        let pushes = self.sources.entry(source.to_owned()).or_default();
        if outcome == Outcome::Complete && !is_superseded(&push, pushes.complete.as_ref()) {
            pushes.complete = Some(push.clone());
        }
        if !is_superseded(&push, pushes.any.as_ref()) {
            pushes.any = Some(push);
        }
        let mut json = serde_json::to_vec_pretty(&Content { version: VERSION, sources: self.sources.clone() })
            .context("putting the push clock into JSON")?;
        json.push(b'\n');
        durable::write(&self.path, &json, 0o600).context("setting the push clock")
    }
}

/// Whether `known` is at the same place, and newer than `push`. One that lay in the future isn't: the time was set back.
fn is_superseded(push: &Push, known: Option<&Push>) -> bool {
    known.is_some_and(|known| {
        known.target == push.target
            && known.snapshot > push.snapshot
            && time_of(&known.snapshot).is_some_and(|time| time <= push.proven)
    })
}

fn read(path: &Path) -> Result<BTreeMap<String, Pushes>> {
    let reading = || format!("reading the push clock {}", path.display());
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.with_context(reading)?,
    };
    let content: Content = serde_json::from_slice(&text).with_context(reading)?;
    anyhow::ensure!(content.version == VERSION, "{}: its version is {} and not {VERSION}", reading(), content.version);
    Ok(content.sources)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::{Clock, Push};
    use crate::offsite::Candidate;
    use crate::outcome::Outcome;

    const HERE: &str = "https://s3.example.org/b/p";
    const WEEK: Duration = Duration::from_hours(7 * 24);
    const DAY: Duration = Duration::from_hours(24);

    fn snapshot(name: &str, outcome: Outcome) -> Candidate<'_> {
        Candidate { source: "web", name, archive: Path::new("/a"), index: Path::new("/i"), outcome }
    }

    #[test]
    fn a_push_is_due_by_age_outcome_and_place() {
        use Outcome::{Complete, Failed, Partial, Skipped};
        let monday = ("20261123T023000Z", Complete);
        let tuesday = ("20261124T023000Z", Partial);
        for (pushed, candidate, target, every, expected) in [
            // nothing pushed yet
            (&[][..], ("20261123T023000Z", Complete), HERE, WEEK, true),
            (&[], ("20261123T023000Z", Partial), HERE, WEEK, true),
            (&[], ("20261123T023000Z", Failed), HERE, WEEK, false),
            (&[], ("20261123T023000Z", Skipped), HERE, WEEK, false),
            // a week, and what may be missing of it
            (&[monday], ("20261129T023000Z", Complete), HERE, WEEK, false),
            (&[monday], ("20261130T002959Z", Complete), HERE, WEEK, false),
            (&[monday], ("20261130T003000Z", Complete), HERE, WEEK, true),
            (&[monday], ("20261130T022957Z", Complete), HERE, WEEK, true),
            (&[monday], ("20261130T023000Z", Complete), HERE, WEEK, true),
            // each night
            (&[monday], ("20261124T013000Z", Complete), HERE, DAY, true),
            (&[monday], ("20261123T120000Z", Complete), HERE, DAY, false),
            (&[monday], ("20261123T023001Z", Complete), HERE, Duration::ZERO, true),
            // twice an hour at most: half of a short period is not allowed away
            (&[monday], ("20261123T025959Z", Complete), HERE, Duration::from_hours(1), false),
            (&[monday], ("20261123T030000Z", Complete), HERE, Duration::from_hours(1), true),
            // elsewhere
            (&[monday], ("20261124T023000Z", Complete), "https://other/b/p", WEEK, true),
            // the time was set back
            (&[monday], ("20261122T023000Z", Complete), HERE, WEEK, true),
            // partial ones go by the last of any, the first complete one goes out at once
            (&[monday], ("20261124T023000Z", Partial), HERE, WEEK, false),
            (&[monday], ("20261130T023000Z", Partial), HERE, WEEK, true),
            (&[monday, tuesday], ("20261130T023000Z", Partial), HERE, WEEK, false),
            (&[monday, tuesday], ("20261130T023000Z", Complete), HERE, WEEK, true),
            (&[tuesday], ("20261125T023000Z", Complete), HERE, WEEK, true),
        ] {
            let state = tempfile::tempdir().unwrap();
            for (name, outcome) in pushed {
                Clock::load(state.path()).record("web", name, *outcome, HERE, Timestamp::now()).unwrap();
            }
            let clock = Clock::load(state.path());
            let found = clock.is_due(&snapshot(candidate.0, candidate.1), target, every);
            assert_eq!(found, expected, "{pushed:?} {candidate:?} {target} {every:?}");
            let other = Candidate { source: "other", ..snapshot("20261124T023000Z", Complete) };
            assert!(clock.is_due(&other, HERE, WEEK));
        }
    }

    #[test]
    fn an_older_push_that_is_gone_on_with_does_not_set_the_clock_back() {
        let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        let (old, new, future) = ("20261122T023000Z", "20261123T023000Z", "20301123T023000Z");
        for (pushes, expected) in [
            (&[(new, HERE), (old, HERE)][..], new),
            (&[(old, HERE), (new, HERE)], new),
            (&[(future, HERE), (old, HERE)], old),
            (&[(new, "https://other/b/p"), (old, HERE)], old),
        ] {
            let state = tempfile::tempdir().unwrap();
            for (name, target) in pushes {
                Clock::load(state.path()).record("web", name, Outcome::Complete, target, now).unwrap();
            }
            let known = Clock::load(state.path()).of("web", HERE);
            for push in [known.complete, known.any] {
                assert_eq!(push.unwrap().snapshot, expected, "{pushes:?}");
            }
        }
        // A partial one is newer than the complete one that comes late.
        let state = tempfile::tempdir().unwrap();
        for (name, outcome) in [(new, Outcome::Partial), (old, Outcome::Complete)] {
            Clock::load(state.path()).record("web", name, outcome, HERE, now).unwrap();
        }
        let known = Clock::load(state.path()).of("web", HERE);
        assert_eq!([known.complete, known.any].map(|push| push.unwrap().snapshot), [old, new]);
        assert_eq!(Clock::load(state.path()).of("web", "https://other/b/p"), super::Pushes::default());
    }

    #[test]
    fn a_damaged_clock_is_named_empty_and_mended_by_the_next_push() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("pushes.json");
        for damaged in ["", "{", "{\"version\":2,\"sources\":{}}", "{\"version\":1,\"sources\":{\"web\":7}}"] {
            fs::write(&path, damaged).unwrap();
            let mut clock = Clock::load(state.path());
            let damage = clock.damage.clone().unwrap();
            assert!(damage.starts_with(&format!("reading the push clock {}: ", path.display())), "{damage}");
            let candidate = snapshot("20261123T023000Z", Outcome::Complete);
            assert!(clock.is_due(&candidate, HERE, WEEK));
            clock.record("web", candidate.name, Outcome::Complete, HERE, Timestamp::UNIX_EPOCH).unwrap();
            let clock = Clock::load(state.path());
            let push = Push { snapshot: candidate.name.into(), proven: Timestamp::UNIX_EPOCH, target: HERE.into() };
            assert_eq!((clock.damage.clone(), clock.of("web", HERE).complete), (None, Some(push)));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
