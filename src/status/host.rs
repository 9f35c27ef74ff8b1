//! The appliance itself: packages that wait to be updated, and whether what hardens it is really on.
//!
//! Each thing is asked of the program that knows it, with a limit of its own. A program that isn't there, or doesn't answer,
//! makes the answer `unknown`, never an error: these are facts for a report, and a report must go out.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ask::{self, ask};
use crate::harden::check::Rule;
use crate::harden::record::Record;
use crate::kernel::note::{self, Note};
use crate::kernel::trial;
use crate::log::printable;
use crate::luks::slots::{self, Holder, Kind};
use crate::unlock::ROOT_NAME;
use crate::updates::history::{self, Upgraded};
use crate::updates::restart;
use crate::updates::waiting::{self, Waiting};
use crate::{harden, luks};

/// Where apt keeps the package lists that it has fetched.
const LISTS: &str = "/var/lib/apt/lists";

/// How old the newest of them may be: Debian's list of security updates, which bears the time at which it was made, is made
/// anew before that.
const OLDEST_LISTS: Duration = Duration::from_hours(7 * 24);

/// How old the last check of the hardening may be: there is one each day, and one soon after each start.
const OLDEST_CHECK: Duration = Duration::from_hours(2 * 24);

/// How long after a start there may be none.
const SOON: Duration = Duration::from_hours(1);

/// What is known of the appliance itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What apt would install; none where that isn't known, as when it has fetched no package lists for a week.
    pub updates: Option<Updates>,
    /// What was upgraded in the last two days, the oldest first.
    #[serde(default)]
    pub upgraded: Vec<Upgraded>,
    /// Why a restart is wanted for what was upgraded; none where it isn't.
    #[serde(default)]
    pub restart_wanted: Option<String>,
    /// What hardens it.
    pub checks: Vec<Check>,
}

/// Packages that wait to be updated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updates {
    /// All of them.
    pub pending: usize,
    /// Those that mend a security hole.
    pub security: usize,
    /// The names of those that are held until somebody calls `vaultberry update`.
    #[serde(default)]
    pub held: Vec<String>,
}

/// Something that hardens the appliance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What should be so: `ssh lets in by key only`.
    pub name: String,
    /// Whether it is.
    pub state: State,
    /// What helps, where it isn't.
    pub hint: String,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is as it should be.
    Ok,
    /// It isn't.
    Failed,
    /// The program that knows isn't there, or didn't answer.
    Unknown,
}

impl State {
    fn of(answer: Option<bool>) -> Self {
        match answer {
            Some(true) => Self::Ok,
            Some(false) => Self::Failed,
            None => Self::Unknown,
        }
    }

    /// The word for a person and for JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Asks for everything. `state` is the folder in which the last check of the hardening is kept.
pub fn look(state: &Path, now: Timestamp) -> Host {
    let updates = are_fresh(LISTS.as_ref(), SystemTime::now()).then(waiting::ask_apt).flatten().map(|waiting| counted(&waiting));
    let record = Record::last(state);
    let mut checks = Vec::new();
    if harden::require_appliance().is_ok() {
        checks.extend(hardening(record.as_ref(), now, up_for().is_none_or(|time| time <= SOON)));
    }
    checks.extend(keys_of_root());
    checks.extend(newest_kernel(&Note::read(note::PATH.as_ref()), trial::booted().ok().flatten().as_deref()));
    let failed = ask("systemctl", &["list-units", "--failed", "--plain", "--no-legend"], ask::USUAL);
    let told = broken(record.as_ref()).next().is_some();
    let failed = failed.filter(|answer| answer.success).map(|answer| failed_units(&answer.text, told));
    let named = failed.as_ref().map_or(String::new(), |units| units.join(", "));
    let well = failed.map(|units| units.is_empty());
    checks.push(check("no unit has failed", well, &format!("look at `systemctl status` of {named}")));
    Host { updates, upgraded: history::lately(now), restart_wanted: restart::wanted(), checks }
}

fn check(name: &str, answer: Option<bool>, hint: &str) -> Check {
    Check { name: name.to_owned(), state: State::of(answer), hint: hint.to_owned() }
}

/// What the last check of the hardening found: each rule that isn't kept, and whether there was such a check lately.
fn hardening(record: Option<&Record>, now: Timestamp, just_up: bool) -> Vec<Check> {
    let fresh = record.and_then(|record| record.age(now)).is_some_and(|age| age <= OLDEST_CHECK);
    let hint = "look at `journalctl -u vaultberry-harden`, and run `sudo vaultberry harden check`";
    let name = "the hardening was checked in the last two days";
    let mut checks = vec![check(name, (fresh || !just_up).then_some(fresh), hint)];
    for rule in broken(record) {
        // What nobody could find out wants somebody, too.
        checks.push(check(&format!("{}: {}", rule.name, rule.wanted), Some(false), &format!("{}: {}", rule.told(), rule.fix)));
    }
    checks
}

/// The rules that weren't kept.
fn broken(record: Option<&Record>) -> impl Iterator<Item = &Rule> {
    record.into_iter().flat_map(|record| &record.rules).filter(|rule| rule.kept() != Some(true))
}

/// How long ago systemd was started in root; the kernel may have waited long for a stick before.
fn up_for() -> Option<Duration> {
    let begun = ask("systemctl", &["show", "--property=UserspaceTimestampMonotonic", "--value"], ask::USUAL)?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()?;
    uptime.checked_sub(Duration::from_micros(begun.text.trim().parse().ok()?))
}

/// Whether the newest kernel is the one that boots; nothing where this isn't an appliance, which its start says.
fn newest_kernel(note: &Result<Note>, booted: Option<&str>) -> Option<Check> {
    booted?;
    let problem = note.as_ref().map(|note| note.problem.clone().unwrap_or_default()).unwrap_or_default();
    let well = note.as_ref().ok().map(|note| note.problem.is_none());
    let hint =
        format!("{}; `vaultberry kernel list` tells more", printable(problem.lines().next().unwrap_or_default().as_bytes()));
    Some(check("the newest kernel boots", well, &hint))
}

/// Whether each change of root's keys came to its end; nothing where root isn't encrypted, or its header can't be read.
fn keys_of_root() -> Option<Check> {
    let header = luks::read_header(&luks::device_below(&luks::mapped(ROOT_NAME))?).ok()?;
    let left = left_to_do(&slots::holders(&header));
    Some(check("each change of root's keys is done", Some(left.is_none()), left.unwrap_or_default()))
}

/// What remains to be done about root's keys.
fn left_to_do(holders: &[Holder]) -> Option<&'static str> {
    let is = |wanted: fn(&Holder) -> bool| holders.iter().any(wanted);
    if is(|holder| holder.kind == Kind::Recovery && holder.replaces.is_some()) {
        return Some("a new recovery passphrase was cut short: keep the sheets, and run `vaultberry key recovery rotate` again");
    }
    if is(|holder| holder.id.as_deref() == Some(slots::ELSEWHERE)) {
        return Some("root has a recovery passphrase from another machine, unknown here: run `vaultberry key recovery rotate`");
    }
    let cut = is(|holder| holder.kind == Kind::Key && holder.replaces.is_some());
    cut.then_some("the rotation of a stick's key was cut short: `vaultberry key rotate STICK` finishes it")
}

/// Whether package lists were fetched lately. Without them apt knows of no update, and says so as if there were none.
fn are_fresh(lists: &Path, now: SystemTime) -> bool {
    let entries = fs::read_dir(lists).into_iter().flatten().flatten();
    let fetched = entries.filter(|entry| entry.file_name() != "lock");
    let times = fetched.filter_map(|entry| entry.metadata().ok().filter(Metadata::is_file)?.modified().ok());
    // One from the future is fresh: its maker's clock is a little ahead.
    times.max().is_some_and(|newest| now.duration_since(newest).map_or(true, |age| age <= OLDEST_LISTS))
}

fn counted(waiting: &[Waiting]) -> Updates {
    Updates {
        pending: waiting.len(),
        security: waiting.iter().filter(|waiting| waiting.security).count(),
        held: waiting.iter().filter(|waiting| waiting.held).map(|waiting| waiting.package.clone()).collect(),
    }
}

/// The names of units that failed, but for those of which the report itself says how they went.
/// The check's is one of them when it has `told` what isn't kept.
fn failed_units(text: &str, told: bool) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let is_told = |name: &str| name.starts_with("vaultberry-backup") || told && name.starts_with("vaultberry-harden");
    names.filter(|name| !is_told(name)).map(|name| printable(name.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use jiff::Timestamp;

    use super::{State, Updates, are_fresh, counted, failed_units, hardening, left_to_do, newest_kernel};
    use crate::harden::check::Rule;
    use crate::harden::record::Record;
    use crate::kernel::note::Note;
    use crate::luks::slots::{self, Holder, Kind};
    use crate::updates::waiting::Waiting;

    #[test]
    fn what_programs_say_is_understood() {
        let waits = |package: &str, security, held| Waiting {
            package: package.to_owned(),
            from: None,
            to: "2".to_owned(),
            security,
            held,
        };
        let waiting = [waits("libssl3t64", true, false), waits("raspi-firmware", true, true), waits("tzdata", false, false)];
        assert_eq!(counted(&waiting), Updates { pending: 3, security: 2, held: vec!["raspi-firmware".to_owned()] });
        let units = "apt-daily.service loaded failed failed Daily apt\nvaultberry-backup.service loaded failed failed x\n";
        assert_eq!(failed_units(units, false), ["apt-daily.service"]);
        let check = "vaultberry-harden.service loaded failed failed x\n";
        assert_eq!((failed_units(check, true).len(), failed_units(check, false).len()), (0, 1));
    }

    #[test]
    fn without_package_lists_of_the_last_week_no_updates_are_known() {
        let lists = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        assert!(!are_fresh(&lists.path().join("missing"), now));
        File::create(lists.path().join("lock")).unwrap();
        fs::create_dir(lists.path().join("partial")).unwrap();
        assert!(!are_fresh(lists.path(), now), "what an image has isn't a list");
        let list = |name: &str, age| File::create(lists.path().join(name)).unwrap().set_modified(now - age).unwrap();
        list("deb.debian.org_debian_dists_trixie_InRelease", day * 60);
        assert!(!are_fresh(lists.path(), now));
        list("deb.debian.org_debian-security_dists_trixie-security_InRelease", day * 7);
        assert!(are_fresh(lists.path(), now));
        assert!(!are_fresh(lists.path(), now + Duration::from_secs(1)));
    }

    #[test]
    fn rules_that_are_not_kept_are_told_and_so_is_a_check_that_never_came() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let states = |record: Option<&Record>| -> Vec<(String, State)> {
            hardening(record, now, false).into_iter().map(|check| (check.name, check.state)).collect()
        };
        let checked = "the hardening was checked in the last two days".to_owned();
        assert_eq!(states(None), [(checked.clone(), State::Failed)]);
        assert_eq!(hardening(None, now, true)[0].state, State::Unknown, "the check follows the start");
        let rule = |found: Option<&str>| Rule {
            name: "unit: ssh".into(),
            wanted: "active".into(),
            found: found.map(String::from),
            fix: "start it".into(),
        };
        let record = Record::of(vec![rule(Some("active")), rule(Some("failed")), rule(None)], now);
        let told = ("unit: ssh: active".to_owned(), State::Failed);
        assert_eq!(states(Some(&record)), [(checked, State::Ok), told.clone(), told]);
        let hints: Vec<String> = hardening(Some(&record), now, false).into_iter().map(|check| check.hint).collect();
        assert_eq!(hints[1..], ["unit: ssh is failed, not active: start it", "unit: ssh: couldn't be found out: start it"]);
    }

    #[test]
    fn what_remains_to_be_done_about_keys_is_told() {
        let holder = |kind, id: Option<&str>, replaces: Option<&str>| Holder {
            kind,
            id: id.map(String::from),
            name: None,
            replaces: replaces.map(String::from),
        };
        let (key, phrase) = (holder(Kind::Key, Some("1a"), None), holder(Kind::Recovery, None, None));
        assert_eq!(left_to_do(&[key.clone(), phrase.clone()]), None);
        for (more, command) in [
            (holder(Kind::Key, Some("2b"), Some("1a")), "`vaultberry key rotate STICK`"),
            (holder(Kind::Recovery, None, Some(slots::ALL)), "`vaultberry key recovery rotate` again"),
            (holder(Kind::Recovery, Some(slots::ELSEWHERE), None), "run `vaultberry key recovery rotate`"),
        ] {
            assert!(left_to_do(&[key.clone(), phrase.clone(), more]).unwrap().contains(command));
        }
    }

    #[test]
    fn a_kernel_that_stays_behind_is_told_on_appliances_alone() {
        assert_eq!(newest_kernel(&Ok(Note::default()), None), None);
        let state = |note: anyhow::Result<Note>| newest_kernel(&note, Some("6.12-aa")).map(|check| (check.state, check.hint));
        assert_eq!(state(Ok(Note::default())).unwrap().0, State::Ok);
        assert_eq!(state(Err(anyhow::anyhow!("damaged"))).unwrap().0, State::Unknown);
        let note = Note { problem: Some("it is full\nhint: x".into()), failed: Vec::new() };
        let told = state(Ok(note)).unwrap();
        assert_eq!(told, (State::Failed, "it is full; `vaultberry kernel list` tells more".to_owned()));
    }
}
