//! What to do next, drawn from the facts: each a line for a person, the most urgent first.

use crate::offsite::recipients::remedy;
use crate::openpgp::EXTEND;
use crate::outcome::Outcome;
use crate::run::report::RunReport;
use crate::status::facts::{Certificate, DiskUse, Facts};
use crate::status::host::State;

/// From how many days before a disk is full, or a certificate expires, that is said.
const AHEAD: i64 = 60;

/// After how many days one of several disks has been away for long.
const AWAY: i64 = 35;

/// The list. Empty when all is well.
pub fn todo(facts: &Facts) -> Vec<String> {
    let mut todo = Vec::new();
    todo.extend(facts.troubles.iter().map(|trouble| one_line(trouble)));
    if facts.last.is_none() && facts.running.is_none() {
        todo.push(String::from("there was no run yet: start one with `vaultberry backup run`"));
    }
    if facts.is_late() && facts.running.is_none() {
        todo.push(String::from("the last run is more than two nights ago: look whether cron starts it"));
    }
    todo.extend(facts.last.iter().flat_map(of_run));
    for source in facts.sources.iter().filter(|source| source.push_overdue) {
        todo.push(match &source.push {
            Some(push) => {
                format!("{}: the last copy off-site is of {}: look why none got there since", source.name, push.snapshot)
            }
            None => format!("{}: there is no complete copy off-site yet", source.name),
        });
    }
    todo.extend(facts.certificates.iter().filter_map(|certificate| of_certificate(certificate, facts)));
    if let Some(days) =
        facts.disk.and_then(|disk| disk.days_left).filter(|days| i64::try_from(*days).is_ok_and(|days| days <= AHEAD))
    {
        todo.push(format!("the backup disk is full in {days} days at this rate: keep less, or take a larger one"));
    }
    todo.extend(facts.disks.iter().filter_map(|disk| of_disk(disk, facts)));
    if let Some(host) = &facts.host {
        let failed = host.checks.iter().filter(|check| check.state == State::Failed);
        todo.extend(failed.map(|check| format!("not so: {}: {}", check.name, check.hint)));
        if let Some(security) = host.updates.map(|updates| updates.security).filter(|count| *count > 0) {
            todo.push(format!("install the {security} security updates that wait: `sudo apt-get dist-upgrade`"));
        }
    }
    if facts.waiting_mails > 0 {
        todo.push(format!("{} mails wait for the mail server: look at `vaultberry report test`", facts.waiting_mails));
    }
    todo.extend(facts.lost_mails.iter().map(|loss| one_line(&loss.told)));
    todo
}

/// A disk that lies elsewhere is a copy of that day, and no newer.
fn of_disk(disk: &DiskUse, facts: &Facts) -> Option<String> {
    let days = facts.taken.duration_since(disk.last_used?).as_hours() / 24;
    (!disk.open && facts.disks.len() > 1 && days > AWAY)
        .then(|| format!("the disk {} was last used {days} days ago: let it take its turn", disk.serial))
}

/// What the last run asks for.
fn of_run(last: &RunReport) -> Vec<String> {
    let mut todo: Vec<String> = last.error.iter().chain(&last.troubles).map(|error| one_line(error)).collect();
    let copy = last.appliance.iter().flat_map(|push| push.error.iter().chain(&push.problem));
    todo.extend(copy.map(|error| one_line(error)));
    for source in &last.sources {
        let said = source.error.iter().chain(source.push.iter().filter_map(|push| push.error.as_ref()));
        todo.extend(said.map(|error| format!("{}: {}", source.name, one_line(error))));
        let problem = source.push.iter().filter_map(|push| push.problem.as_ref());
        todo.extend(problem.map(|problem| format!("{}: {}", source.name, one_line(problem))));
        if source.outcome == Outcome::Partial {
            let cause = source.warnings.lines.first().map_or("look into the log", String::as_str);
            todo.push(format!("{}: {}", source.name, one_line(cause)));
        }
    }
    if last.outcome == Outcome::Skipped { Vec::new() } else { todo }
}

fn of_certificate(certificate: &Certificate, facts: &Facts) -> Option<String> {
    if let Some(problem) = &certificate.problem {
        return Some(format!("{}: {}", one_line(problem), remedy(problem)));
    }
    let days = certificate.expires?.duration_since(facts.taken).as_hours() / 24;
    (days <= AHEAD).then(|| format!("the certificate {} expires in {days} days: {EXTEND}", certificate.fingerprint))
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
    use jiff::SignedDuration;

    use super::{EXTEND, todo};
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
}
