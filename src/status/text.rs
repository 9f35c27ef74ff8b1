//! The facts as lines of text: for the mail, and for a terminal.
//!
//! The outcome comes first, then what to do, and only then what there is to know, so that five seconds on a phone are enough.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use crate::amount::{amount, duration};
use crate::outcome::Outcome;
use crate::run::report::{RunReport, SourceReport, line};
use crate::status::facts::{Certificate, DiskFacts, DiskUse, Facts, SourceFacts};
use crate::status::host::{Host, State};
use crate::updates::history::Upgraded;

/// The mail's subject. It crosses the network in clear, so it names the appliance and the outcome, and else only counts.
pub fn subject(facts: &Facts) -> String {
    format!("[vaultberry] {}: {}", facts.appliance, outcome(facts))
}

/// The last run's outcome, and a few words more where it isn't simply complete; or that a run is going on.
pub fn outcome(facts: &Facts) -> String {
    if let Some(now) = facts.under_way() {
        return format!("a run is going on since {:.0}", now.started);
    }
    facts
        .last
        .as_ref()
        .map_or_else(|| String::from("no run yet"), |last| format!("{}{}", last.outcome, clause(last, facts.todo.len())))
}

fn clause(last: &RunReport, todo: usize) -> String {
    let complete = last.sources.iter().filter(|source| source.outcome == Outcome::Complete).count();
    let all = last.sources.len();
    match last.outcome {
        Outcome::Skipped => String::new(),
        Outcome::Complete if todo == 0 => String::new(),
        Outcome::Complete if todo == 1 => String::from(", 1 thing to do"),
        Outcome::Complete => format!(", {todo} things to do"),
        _ if last.ended.is_none() && !last.run.is_empty() => String::from(", cut short"),
        _ if all == 0 => String::from(", no source was reached"),
        _ if complete < all => format!(", {complete} of {all} sources complete"),
        _ => String::from(", though every source is complete"),
    }
}

/// All of it. `colour` marks outcomes with the terminal's colours (ECMA-48).
pub fn text(facts: &Facts, colour: bool) -> String {
    let mut text = String::new();
    line(&mut text, 0, &headline(facts, colour));
    match (&facts.running, facts.under_way()) {
        (Some(running), Some(_)) => [running, &before(facts)].into_iter().for_each(|told| line(&mut text, 2, told)),
        (Some(running), None) => line(&mut text, 0, &format!("a run is going on: {running}")),
        (None, _) => {}
    }
    if let Some(error) = facts.last.as_ref().and_then(|last| last.error.as_ref()) {
        line(&mut text, 2, error);
    }
    if !facts.todo.is_empty() {
        text.push_str("\nto do:\n");
        facts.todo.iter().for_each(|todo| line(&mut text, 0, &format!("- {todo}")));
    }
    for source in &facts.sources {
        text.push('\n');
        of_source(facts, source, colour, &mut text);
    }
    text.push('\n');
    of_appliance(facts, &mut text);
    text
}

/// `pi: partial, 2 of 3 sources complete; 4 h 10 min ago, in 12 min 3 s`.
fn headline(facts: &Facts, colour: bool) -> String {
    if facts.under_way().is_some() {
        return format!("{}: {}", facts.appliance, outcome(facts));
    }
    let Some(last) = &facts.last else { return format!("{}: no run yet", facts.appliance) };
    let outcome = painted(last.outcome, colour);
    let took = last.ended.map_or_else(
        || String::from(", not ended"),
        |ended| format!(", in {}", duration(ended.as_second() - last.started.as_second())),
    );
    let when = format!("; began {}{took}", ago(facts.taken, last.started));
    format!("{}: {outcome}{}{when}", facts.appliance, clause(last, facts.todo.len()))
}

/// What became of the run before the one that is going on.
pub fn before(facts: &Facts) -> String {
    match facts.last_ended() {
        Some(night) => format!("the run before it: {}; began {}", night.outcome, ago(facts.taken, night.started)),
        None => String::from("no run before it came to its end"),
    }
}

fn of_source(facts: &Facts, source: &SourceFacts, colour: bool, text: &mut String) {
    let run = facts.run_of(&source.name);
    match run {
        Some((last, run)) => {
            line(text, 0, &format!("{}: {}{}", source.name, painted(run.outcome, colour), size(run)));
            run.remarks(&last.run).iter().for_each(|remark| line(text, 2, remark));
            for stale in &run.stale_dumps {
                let made = stale.made.map_or_else(|| String::from("there is none"), |made| ago(facts.taken, made));
                line(text, 2, &format!("old dump of {}: {made}", stale.dump));
            }
        }
        None if source.configured => line(text, 0, &format!("{}: {}", source.name, unsaid(facts))),
        None => line(text, 0, &format!("{}: no longer in the configuration", source.name)),
    }
    line(text, 2, &snapshot(facts.taken, source));
    if let Some(push) = &source.push {
        let late = if source.push_overdue { ", OVERDUE" } else { "" };
        line(text, 2, &format!("last proven off-site: {}, {}{late}", push.snapshot, ago(facts.taken, push.proven)));
    } else if source.push_overdue {
        line(text, 2, "last proven off-site: none, OVERDUE");
    }
}

/// Why the last run has no word of a source.
fn unsaid(facts: &Facts) -> &'static str {
    let was_cut_short = |last: &RunReport| last.ended.is_none() && !last.run.is_empty();
    if facts.under_way().is_some() {
        "the run isn't done with it yet"
    } else if facts.last.as_ref().is_some_and(was_cut_short) {
        "the run was cut short before it was done with it"
    } else {
        "not in the last run"
    }
}

fn size(run: &SourceReport) -> String {
    match run.snapshot {
        Some(_) => format!(", {} in {} entries, packed {}", amount(run.bytes), run.entries, amount(run.archive_bytes)),
        None => String::new(),
    }
}

/// The last complete snapshot, on one line.
pub fn snapshot(now: Timestamp, source: &SourceFacts) -> String {
    let Some(snapshot) = &source.snapshot else { return String::from("last complete snapshot: none") };
    let age = snapshot.time.map(|time| format!(", {}", ago(now, time))).unwrap_or_default();
    format!("last complete snapshot: {}{age}, {}{}", snapshot.name, amount(snapshot.bytes), change(snapshot.change))
}

fn change(change: Option<i64>) -> String {
    match change {
        None => String::new(),
        Some(0) => String::from(" (as the one before)"),
        Some(bytes) => {
            format!(" ({}{} against the one before)", if bytes < 0 { '-' } else { '+' }, amount(bytes.unsigned_abs()))
        }
    }
}

fn of_appliance(facts: &Facts, text: &mut String) {
    if let Some(disk) = &facts.disk {
        line(text, 0, &format!("disk: {}", room(disk)));
    }
    for disk in &facts.disks {
        line(text, 0, &format!("disk {}: {}", disk.serial, usage(disk)));
    }
    for certificate in &facts.certificates {
        line(text, 0, &format!("certificate {}: {}", certificate.fingerprint, validity(certificate, facts.taken)));
    }
    if let Some(host) = &facts.host {
        line(text, 0, &format!("updates: {}", updates(host)));
        for told in upgraded(host) {
            line(text, 0, &told);
        }
        for check in &host.checks {
            line(text, 0, &format!("{}: {}", check.name, if check.state == State::Failed { "NO" } else { check.state.word() }));
        }
    }
    if facts.waiting_mails > 0 {
        line(text, 0, &format!("mails that wait for the mail server: {}", facts.waiting_mails));
    }
    if let Some((last, push)) = facts.last.as_ref().and_then(|last| Some((last, last.appliance.as_ref()?))) {
        line(text, 0, &format!("the appliance itself: {}", push.summary(&last.run)));
    }
    if let Some(last) = facts.last.as_ref().filter(|last| !last.run.is_empty()) {
        line(text, 0, &format!("the run: {}", last.run));
    }
    for note in facts.last.iter().flat_map(|last| last.troubles.iter().chain(&last.notes)) {
        line(text, 0, note);
    }
}

/// The disk's room, in words.
pub fn room(disk: &DiskFacts) -> String {
    let left = disk.days_left.map(|days| format!(", full in {days} days at this rate")).unwrap_or_default();
    format!("{} of {} free{left}", amount(disk.space.free), amount(disk.space.total))
}

/// Where a disk is, in words.
pub fn usage(disk: &DiskUse) -> String {
    let when = disk.last_used.map_or("never used".to_owned(), |when| format!("last used {when:.0}"));
    format!("{}, {when}", if disk.open { "open" } else { "away" })
}

/// For how long a certificate can be used, in words.
pub fn validity(certificate: &Certificate, now: Timestamp) -> String {
    match (&certificate.problem, certificate.expires) {
        (Some(problem), _) => format!("CAN'T BE USED: {problem}"),
        (None, None) => String::from("never expires"),
        (None, Some(expires)) => format!("expires in {} days", expires.duration_since(now).as_hours() / 24),
    }
}

/// Which updates wait, in words.
pub fn updates(host: &Host) -> String {
    match &host.updates {
        None => String::from("not known: apt has fetched no package lists for a week, or doesn't answer"),
        Some(updates) => {
            let held = &updates.held;
            let held = if held.is_empty() { String::new() } else { format!("; held: {}", held.join(", ")) };
            format!("{} wait, {} of them for security{held}", updates.pending, updates.security)
        }
    }
}

/// What was upgraded, and whether a restart is wanted for it, a line each.
pub fn upgraded(host: &Host) -> Vec<String> {
    let all: Vec<String> = host.upgraded.iter().map(Upgraded::told).collect();
    let mut lines = Vec::new();
    if !all.is_empty() {
        lines.push(format!("upgraded in the last two days: {}", all.join(", ")));
    }
    lines.extend(host.restart_wanted.iter().map(|why| format!("a restart is wanted: {why}")));
    lines
}

/// How long ago `then` was, in whole units.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let age = now.duration_since(then);
    match age.as_hours() {
        _ if age < SignedDuration::ZERO => String::from("in the future"),
        0 => format!("{} min ago", age.as_mins()),
        hours @ 1..48 => format!("{hours} h ago"),
        hours => format!("{} days ago", hours / 24),
    }
}

fn painted(outcome: Outcome, colour: bool) -> String {
    let code = match outcome {
        _ if !colour => return outcome.to_string(),
        Outcome::Complete => 32,
        Outcome::Skipped | Outcome::Partial => 33,
        Outcome::Failed => 31,
    };
    let mut text = String::new();
    write!(text, "\x1b[1;{code}m{outcome}\x1b[0m").expect("writing to a string doesn't fail");
    text
}

#[cfg(test)]
mod tests {
    use super::{subject, text, updates};
    use crate::outcome::Outcome;
    use crate::report::Loss;
    use crate::run::history::Night;
    use crate::run::report::RunReport;
    use crate::status::host::{Host, Updates};
    use crate::status::{self, advice, html, sample};

    #[test]
    fn the_text_begins_with_the_outcome_and_what_to_do() {
        let facts = sample::facts();
        let text = text(&facts, false);
        let expected = "\
pi: partial, 1 of 2 sources complete; began 5 h ago, in 12 min 3 s

to do:
- mail: connecting to mail: refused (look whether it is up)
- mail: there is no complete copy off-site yet
- the backup disk is full in 20 days at this rate: keep less, or take a larger one
- the disk <WD>-2 was last used 40 days ago: let it take its turn

<web>: complete, 5.0 GiB in 12 entries, packed 1.0 GiB
  not pulled: 3 unreadable
  a \"quoted\" warning
  old dump of the database wiki: 9 days ago
  last complete snapshot: 20261123T023000Z, 5 h ago, 5.0 GiB (+1.0 GiB against the one before)
  last proven off-site: 20261120T023000Z, 3 days ago

mail: failed
  connecting to mail: refused
      hint: look whether it is up
  last complete snapshot: none
  last proven off-site: none, OVERDUE

disk: 40.0 GiB of 100.0 GiB free, full in 20 days at this rate
disk WD-1: open, last used 2026-11-23T02:30:00Z
disk <WD>-2: away, last used 2026-10-14T02:30:00Z
certificate AB12: expires in 100 days
the run: 20261123T023000Z
";
        assert_eq!(text, expected);
    }

    #[test]
    fn mails_that_did_not_arrive_are_told_in_each_form() {
        let mut facts = sample::facts();
        let told = "mailing to b@example.org: the server says 550\nhint: look at [report] to";
        facts.lost_mails = vec![Loss { name: "1.lost".into(), told: told.into() }];
        facts.todo = advice::todo(&facts);
        let line = "mailing to b@example.org: the server says 550 (look at [report] to)";
        assert!(text(&facts, false).contains(&format!("\n- {line}\n")));
        assert!(html::page(&facts).contains(line) && status::json(&facts).unwrap().contains(line));
    }

    #[test]
    fn a_run_that_is_going_on_is_no_failed_one() {
        let mut facts = sample::facts();
        facts.running = Some("pid 42, since 2026-11-24T02:30:00Z".into());
        facts.taken = "2026-11-24T02:40:00Z".parse().unwrap();
        let mut begun = RunReport::begun("20261124T023000Z".into(), "2026-11-24T02:30:00Z".parse().unwrap());
        begun.sources.push(facts.last.as_ref().unwrap().sources[0].clone());
        facts.last = Some(begun);
        let told = text(&facts, true);
        let start = "pi: a run is going on since 2026-11-24T02:30:00Z\n  pid 42, since 2026-11-24T02:30:00Z\n  \
                     the run before it: partial; began 24 h ago\n";
        assert!(told.starts_with(start), "{told}");
        assert!(told.contains("\n<web>: \x1b[1;32mcomplete"), "{told}");
        assert!(told.contains("\nmail: the run isn't done with it yet\n"), "{told}");
        assert!(!told.contains("not in the last run") && !told.contains("cut short"), "{told}");
        let title = "pi: a run is going on since 2026-11-24T02:30:00Z";
        assert_eq!(subject(&facts), format!("[vaultberry] {title}"));
        let page = html::page(&facts);
        assert!(page.contains(&format!("<title>[vaultberry] {title}</title>")) && page.contains(&format!(">{title}<")), "{page}");
        assert!(page.contains("The run before it: partial") && !page.contains("cut short"), "{page}");

        facts.todo.clear();
        assert_eq!(facts.verdict(), Outcome::Partial, "as the last one that ended");
        facts.history.last_mut().unwrap().outcome = Outcome::Complete;
        assert_eq!(facts.verdict(), Outcome::Complete);
        facts.history.push(Night::killed(facts.taken));
        assert_eq!(facts.verdict(), Outcome::Complete, "one that was killed hasn't ended");
        facts.history.clear();
        assert_eq!(facts.verdict(), Outcome::Failed, "there is none yet");
        facts.running = None;
        assert_eq!(subject(&facts), "[vaultberry] pi: failed, cut short");
        assert!(text(&facts, false).contains("\nmail: the run was cut short before it was done with it\n"));
    }

    #[test]
    fn updates_that_are_not_known_are_not_none() {
        let host = |updates| Host { updates, upgraded: Vec::new(), restart_wanted: None, checks: Vec::new() };
        let waits = |held: &[&str]| {
            let held = held.iter().map(|name| (*name).to_owned()).collect();
            updates(&host(Some(Updates { pending: 2, security: 1, held })))
        };
        assert_eq!(waits(&[]), "2 wait, 1 of them for security");
        assert_eq!(
            waits(&["linux-image-arm64", "raspi-firmware"]),
            "2 wait, 1 of them for security; held: linux-image-arm64, raspi-firmware"
        );
        let mut facts = sample::facts();
        facts.host = Some(host(None));
        let told = "not known: apt has fetched no package lists for a week, or doesn't answer";
        assert!(text(&facts, false).contains(&format!("\nupdates: {told}\n")));
        assert!(html::page(&facts).contains(&format!("Updates: {}", html::escaped(told))));
    }

    #[test]
    fn the_subject_names_no_server_and_counts() {
        let mut facts = sample::facts();
        assert_eq!(subject(&facts), "[vaultberry] pi: partial, 1 of 2 sources complete");
        facts.last.as_mut().unwrap().sources.pop();
        assert_eq!(subject(&facts), "[vaultberry] pi: partial, though every source is complete");
        facts.last.as_mut().unwrap().sources.clear();
        assert_eq!(subject(&facts), "[vaultberry] pi: partial, no source was reached");
        facts.last.as_mut().unwrap().outcome = Outcome::Complete;
        assert_eq!(subject(&facts), "[vaultberry] pi: complete, 4 things to do");
        facts.todo.clear();
        assert_eq!(subject(&facts), "[vaultberry] pi: complete");
        facts.last = None;
        assert_eq!(subject(&facts), "[vaultberry] pi: no run yet");
    }

    #[test]
    fn all_is_well_only_when_it_is() {
        let mut facts = sample::facts();
        assert_eq!(facts.verdict(), Outcome::Partial);
        facts.last.as_mut().unwrap().outcome = Outcome::Complete;
        facts.todo.clear();
        assert_eq!(facts.verdict(), Outcome::Complete);
        facts.taken += jiff::SignedDuration::from_hours(48);
        assert_eq!(facts.verdict(), Outcome::Failed);
        assert!(advice::todo(&facts).iter().any(|todo| todo.starts_with("the last run is more than two nights ago")));
        facts.last = None;
        assert_eq!(facts.verdict(), Outcome::Failed);
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        assert!(!text(&sample::facts(), false).contains('\x1b'));
        assert!(text(&sample::facts(), true).contains("pi: \x1b[1;33mpartial\x1b[0m"));
    }
}
