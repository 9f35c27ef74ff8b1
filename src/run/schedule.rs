//! Whether a night was missed.
//!
//! A run is due when none has begun, and come to its end, since the last time at which cron should have started one. How
//! it ended doesn't matter: a night that failed was reported, and what made it fail is seldom mended by a reboot. A run that a
//! power cut ended counts as missed. Before the first run of all nothing is: a new appliance waits for its first night, so
//! that its owner can bring its key to the servers.

use anyhow::{Context, Result};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::Deserialize;

use crate::config::TimeOfDay;

/// The times in the word of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Times {
    /// When it began.
    pub started: Timestamp,
    /// When it ended; none while it goes on, or when it was cut short.
    pub ended: Option<Timestamp>,
}

/// Why no run is due, or nothing when one is.
///
/// # Errors
/// When that was can't be told.
pub fn not_due(last: Option<Times>, now: Timestamp, at: TimeOfDay, zone: &TimeZone) -> Result<Option<String>> {
    let Some(last) = last else {
        return Ok(Some(String::from("there was no run yet that could have been missed")));
    };
    let scheduled = latest(now, at, zone)?;
    // One that lies in the future was made under a wrong clock and says nothing.
    let done = (scheduled..=now).contains(&last.started) && last.ended.is_some();
    Ok(done.then(|| format!("the last run began at {:.0}, after the last time that one should, {scheduled:.0}", last.started)))
}

/// The last time of day `at` that isn't after `now`.
fn latest(now: Timestamp, at: TimeOfDay, zone: &TimeZone) -> Result<Timestamp> {
    let time = Time::constant(at.hour.cast_signed(), at.minute.cast_signed(), 0, 0);
    let mut day = now.to_zoned(zone.clone()).date();
    loop {
        // Where the clocks are set forward over it, cron starts the run at once, which is never before this; where it comes
        // twice, the first counts.
        let scheduled =
            zone.to_ambiguous_zoned(day.to_datetime(time)).earlier().context("finding the last scheduled run")?.timestamp();
        if scheduled <= now {
            return Ok(scheduled);
        }
        day = day.checked_sub(1.day()).context("finding the last scheduled run")?;
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{Times, not_due};
    use crate::config::TimeOfDay;

    #[test]
    fn a_night_is_missed_when_no_run_came_to_its_end_since() {
        let at = TimeOfDay { hour: 2, minute: 30 };
        let zone = TimeZone::get("Europe/Zurich").unwrap();
        for (started, ended, now, due) in [
            // the night of today was done
            ("2026-11-23T01:30:00Z", Some("2026-11-23T01:40:00Z"), "2026-11-23T08:00:00Z", false),
            // before tonight's time, yesterday's run is the last that should have been
            ("2026-11-22T01:30:01Z", Some("2026-11-22T01:40:00Z"), "2026-11-23T01:29:59Z", false),
            ("2026-11-22T01:30:01Z", Some("2026-11-22T01:40:00Z"), "2026-11-23T01:30:00Z", true),
            // a run by hand in the evening isn't the night's
            ("2026-11-22T20:00:00Z", Some("2026-11-22T20:10:00Z"), "2026-11-23T08:00:00Z", true),
            // the clock was wrong
            ("2030-11-23T01:30:00Z", Some("2030-11-23T01:40:00Z"), "2026-11-23T08:00:00Z", true),
            // cut short
            ("2026-11-23T01:30:00Z", None, "2026-11-23T08:00:00Z", true),
            // the clocks go forward from 02:00 to 03:00, when cron makes up for 02:30
            ("2026-03-29T01:00:00Z", Some("2026-03-29T01:10:00Z"), "2026-03-29T08:00:00Z", false),
            ("2026-03-28T01:30:00Z", Some("2026-03-28T01:40:00Z"), "2026-03-29T08:00:00Z", true),
            // 02:30 comes twice
            ("2026-10-25T00:30:00Z", Some("2026-10-25T00:40:00Z"), "2026-10-25T08:00:00Z", false),
        ] {
            let last = Times { started: started.parse().unwrap(), ended: ended.map(|ended| ended.parse().unwrap()) };
            let answer = not_due(Some(last), now.parse().unwrap(), at, &zone).unwrap();
            assert_eq!(answer.is_none(), due, "{started} {now}: {answer:?}");
        }
    }

    #[test]
    fn a_new_appliance_waits_for_its_first_night() {
        let at = TimeOfDay { hour: 2, minute: 30 };
        let why = not_due(None, "2026-11-23T08:00:00Z".parse().unwrap(), at, &TimeZone::UTC).unwrap();
        assert_eq!(why.as_deref(), Some("there was no run yet that could have been missed"));
    }
}
