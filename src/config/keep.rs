//! `keep`: a number, or a table of how many snapshots of each age stay.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::error::Fault;

/// The most of each, three years of days.
const MOST: u16 = 1000;

const HINT: &str = "write keep = { last = 3, daily = 7, weekly = 4, monthly = 6, yearly = 0 }, or a number for the last ones";

/// Which complete snapshots of a source stay: one that any of these wants. 0 to 1000 each, `last` at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest ones.
    pub last: u16,
    /// The newest of each of so many hours, counting only hours that have one; likewise the others.
    pub hourly: u16,
    /// Of days, in the appliance's time zone.
    pub daily: u16,
    /// Of weeks, which begin on Monday (ISO 8601).
    pub weekly: u16,
    /// Of months.
    pub monthly: u16,
    /// Of years.
    pub yearly: u16,
}

impl Keep {
    /// Nothing at all.
    pub const NONE: Self = Self { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
}

impl Default for Keep {
    /// Half a year in some twenty snapshots.
    fn default() -> Self {
        Self { last: 3, daily: 7, weekly: 4, monthly: 6, ..Self::NONE }
    }
}

impl fmt::Display for Keep {
    /// As in the file.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "last {}", self.last)?;
        let rest = [
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ];
        rest.iter().filter(|(_, count)| *count > 0).try_for_each(|(name, count)| write!(formatter, ", {name} {count}"))
    }
}

/// What `value` says.
pub(super) fn keep(value: &DeValue<'_>) -> Result<Keep, Fault> {
    match value {
        DeValue::Integer(_) => Ok(Keep { last: number("keep", value, 1)?, ..Keep::NONE }),
        DeValue::Table(table) if table.is_empty() => Err(Fault::new("must say what stays", HINT)),
        DeValue::Table(table) => {
            let mut keep = Keep { last: 1, ..Keep::NONE };
            for (key, value) in table {
                let (field, least) = match key.get_ref().as_ref() {
                    "last" => (&mut keep.last, 1),
                    "hourly" => (&mut keep.hourly, 0),
                    "daily" => (&mut keep.daily, 0),
                    "weekly" => (&mut keep.weekly, 0),
                    "monthly" => (&mut keep.monthly, 0),
                    "yearly" => (&mut keep.yearly, 0),
                    _ => return Err(Fault::new("has last, hourly, daily, weekly, monthly and yearly, and nothing else", HINT)),
                };
                *field = number(key.get_ref(), value.get_ref(), least)?;
            }
            Ok(keep)
        }
        _ => Err(Fault::new("must be a number or a table", HINT)),
    }
}

fn number(name: &str, value: &DeValue<'_>, least: u16) -> Result<u16, Fault> {
    let number = match value {
        DeValue::Integer(integer) => u16::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    };
    number
        .filter(|number| (least..=MOST).contains(number))
        .ok_or_else(|| Fault::new(format!("{name} must be a number from {least} to {MOST}"), HINT))
}
