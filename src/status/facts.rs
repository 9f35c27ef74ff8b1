//! Everything that is known of the appliance, gathered from where it is kept.
//!
//! Gathering never fails: a disk that isn't there or a file that can't be read is a fact, too, and stands among them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::time::SystemTime;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use sequoia_openpgp::Cert;
use sequoia_openpgp::parse::Parse as _;
use serde::Serialize;

use crate::config::{Config, DEFAULT_CONFIG};
use crate::disk::used;
use crate::offsite::{self, clock::Clock};
use crate::openpgp::{self, Recipients};
use crate::outcome::Outcome;
use crate::report::{self, Loss};
use crate::run::appliance;
use crate::run::history::{self, Night};
use crate::run::report::{RunReport, SourceReport};
use crate::run::{self, lock};
use crate::snapshot::catalog;
use crate::snapshot::list::Found;
use crate::space::{self, Space};
use crate::status::host::{self, Host};
use crate::status::{advice, trend};

/// How many runs the charts show.
pub const CHARTED: usize = 30;

/// How many bytes the state folder must have room for: the word of a run, its history and a mail.
const LEAST_FOR_STATE: u64 = 1 << 20;

/// How much later than due a push may be before that is called overdue: a night that failed, and the one after.
const GRACE: SignedDuration = SignedDuration::from_hours(48);

/// The facts.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The appliance's host name.
    pub appliance: String,
    /// When they were gathered.
    pub taken: Timestamp,
    /// Who runs now, as `pid 4242, since 2026-11-23T02:30:00Z`; none when nobody does.
    pub running: Option<String>,
    /// The last run, as in `last-run.json`; none when there was none, or its word can't be read.
    pub last: Option<RunReport>,
    /// Those of the configuration, in its order, and then those that only have snapshots.
    pub sources: Vec<SourceFacts>,
    /// The backup disk; none when it isn't there.
    pub disk: Option<DiskFacts>,
    /// The disks of the configuration, in its order.
    pub disks: Vec<DiskUse>,
    /// One for each recipient of the configuration.
    pub certificates: Vec<Certificate>,
    /// The appliance itself; none on a machine that isn't one.
    pub host: Option<Host>,
    /// Mails that wait for a mail server.
    pub waiting_mails: usize,
    /// Mails that didn't arrive, which no mail has told yet.
    pub lost_mails: Vec<Loss>,
    /// What couldn't be found out, and why.
    pub troubles: Vec<String>,
    /// The newest runs, from the oldest to the newest; at most thirty.
    pub history: Vec<Night>,
    /// What to do next, the most urgent first.
    pub todo: Vec<String>,
}

/// What is known of a source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceFacts {
    /// Its name.
    pub name: String,
    /// Whether it stands in the configuration.
    pub configured: bool,
    /// The last complete snapshot that is on the disk.
    pub snapshot: Option<SnapshotFacts>,
    /// How many snapshots are on the disk.
    pub snapshots: usize,
    /// The last proven push of a complete snapshot.
    pub push: Option<PushFacts>,
    /// Whether there is an `[offsite]`, and that push is too long ago, or there was none.
    pub push_overdue: bool,
}

/// A source's last complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotFacts {
    /// Its name.
    pub name: String,
    /// When its run began; none when its name is no time.
    pub time: Option<Timestamp>,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Bytes of its archive.
    pub archive_bytes: u64,
    /// Its entries.
    pub entries: u64,
    /// By how many bytes of files it is larger than the complete one before it; none when there is none.
    pub change: Option<i64>,
}

/// A source's last proven push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PushFacts {
    /// The snapshot's name.
    pub snapshot: String,
    /// When it was proven.
    pub proven: Timestamp,
}

/// The backup disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiskFacts {
    /// Its room, in bytes.
    #[serde(flatten)]
    pub space: Space,
    /// In how many days it is full, at the rate of the last nights; none when it doesn't fill up, or that can't be told.
    pub days_left: Option<u64>,
}

/// A disk that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    /// Its serial number.
    pub serial: String,
    /// Whether it is the one that is open.
    pub open: bool,
    /// When a run last wrote to it; none when none has.
    pub last_used: Option<Timestamp>,
}

/// A certificate that is sealed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Its fingerprint.
    pub fingerprint: String,
    /// When it can't be used any more; none when that is never, or already so.
    pub expires: Option<Timestamp>,
    /// Why it can't be used.
    pub problem: Option<String>,
}

/// Gathers them. `last` is the run that has just ended; without it its word is read.
pub fn gather(config: &Config, last: Option<&RunReport>, now: Timestamp) -> Facts {
    let state = &config.backup.state;
    let mut troubles = Vec::new();
    // Asked before and after: a run that begins or ends between would look like one that was killed.
    let run = || lock::holder_of(&config.backup.lock).filter(|holder| !lock::is_upgrade(holder));
    let running = run();
    let read = |troubles: &mut Vec<String>| known(troubles, run::last(state)).flatten();
    let last = last.cloned().or_else(|| read(&mut troubles));
    let running = running.or_else(run);
    let mut history = known(&mut troubles, history::load(state)).unwrap_or_default();
    let listed = known(&mut troubles, catalog::list(config, None));
    let room = if listed.is_some() { known(&mut troubles, room(config)).flatten() } else { None };
    known(&mut troubles, space::require(state, LEAST_FOR_STATE, "what runs did can't be written down"));
    let disks = disks(config, &mut troubles);
    let open = disks.iter().find(|disk| disk.open).map(|disk| disk.serial.as_str());
    // A disk that changes places with others has a trend of its own.
    let same = |night: &&Night| night.serial.is_none() || open.is_none() || night.serial.as_deref() == open;
    let mut points: Vec<_> = history.iter().filter(same).filter_map(|night| Some((night.started, night.disk?))).collect();
    points.extend(room.map(|space| (now, space)));
    let disk = room.map(|space| DiskFacts { space, days_left: trend::days_left(&points) });
    history.drain(..history.len().saturating_sub(CHARTED));
    let snapshots = listed.unwrap_or_default().into_iter().map(|listed| (listed.source, listed.snapshots)).collect();
    let waiting_mails = known(&mut troubles, report::waiting(config)).unwrap_or(0);
    let lost_mails = known(&mut troubles, report::lost(config)).unwrap_or_default();
    let appliance = fs::read_to_string(DEFAULT_CONFIG).is_ok_and(|text| text == config.text);
    let mut facts = Facts {
        appliance: config.appliance.hostname.clone(),
        taken: now,
        running,
        last,
        sources: sources(config, snapshots, now, &mut troubles),
        disk,
        disks,
        certificates: certificates(config, now),
        // Another machine's firewall is no business of ours, nor is a workstation's.
        host: appliance.then(|| host::look(&config.backup.state, now)),
        waiting_mails,
        lost_mails,
        troubles,
        history,
        todo: Vec::new(),
    };
    facts.todo = advice::todo(&facts);
    facts
}

impl Facts {
    /// Whether all is well: `failed` when the last run was, when there is none that could be known or it is more than two
    /// nights ago, or when something couldn't be found out; `partial` when the last run was, or there is something to do.
    /// While a run is going on, the last one is the last that has ended.
    pub fn verdict(&self) -> Outcome {
        let last = match self.under_way() {
            Some(_) => self.last_ended().map(|night| night.outcome),
            None => self.last.as_ref().map(|last| last.outcome),
        };
        let last = last.unwrap_or(Outcome::Failed);
        if last == Outcome::Failed || self.is_late() || !self.troubles.is_empty() {
            Outcome::Failed
        } else if last == Outcome::Partial || !self.todo.is_empty() {
            Outcome::Partial
        } else {
            Outcome::Complete
        }
    }

    /// The run that is going on, as far as it has come; none when nobody runs. Its word says `failed` until its end, so that it
    /// does when it is killed.
    pub fn under_way(&self) -> Option<&RunReport> {
        self.last.as_ref().filter(|last| self.running.is_some() && last.ended.is_none())
    }

    /// The newest run of the history that came to its end.
    pub fn last_ended(&self) -> Option<&Night> {
        self.history.iter().rev().find(|night| night.ended.is_some())
    }

    /// The last run, and how this source went in it; none when it wasn't in it.
    pub fn run_of(&self, source: &str) -> Option<(&RunReport, &SourceReport)> {
        let last = self.last.as_ref()?;
        last.sources.iter().find(|report| report.name == source).map(|report| (last, report))
    }

    /// Whether the last run began longer ago than two nights.
    pub fn is_late(&self) -> bool {
        self.last.as_ref().is_some_and(|last| self.taken.duration_since(last.started) > SignedDuration::from_hours(50))
    }
}

/// The value, or its trouble among the others.
fn known<T>(troubles: &mut Vec<String>, result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| troubles.push(format!("{error:#}"))).ok()
}

/// The disks of the configuration.
fn disks(config: &Config, troubles: &mut Vec<String>) -> Vec<DiskUse> {
    let Some(disk) = &config.disk else { return Vec::new() };
    let used = known(troubles, used::load(&config.backup.state)).unwrap_or_default();
    let open = known(troubles, used::open_now(config)).flatten();
    let of = |serial: &String| DiskUse {
        serial: serial.clone(),
        open: open.as_ref() == Some(serial),
        last_used: used.get(serial).copied(),
    };
    disk.serials.iter().map(of).collect()
}

/// The room of the backup folder's disk; none before the first run has made it.
fn room(config: &Config) -> anyhow::Result<Option<Space>> {
    let folder = &config.backup.folder;
    match fs::metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at the folder {}", folder.display())),
        Ok(_) => space::of(folder).map(Some),
    }
}

fn sources(
    config: &Config,
    mut snapshots: BTreeMap<String, Vec<Found>>,
    now: Timestamp,
    troubles: &mut Vec<String>,
) -> Vec<SourceFacts> {
    let clock = Clock::load(&config.backup.state);
    troubles.extend(clock.damage.clone());
    let every = config.offsite.as_ref().map(|offsite| SignedDuration::try_from(offsite.every).unwrap_or(SignedDuration::MAX));
    let target = config.offsite.as_ref().map(offsite::target);
    let facts = |name: String, configured: bool, found: &[Found]| {
        let push = target
            .as_ref()
            .and_then(|target| clock.of(&name, target).complete)
            .map(|push| PushFacts { snapshot: push.snapshot, proven: push.proven });
        let push_overdue = configured
            && every.is_some_and(|every| {
                push.as_ref().is_none_or(|push| now.duration_since(push.proven) > every.saturating_add(GRACE))
            });
        SourceFacts { name, configured, snapshot: latest(found), snapshots: found.len(), push, push_overdue }
    };
    let mut all = Vec::new();
    for source in &config.sources {
        let found = snapshots.remove(&source.name).unwrap_or_default();
        all.push(facts(source.name.clone(), true, &found));
    }
    let rest = snapshots.into_iter().filter(|(name, found)| !found.is_empty() && name != appliance::NAME);
    all.extend(rest.map(|(name, found)| facts(name, false, &found)));
    all
}

/// The newest complete snapshot, compared with the one before it.
fn latest(found: &[Found]) -> Option<SnapshotFacts> {
    let mut complete = found.iter().rev().filter_map(|found| {
        let trailer = found.index.as_ref().ok().filter(|trailer| trailer.outcome == Outcome::Complete)?;
        Some((found, trailer))
    });
    let (newest, trailer) = complete.next()?;
    let before = complete.next().and_then(|(_, before)| i64::try_from(before.bytes).ok());
    Some(SnapshotFacts {
        name: newest.name.clone(),
        time: newest.time,
        bytes: trailer.bytes,
        archive_bytes: newest.archive_size,
        entries: trailer.entries,
        change: before.and_then(|before| i64::try_from(trailer.bytes).ok()?.checked_sub(before)),
    })
}

fn certificates(config: &Config, now: Timestamp) -> Vec<Certificate> {
    let now = SystemTime::from(now);
    let each = config.recipients.iter().map(|recipient| {
        let problem = Recipients::at(std::slice::from_ref(recipient), now).unusable().first().cloned();
        let certificate = Cert::from_bytes(&recipient.armored).ok().filter(|_| problem.is_none());
        let expires = certificate.and_then(|certificate| openpgp::expiry(&certificate, now));
        let expires = expires.and_then(|time| Timestamp::try_from(time).ok());
        Certificate { fingerprint: recipient.fingerprint.clone(), expires, problem }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;

    use super::gather;
    use crate::config::{self, sample};
    use crate::offsite::{self, clock::Clock};
    use crate::outcome::Outcome;

    #[test]
    fn what_was_pushed_elsewhere_is_no_proven_push() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = sample::config(folder.path());
        let here = sample::offsite("https://s3.example.org", folder.path());
        let elsewhere = config::Offsite { bucket: String::from("older"), ..here.clone() };
        config.offsite = Some(config::Offsite { every: std::time::Duration::from_hours(7 * 24), ..here.clone() });
        fs::create_dir(folder.path().join("state")).unwrap();
        let now: Timestamp = "2026-11-23T04:00:00Z".parse().unwrap();
        for (place, known, overdue) in [(&elsewhere, None, true), (&here, Some("20261123T023000Z"), false)] {
            let mut clock = Clock::load(&config.backup.state);
            clock.record("web", "20261123T023000Z", Outcome::Complete, &offsite::target(place), now).unwrap();
            let facts = gather(&config, None, now);
            let source = &facts.sources[0];
            assert_eq!(source.push.as_ref().map(|push| push.snapshot.as_str()), known);
            assert_eq!(source.push_overdue, overdue);
        }
    }
}
