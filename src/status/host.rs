//! The appliance itself: packages that wait to be updated, and whether what hardens it is really on.
//!
//! Each thing is asked of the program that knows it, with a limit of its own. A program that isn't there, or doesn't answer,
//! makes the answer `unknown`, never an error: these are facts for a report, and a report must go out.

use std::fs::{self, Metadata};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::kernel::note::{self, Note};
use crate::kernel::trial;
use crate::log::printable;
use crate::luks::slots::{self, Holder, Kind};
use crate::unlock::ROOT_NAME;
use crate::{luks, process};

/// How long apt may think. On a Pi with a slow card it takes a minute.
const APT: Duration = Duration::from_mins(3);

/// Where apt keeps the package lists that it has fetched.
const LISTS: &str = "/var/lib/apt/lists";

/// How old the newest of them may be: Debian's list of security updates, which bears the time at which it was made, is made
/// anew before that.
const OLDEST_LISTS: Duration = Duration::from_hours(7 * 24);

/// How long any other program may.
const OTHERS: Duration = Duration::from_secs(20);

/// How much of a program's answer is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// What is known of the appliance itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What apt would install; none where that isn't known, as when it has fetched no package lists for a week.
    pub updates: Option<Updates>,
    /// What hardens it.
    pub checks: Vec<Check>,
}

/// Packages that wait to be updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updates {
    /// All of them.
    pub pending: usize,
    /// Those that mend a security hole.
    pub security: usize,
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

/// Asks for everything.
pub fn look() -> Host {
    let apt = || ask("apt-get", &["--simulate", "--quiet", "-o", "Debug::NoLocking=true", "dist-upgrade"], APT);
    let apt = are_fresh(LISTS.as_ref(), SystemTime::now()).then(apt).flatten();
    let updates = apt.filter(|answer| answer.success).map(|answer| updates(&answer.text));
    let sshd = ask("sshd", &["-T"], OTHERS).filter(|answer| answer.success).map(|answer| answer.text);
    let sshd = |key: &str, wanted: &[&str]| sshd.as_ref().and_then(|text| setting(text, key).map(|is| wanted.contains(&is)));
    // What the image sets up, and no more: a check that always fails teaches its reader to look away.
    let units = [("fail2ban is running", "fail2ban.service")];
    let mut checks = vec![
        check(
            "ssh lets in by key only",
            sshd("passwordauthentication", &["no"]),
            "set PasswordAuthentication no in /etc/ssh/sshd_config.d",
        ),
        check(
            "ssh lets root in at most with a key",
            sshd("permitrootlogin", &["no", "without-password", "prohibit-password", "forced-commands-only"]),
            "set PermitRootLogin no in /etc/ssh/sshd_config.d",
        ),
    ];
    for (name, unit) in units {
        let active = ask("systemctl", &["is-active", unit], OTHERS).and_then(|answer| active(&answer.text));
        checks.push(check(name, active, &format!("look at `systemctl status {unit}`, and start it")));
    }
    checks.extend(keys_of_root());
    checks.extend(newest_kernel(&Note::read(note::PATH.as_ref()), trial::booted().ok().flatten().as_deref()));
    let failed = ask("systemctl", &["list-units", "--failed", "--plain", "--no-legend"], OTHERS);
    let failed = failed.filter(|answer| answer.success).map(|answer| failed_units(&answer.text));
    let named = failed.as_ref().map_or(String::new(), |units| units.join(", "));
    let well = failed.map(|units| units.is_empty());
    checks.push(check("no unit has failed", well, &format!("look at `systemctl status` of {named}")));
    Host { updates, checks }
}

fn check(name: &str, answer: Option<bool>, hint: &str) -> Check {
    Check { name: name.to_owned(), state: State::of(answer), hint: hint.to_owned() }
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

/// Counts what apt says that it would install: lines as
/// `Inst libssl3 [3.0.15-1] (3.0.17-1 Debian-Security:12/stable-security [arm64])`.
fn updates(text: &str) -> Updates {
    let installs = || text.lines().filter(|line| line.starts_with("Inst "));
    let security = installs().filter(|line| line.to_ascii_lowercase().contains("-security")).count();
    Updates { pending: installs().count(), security }
}

/// What `sshd -T` says of a setting: lines as `passwordauthentication no`.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

/// What `systemctl is-active` says; nothing where there is no systemd to ask.
fn active(text: &str) -> Option<bool> {
    match text.trim() {
        "" => None,
        word => Some(word == "active"),
    }
}

/// The names of units that failed, but for the backup's own: the report itself says how that went.
fn failed_units(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| !name.starts_with("vaultberry-backup")).map(|name| printable(name.as_bytes())).collect()
}

struct Answer {
    success: bool,
    text: String,
}

/// What `program` writes, if it is there and comes to its end in time.
fn ask(program: &str, arguments: &[&str], longest: Duration) -> Option<Answer> {
    let mut command = process::tool(program);
    command.args(arguments).env("LC_ALL", "C");
    answer(&mut command, longest)
}

fn answer(command: &mut Command, longest: Duration) -> Option<Answer> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    // In a thread: a program that doesn't end may not close its output either.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stdout.take(LARGEST).read_to_end(&mut text).map(|_| text)
    });
    let success = ended(&mut child, longest)?;
    let text = reader.join().ok()?.ok()?;
    Some(Answer { success, text: String::from_utf8_lossy(&text).into_owned() })
}

/// Whether `child` ended well; none when it had to be ended.
fn ended(child: &mut Child, longest: Duration) -> Option<bool> {
    let until = Instant::now() + longest;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().ok()? {
            return Some(status.success());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;
    use std::time::{Duration, Instant, SystemTime};

    use super::{State, Updates, active, answer, are_fresh, failed_units, left_to_do, newest_kernel, setting, updates};
    use crate::kernel::note::Note;
    use crate::luks::slots::{self, Holder, Kind};

    #[test]
    fn what_programs_say_is_understood() {
        let apt = "NOTE: This is only a simulation!\nInst libssl3 [3.0.15-1] (3.0.17-1 Debian-Security:12/stable-security [arm64])\n\
                   Inst tzdata [2025a] (2025b Debian:12.11/stable [all])\nConf libssl3 (3.0.17-1)\n";
        assert_eq!(updates(apt), Updates { pending: 2, security: 1 });
        let sshd = "port 22\npasswordauthentication no\npermitrootlogin without-password\n";
        assert_eq!((setting(sshd, "passwordauthentication"), setting(sshd, "password")), (Some("no"), None));
        assert_eq!(["active\n", "inactive\n", "failed\n", ""].map(active), [Some(true), Some(false), Some(false), None]);
        let units = "apt-daily.service loaded failed failed Daily apt\nvaultberry-backup.service loaded failed failed x\n";
        assert_eq!(failed_units(units), ["apt-daily.service"]);
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

    #[test]
    fn a_program_that_is_missing_or_hangs_says_nothing() {
        assert!(answer(&mut Command::new("/nowhere/apt-get"), Duration::from_secs(1)).is_none());
        let begun = Instant::now();
        assert!(answer(Command::new("sleep").arg("60"), Duration::from_millis(200)).is_none());
        assert!(begun.elapsed() < Duration::from_secs(10));
        let said = answer(Command::new("echo").arg("active"), Duration::from_secs(10)).unwrap();
        assert_eq!((said.success, said.text.as_str()), (true, "active\n"));
    }
}
