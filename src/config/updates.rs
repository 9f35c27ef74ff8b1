//! `[updates]`: what becomes of updates of the appliance's own packages.

use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Found, Report, Section};
use super::{Backup, TimeOfDay, schema, value};

const DAY: u16 = 24 * 60;

/// How far the window must be from the nightly run, in minutes: it lasts an hour, and a slow upgrade one more.
const APART: u16 = 2 * 60;

/// `[updates]`: what becomes of updates of the appliance's own packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates {
    /// Whether security updates are installed by themselves, but for what boots. Default true.
    pub security: bool,
    /// When the window for them begins, local time; not near [`Backup::at`]. Default half a day after that.
    pub at: TimeOfDay,
    /// Whether a restart that they ask for is made by itself.
    pub reboot: Reboot,
}

/// When an update restarts the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// Never: the report says that a restart is wanted. The default.
    Never,
    /// In the window, when the key stick is plugged in and no run is at work.
    WithStick,
}

pub(super) fn updates(report: &mut Report<'_>, root: &DeTable<'_>, backup: &Backup) -> Updates {
    let section = Section::once(report, root, &schema::UPDATES);
    let default = half_a_day_after(backup.at);
    let at = section.text(report, "at", default, value::time_of_day);
    if at.found == Found::Right && apart(at.value, backup.at) < APART {
        let message = format!("{} is too near to the nightly run, which begins at {}", at.value, backup.at);
        let hint = format!("write a time at least two hours away from [backup] at, as in at = \"{default}\"");
        report.add(&at.at, section.path("at"), Fault::new(message, hint));
    }
    Updates {
        security: section.flag(report, "security", true).value,
        at: at.value,
        reboot: section.text(report, "reboot", Reboot::Never, reboot).value,
    }
}

fn reboot(text: &str) -> Result<Reboot, Fault> {
    match text {
        "never" => Ok(Reboot::Never),
        "with-stick" => Ok(Reboot::WithStick),
        _ => Err(Fault::new(format!("{} is no time for a restart", show(text)), "write \"never\" or \"with-stick\"")),
    }
}

fn minutes(time: TimeOfDay) -> u16 {
    u16::from(time.hour) * 60 + u16::from(time.minute)
}

fn half_a_day_after(time: TimeOfDay) -> TimeOfDay {
    TimeOfDay { hour: (time.hour + 12) % 24, ..time }
}

/// The minutes between two times of day, the shorter way round the clock.
fn apart(one: TimeOfDay, other: TimeOfDay) -> u16 {
    let between = minutes(one).abs_diff(minutes(other));
    between.min(DAY - between)
}

#[cfg(test)]
mod tests {
    use crate::config::{EXAMPLE, Reboot, Updates, parse};

    fn read(backup: &str, lines: &str) -> Result<Updates, String> {
        let text = EXAMPLE.replace("\n[backup]\n", &format!("\n[backup]\n{backup}\n"));
        parse(&text.replace("\n[updates]\n", &format!("\n[updates]\n{lines}\n")))
            .map(|config| config.updates)
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn without_a_word_security_updates_come_half_a_day_after_the_backup() {
        let updates = read("at = \"21:05\"", "").unwrap();
        assert_eq!((updates.security, updates.at.to_string().as_str(), updates.reboot), (true, "09:05", Reboot::Never));
    }

    #[test]
    fn a_window_in_the_way_of_the_backup_is_refused_also_past_midnight() {
        let refused = "updates.at: 23:30 is too near to the nightly run, which begins at 01:00\n  \
                       hint: write a time at least two hours away from [backup] at, as in at = \"13:00\"";
        assert_eq!(read("at = \"01:00\"", "at = \"23:30\"").unwrap_err(), refused);
        for (at, well) in [("22:59", true), ("23:00", true), ("23:01", false), ("02:59", false), ("03:00", true)] {
            assert_eq!(read("at = \"01:00\"", &format!("at = \"{at}\"")).is_ok(), well, "{at}");
        }
    }

    #[test]
    fn what_no_restart_is_is_told() {
        assert_eq!(read("", "reboot = \"with-stick\"").unwrap().reboot, Reboot::WithStick);
        assert_eq!(
            read("", "reboot = \"always\"").unwrap_err(),
            "updates.reboot: \"always\" is no time for a restart\n  hint: write \"never\" or \"with-stick\""
        );
    }
}
