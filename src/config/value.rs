//! Quantities: durations, sizes and times of day, as they are written in the file and as they are shown.

use std::time::Duration;

use super::TimeOfDay;
use super::error::{Fault, show};

/// The units of durations, with their seconds.
const DURATION_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];

/// The units of sizes, with their bytes. Only the binary ones: a disk's "4 GB" and a program's differ by 7 %.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Splits `10m` or `4 GiB` into its number and the factor of its unit, and multiplies them.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A duration such as `30s`, `10m`, `24h` or `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    quantity(text, &DURATION_UNITS).map(Duration::from_secs).ok_or_else(|| {
        Fault::new(
            format!("{} is not a duration", show(text)),
            "write a whole number and a unit, s, m, h or d, as in \"30s\" or \"10m\"",
        )
    })
}

/// A duration that isn't longer than `longest`; `hint` says what may be written.
pub(super) fn at_most(text: &str, longest: Duration, hint: &str) -> Result<Duration, Fault> {
    let duration = duration(text)?;
    if duration <= longest {
        return Ok(duration);
    }
    let (duration, longest) = (duration_text(duration), duration_text(longest));
    Err(Fault::new(format!("{duration} is longer than {longest}"), hint))
}

/// A size in bytes from `4 GiB`, `512 MiB` and the like.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    quantity(text, &SIZE_UNITS).ok_or_else(|| {
        Fault::new(
            format!("{} is not a size", show(text)),
            "write a whole number and a unit, B, KiB, MiB or GiB, as in \"4 GiB\" (1 GiB is 1024 MiB)",
        )
    })
}

/// A size of at least `least` bytes.
pub(super) fn size_from(text: &str, least: u64) -> Result<u64, Fault> {
    let bytes = size(text)?;
    if bytes >= least {
        return Ok(bytes);
    }
    let least = size_text(least);
    Err(Fault::new(format!("{} is too little", show(text)), format!("write \"{least}\" or more")))
}

/// A time of day, `HH:MM` with two digits each.
pub(super) fn time_of_day(text: &str) -> Result<TimeOfDay, Fault> {
    let two_digits = |digits: &str| {
        let proper = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if proper { digits.parse::<u8>().ok() } else { None }
    };
    text.split_once(':')
        .and_then(|(hour, minute)| Some(TimeOfDay { hour: two_digits(hour)?, minute: two_digits(minute)? }))
        .filter(|time| time.hour < 24 && time.minute < 60)
        .ok_or_else(|| {
            Fault::new(
                format!("{} is not a time of day", show(text)),
                "write hours and minutes with two digits each, 00:00 to 23:59, as in \"02:30\"",
            )
        })
}

/// A duration in the largest unit that divides it, as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // Days are left out: nobody thinks of 24h as 1d.
    let (unit, factor) =
        DURATION_UNITS[..3].iter().rev().find(|(_, factor)| seconds > 0 && seconds.is_multiple_of(*factor)).unwrap_or(&("s", 1));
    format!("{}{unit}", seconds / factor)
}

/// A size in the largest unit that divides it, as [`size`] reads it.
pub(super) fn size_text(bytes: u64) -> String {
    let (unit, factor) =
        SIZE_UNITS.iter().rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{} {unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, duration_text, size, size_text, time_of_day};

    #[test]
    fn durations_are_read_and_shown_alike() {
        for (text, seconds) in [("0s", 0), ("30s", 30), ("90s", 90), ("10m", 600), ("1h", 3600), ("24h", 86400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
            assert_eq!(duration_text(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration("2d"), Ok(Duration::from_hours(48)));
        assert_eq!(duration("5 m"), Ok(Duration::from_mins(5)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "30", "s", "-1s", "+1s", "1.5h", "10 minutes", "1h30m", "10M", "30s ", "5  m", "18446744073709551615d", "é"]
        {
            let fault = duration(text).unwrap_err();
            assert_eq!(fault.message, format!("\"{text}\" is not a duration"));
        }
    }

    #[test]
    fn sizes_are_read_and_shown_alike() {
        for (text, bytes) in
            [("0 B", 0), ("1023 B", 1023), ("1 KiB", 1024), ("1536 MiB", 1_610_612_736), ("4 GiB", 4_294_967_296)]
        {
            assert_eq!(size(text), Ok(bytes));
            assert_eq!(size_text(bytes), text);
        }
        assert_eq!(size("4GiB"), Ok(4_294_967_296));
        assert_eq!(size("4 GB").unwrap_err().message, "\"4 GB\" is not a size");
        assert!(size("99999999999999 GiB").is_err());
    }

    #[test]
    fn times_of_day_have_two_digits_each() {
        let time = time_of_day("23:05").unwrap();
        assert_eq!((time.hour, time.minute), (23, 5));
        assert!(time_of_day("00:00").is_ok() && time_of_day("23:59").is_ok());
        for text in ["24:00", "12:60", "2:30", "02:3", "02:30:00", "+2:30", "noon", "", ":"] {
            assert_eq!(time_of_day(text).unwrap_err().message, format!("\"{text}\" is not a time of day"));
        }
    }
}
