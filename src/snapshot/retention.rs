//! Which snapshots of a source stay and which have to go: a decision, and nothing else.
//!
//! - A complete one stays when any rule of `keep` wants it: it is among the last ones, or the newest of its hour, day, week, month
//!   or year, as many of those as the rule says. Only those with a snapshot count, so a summer in which the appliance was off
//!   costs no old snapshot. At least the newest one always stays.
//! - The newest partial ones stay beside them, as many as `last` says. Counted apart, a partial one never pushes out a complete
//!   one, and a source that is partial for months can't fill the disk.
//! - A pinned one stays, and rules don't count it.
//! - One of which nothing is known (its index is missing or damaged) stays and doesn't count: it may be good or not, and a
//!   person has to look.
//! - One whose name is no time, or a time that hasn't come yet, stays and doesn't count either. The clock was wrong once, or
//!   is wrong now. Counted as the newest, two weeks of nights from a wrong clock would push out every new snapshot as soon as
//!   it is made. Counted as the oldest, a clock set back would remove all that is good. They wait until their time has come,
//!   or a person removes them. A clock that is ahead pushes out no more than any night: the rules count snapshots, not days
//!   since.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::Keep;
use crate::outcome::Outcome;
use crate::snapshot::list::time_of;

/// What retention knows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What its index says; none when that can't be told.
    pub outcome: Option<Outcome>,
    /// Whether a person wants it to stay.
    pub pinned: bool,
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Why it stays, in a few words each; nothing: it goes.
    pub reasons: Vec<String>,
}

/// The rules for one source.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// What its owner wants.
    pub keep: Keep,
    /// Names that stay in any case, and count.
    pub protect: &'a [&'a str],
    /// Whose days and weeks are meant.
    pub zone: &'a TimeZone,
    /// What the clock says.
    pub now: Timestamp,
}

/// What becomes of each of `snapshots`, in any order: from the oldest to the newest.
pub fn judge(snapshots: &[Kept], rules: &Rules<'_>) -> Vec<Verdict> {
    let mut snapshots: Vec<&Kept> = snapshots.iter().collect();
    snapshots.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut verdicts: Vec<Verdict> =
        snapshots.iter().map(|kept| Verdict { name: kept.name.clone(), reasons: unruled(kept, rules) }).collect();
    for outcome in [Outcome::Complete, Outcome::Partial] {
        // From the newest to the oldest.
        let counted: Vec<(usize, Timestamp)> = (0..snapshots.len())
            .rev()
            .filter(|&index| verdicts[index].reasons.is_empty() && snapshots[index].outcome == Some(outcome))
            .filter_map(|index| Some((index, time_of(&snapshots[index].name)?)))
            .collect();
        for (index, reason) in wanted(&counted, outcome, rules.keep, rules.zone) {
            verdicts[index].reasons.push(reason);
        }
    }
    for verdict in &mut verdicts {
        if verdict.reasons.is_empty() && rules.protect.contains(&verdict.name.as_str()) {
            verdict.reasons.push("just made".to_owned());
        }
    }
    verdicts
}

/// Why a snapshot stays that no rule is about.
fn unruled(kept: &Kept, rules: &Rules<'_>) -> Vec<String> {
    let reason = match time_of(&kept.name) {
        _ if kept.pinned => "pinned",
        _ if kept.outcome.is_none() => "not known to be good or bad",
        None => "its name is no time",
        Some(time) if time > rules.now => "its time hasn't come yet",
        Some(_) => return Vec::new(),
    };
    vec![reason.to_owned()]
}

/// Those of `counted`, from the newest to the oldest, that a rule wants, with what it wants them as.
fn wanted(counted: &[(usize, Timestamp)], outcome: Outcome, keep: Keep, zone: &TimeZone) -> Vec<(usize, String)> {
    let last = counted.iter().take(usize::from(keep.last.max(1)));
    if outcome == Outcome::Partial {
        return last.map(|(index, _)| (*index, "partial".to_owned())).collect();
    }
    let mut wanted: Vec<(usize, String)> = last.map(|(index, _)| (*index, "last".to_owned())).collect();
    for (period, count) in [
        (Period::Hour, keep.hourly),
        (Period::Day, keep.daily),
        (Period::Week, keep.weekly),
        (Period::Month, keep.monthly),
        (Period::Year, keep.yearly),
    ] {
        let mut names: Vec<String> = Vec::new();
        for (index, time) in counted {
            let name = period.name(*time, zone);
            if names.len() < usize::from(count) && names.last() != Some(&name) {
                wanted.push((*index, name.clone()));
                names.push(name);
            }
        }
    }
    wanted
}

/// A stretch of the calendar.
#[derive(Clone, Copy, Debug)]
enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// The one that `time` is in.
    fn name(self, time: Timestamp, zone: &TimeZone) -> String {
        let civil = time.to_zoned(zone.clone());
        match self {
            // With the offset: the hour that the end of summer time repeats is two hours.
            Self::Hour => civil.strftime("hour %Y-%m-%d %H h %z").to_string(),
            Self::Day => civil.strftime("day %Y-%m-%d").to_string(),
            Self::Week => {
                let week = civil.date().iso_week_date();
                format!("week {}-W{:02}", week.year(), week.week())
            }
            Self::Month => civil.strftime("month %Y-%m").to_string(),
            Self::Year => civil.strftime("year %Y").to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
