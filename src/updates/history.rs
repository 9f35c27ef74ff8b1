//! What was upgraded, as apt wrote it down.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::log::printable;

/// Where apt writes it down, and what logrotate makes of it each month.
const LOG: &str = "/var/log/apt/history.log";
const ROTATED: &str = "/var/log/apt/history.log.1.gz";

/// How much of a log is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// How long an upgrade is news: there is a window and a report each day, and one report may be late or lost.
const NEWS: SignedDuration = SignedDuration::from_hours(2 * 24);

/// A package that was upgraded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// Its name.
    pub package: String,
    /// The version that was there.
    pub from: String,
    /// The version that is there since.
    pub to: String,
    /// When.
    pub when: Timestamp,
}

impl Upgraded {
    /// In words.
    pub fn told(&self) -> String {
        format!("{} {} -> {}", self.package, self.from, self.to)
    }
}

/// What was upgraded in the last two days, the oldest first.
pub fn lately(now: Timestamp) -> Vec<Upgraded> {
    let text = rotated(ROTATED.as_ref()) + &text(LOG.as_ref());
    let all = upgraded(&text, &TimeZone::system());
    all.into_iter().filter(|upgraded| (SignedDuration::ZERO..=NEWS).contains(&now.duration_since(upgraded.when))).collect()
}

fn text(path: &Path) -> String {
    // What is beyond the limit is the newest.
    let bytes = fs::read(path).unwrap_or_default();
    let begin = bytes.len().saturating_sub(usize::try_from(LARGEST).unwrap_or(usize::MAX));
    String::from_utf8_lossy(&bytes[begin..]).into_owned()
}

fn rotated(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What could be read is better than nothing.
    let _ = File::open(path).map(|file| MultiGzDecoder::new(file).take(LARGEST).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads paragraphs with `Start-Date: 2026-11-30  14:31:07`, in local time, and
/// `Upgrade: libssl3t64:arm64 (3.5.1-1, 3.5.4-1), tzdata:arm64 (2025a, 2025b)`.
fn upgraded(text: &str, zone: &TimeZone) -> Vec<Upgraded> {
    let mut all = Vec::new();
    let mut when = None;
    for line in text.lines() {
        if let Some(date) = line.strip_prefix("Start-Date: ") {
            when = local(date, zone);
        } else if let (Some(packages), Some(when)) = (line.strip_prefix("Upgrade: "), when) {
            all.extend(packages.split("), ").filter_map(|package| {
                let (name, versions) = package.trim_end_matches(')').split_once(" (")?;
                let mut versions = versions.split(", ").map(|version| printable(version.as_bytes()));
                let package = printable(name.split(':').next()?.as_bytes());
                Some(Upgraded { package, from: versions.next()?, to: versions.next()?, when })
            }));
        }
    }
    all
}

fn local(date: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (day, time) = date.trim().split_once(' ')?;
    let time: DateTime = format!("{day}T{}", time.trim()).parse().ok()?;
    zone.to_ambiguous_timestamp(time).compatible().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use jiff::tz::{Offset, TimeZone};

    use super::{rotated, upgraded};

    const LOG: &str = "
Start-Date: 2026-11-30  14:31:07
Commandline: /usr/bin/unattended-upgrade -v
Install: linux-image-6.12.57+deb13-arm64:arm64 (6.12.57-1, automatic)
Upgrade: libssl3t64:arm64 (3.5.1-1, 3.5.4-1~deb13u1), tzdata:all (2025a, 2025b)
End-Date: 2026-11-30  14:31:50

Start-Date: today
Upgrade: nano:arm64 (8.4-1, 8.4-2)
End-Date: 2026-11-30  14:40:00
";

    #[test]
    fn upgrades_are_read_with_their_local_time() {
        let zone = TimeZone::fixed(Offset::constant(1));
        let told: Vec<String> =
            upgraded(LOG, &zone).iter().map(|upgraded| format!("{} at {}", upgraded.told(), upgraded.when)).collect();
        let at = "at 2026-11-30T13:31:07Z";
        assert_eq!(told, [format!("libssl3t64 3.5.1-1 -> 3.5.4-1~deb13u1 {at}"), format!("tzdata 2025a -> 2025b {at}")]);
    }

    #[test]
    fn what_logrotate_has_made_of_it_is_read_as_far_as_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.log.1.gz");
        assert_eq!(rotated(&path), "");
        let mut file = GzEncoder::new(Vec::new(), Compression::default());
        file.write_all(LOG.as_bytes()).unwrap();
        std::fs::write(&path, file.finish().unwrap()).unwrap();
        assert_eq!(rotated(&path), LOG);
    }
}
