//! What to do next, drawn from the facts: each a line for a person, the most urgent first.

use crate::openpgp::{EXTEND, remedy};
use crate::outcome::Outcome;
use crate::run::appliance;
use crate::run::report::{PushReport, RunReport};
use crate::status::facts::{Certificate, DiskUse, Facts};
use crate::status::host::State;

/// From how many days before a disk is full, or a certificate expires, that is said.
const AHEAD: i64 = 60;

/// After how many days one of several disks has been away for long.
const AWAY: i64 = 35;

/// One thing to do.
struct Todo {
    /// Which sources it is about; none where it is about the appliance as a whole.
    whom: Vec<String>,
    /// What.
    what: String,
    /// What is alike where the cause is: the same without the source's name.
    cause: String,
}

impl Todo {
    fn of(whom: &str, what: String) -> Self {
        let cause = what.replace(&format!("/{whom}/"), "//");
        Self { whom: vec![whom.to_owned()], what, cause }
    }

    fn text(self) -> String {
        if self.whom.is_empty() { self.what } else { format!("{}: {}", self.whom.join(", "), self.what) }
    }
}

impl From<String> for Todo {
    fn from(what: String) -> Self {
        Self { whom: Vec::new(), cause: what.clone(), what }
    }
}

/// The list. Empty when all is well. What many sources have met alike stands in it once.
pub fn todo(facts: &Facts) -> Vec<String> {
    let mut todo: Vec<Todo> = facts.troubles.iter().map(|trouble| one_line(trouble).into()).collect();
    if facts.last.is_none() && facts.running.is_none() {
        todo.push(String::from("there was no run yet: start one with `vaultberry backup run`").into());
    }
    if facts.is_late() && facts.running.is_none() {
        todo.push(String::from("the last run is more than two nights ago: look whether cron starts it").into());
    }
    todo.extend(facts.last.iter().flat_map(of_run));
    for source in facts.sources.iter().filter(|source| source.push_overdue) {
        let what = match &source.push {
            Some(push) => format!("the last copy off-site is of {}: look why none got there since", push.snapshot),
            None => String::from("there is no complete copy off-site yet"),
        };
        todo.push(Todo::of(&source.name, what));
    }
    name_certificates(&mut todo, facts);
    todo.extend(facts.certificates.iter().filter_map(|certificate| of_certificate(certificate, facts)).map(Todo::from));
    todo.extend(of_appliance(facts).into_iter().map(Todo::from));
    joined(todo)
}

/// What the disks, the system and the mails ask for.
fn of_appliance(facts: &Facts) -> Vec<String> {
    let mut todo = Vec::new();
    if let Some(days) =
        facts.disk.and_then(|disk| disk.days_left).filter(|days| i64::try_from(*days).is_ok_and(|days| days <= AHEAD))
    {
        todo.push(format!("the backup disk is full in {days} days at this rate: keep less, or take a larger one"));
    }
    todo.extend(facts.disks.iter().filter_map(|disk| of_disk(disk, facts)));
    if let Some(host) = &facts.host {
        let failed = host.checks.iter().filter(|check| check.state == State::Failed);
        todo.extend(failed.map(|check| format!("not so: {}: {}", check.name, check.hint)));
        if let Some(security) = host.updates.as_ref().map(|updates| updates.security).filter(|count| *count > 0) {
            todo.push(format!("install the {security} security updates that wait: `sudo vaultberry update`"));
        }
        if let Some(why) = &host.restart_wanted {
            todo.push(format!("restart the appliance, with the key stick plugged in: {why}"));
        }
    }
    match facts.waiting_mails {
        0 => {}
        1 => todo.push(String::from("1 mail waits for the mail server: look at `vaultberry report test`")),
        many => todo.push(format!("{many} mails wait for the mail server: look at `vaultberry report test`")),
    }
    todo.extend(facts.lost_mails.iter().map(|loss| one_line(&loss.told)));
    todo
}

/// A certificate that can't be used keeps each push from being made. Each of them then says the same as the certificate.
fn name_certificates(todo: &mut [Todo], facts: &Facts) {
    for certificate in &facts.certificates {
        let Some(problem) = &certificate.problem else { continue };
        for one in todo.iter_mut().filter(|one| one.cause.contains(problem.as_str())) {
            one.what = unusable(problem);
            one.cause.clone_from(&one.what);
        }
    }
}

/// What has one cause is one thing to do.
fn joined(all: Vec<Todo>) -> Vec<String> {
    let mut joined: Vec<Todo> = Vec::new();
    for one in all {
        match joined.iter_mut().find(|other| other.cause == one.cause) {
            Some(other) => {
                for name in one.whom {
                    if !other.whom.contains(&name) {
                        other.whom.push(name);
                    }
                }
            }
            None => joined.push(one),
        }
    }
    joined.into_iter().map(Todo::text).collect()
}

/// A disk that lies elsewhere is a copy of that day, and no newer.
fn of_disk(disk: &DiskUse, facts: &Facts) -> Option<String> {
    let days = facts.taken.duration_since(disk.last_used?).as_hours() / 24;
    (!disk.open && facts.disks.len() > 1 && days > AWAY)
        .then(|| format!("the disk {} was last used {days} days ago: let it take its turn", disk.serial))
}

/// What the last run asks for.
fn of_run(last: &RunReport) -> Vec<Todo> {
    if last.outcome == Outcome::Skipped {
        return Vec::new();
    }
    let mut todo: Vec<Todo> = last.error.iter().chain(&last.troubles).map(|error| one_line(error).into()).collect();
    for source in &last.sources {
        todo.extend(source.error.iter().map(|error| Todo::of(&source.name, one_line(error))));
        todo.extend(source.push.iter().flat_map(|push| of_push(&source.name, push)));
        if source.outcome == Outcome::Partial {
            let cause = source.warnings.lines.first().map_or("look into the log", String::as_str);
            todo.push(Todo::of(&source.name, one_line(cause)));
        }
    }
    todo.extend(last.appliance.iter().flat_map(|push| of_push(appliance::NAME, push)));
    todo
}

/// What the push of a source asks for.
fn of_push(name: &str, push: &PushReport) -> Vec<Todo> {
    let told = push.error.iter().chain(&push.problem).map(|told| {
        let told = one_line(told);
        // Whose it is stands before it already: `pushing web/20261123T023000Z to …`.
        let rest = told.strip_prefix(&format!("pushing {name}/")).and_then(|rest| Some(rest.split_once(' ')?.1));
        Todo::of(name, rest.map_or_else(|| told.clone(), |rest| format!("pushing {rest}")))
    });
    told.collect()
}

fn of_certificate(certificate: &Certificate, facts: &Facts) -> Option<String> {
    if let Some(problem) = &certificate.problem {
        return Some(unusable(problem));
    }
    let days = certificate.expires?.duration_since(facts.taken).as_hours() / 24;
    (days <= AHEAD).then(|| format!("the certificate {} expires in {days} days: {EXTEND}", certificate.fingerprint))
}

/// Why a certificate can't be used, and what helps.
fn unusable(problem: &str) -> String {
    format!("{}: {}", one_line(problem), remedy(problem))
}

/// What helps, where that is said, or else what is wrong: an error's hint line, or its first one.
fn one_line(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    match error.lines().find_map(|line| line.trim_start().strip_prefix("hint: ")) {
        Some(hint) => format!("{first} ({hint})"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use jiff::SignedDuration;

    use super::{EXTEND, todo};
    use crate::run::report::PushReport;
    use crate::status::facts::Facts;
    use crate::status::sample;

    #[test]
    fn a_certificate_is_told_from_sixty_days_before_it_expires() {
        let mut facts = sample::facts();
        let told = |facts: &_| todo(facts).into_iter().find(|todo| todo.contains("certificate"));
        facts.certificates[0].expires = Some(facts.taken + SignedDuration::from_hours(24 * 61));
        assert_eq!(told(&facts), None);
        facts.certificates[0].expires = Some(facts.taken + SignedDuration::from_hours(24 * 60));
        assert_eq!(told(&facts), Some(format!("the certificate AB12 expires in 60 days: {EXTEND}")));
    }

    #[test]
    fn of_a_certificate_that_can_not_be_used_what_helps_is_told() {
        let mut facts = sample::facts();
        for (problem, helps) in [
            ("it was revoked", "take another certificate"),
            ("it isn't valid now: Expired on 2026", "extend it with"),
            ("it isn't valid: SHA1 is not considered secure", "make a new key pair"),
        ] {
            facts.certificates[0].problem = Some(format!("the certificate AB12: {problem}"));
            let start = format!("the certificate AB12: {problem}: {helps} ");
            assert!(todo(&facts).iter().any(|todo| todo.replace(',', " ").starts_with(&start)), "{:?}", todo(&facts));
        }
    }

    /// Facts of a night in which the push of each source and of the appliance failed so; `NAME` stands for whose it is.
    fn no_pushes(error: &str) -> Facts {
        let mut facts = sample::facts();
        let failed = |name: &str| Some(PushReport::failed(&anyhow!("{}", error.replace("NAME", name))));
        let last = facts.last.as_mut().unwrap();
        last.sources.iter_mut().for_each(|source| source.push = failed(&source.name));
        last.appliance = failed("_appliance");
        facts
    }

    #[test]
    fn one_cause_is_told_once_with_all_whom_it_hits() {
        let refused = "pushing NAME/20261123T023000Z to s3: asking for pi/NAME/1: refused\nhint: look";
        let told = todo(&no_pushes(refused));
        let expected = "<web>, mail, _appliance: pushing to s3: asking for pi/<web>/1: refused (look)";
        assert_eq!(told.iter().filter(|todo| todo.contains("refused (look)")).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn what_a_certificate_keeps_from_being_pushed_is_told_with_it() {
        let mut facts = no_pushes("pushing NAME/20261123T023000Z to s3: the certificate AB12: it was revoked\nhint: extend it");
        facts.certificates[0].problem = Some("the certificate AB12: it was revoked".into());
        let told: Vec<String> = todo(&facts).into_iter().filter(|todo| todo.contains("revoked")).collect();
        let start = "<web>, mail, _appliance: the certificate AB12: it was revoked: take another certificate";
        assert!(told.len() == 1 && told[0].starts_with(start), "{told:?}");
    }

    #[test]
    fn one_mail_waits_and_two_wait() {
        let mut facts = sample::facts();
        for (waiting, told) in [(1, "1 mail waits for the mail server: "), (2, "2 mails wait for the mail server: ")] {
            facts.waiting_mails = waiting;
            assert!(todo(&facts).iter().any(|todo| todo.starts_with(told)), "{:?}", todo(&facts));
        }
    }
}
