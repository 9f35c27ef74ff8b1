//! What apt would install.

use std::time::Duration;

use super::boots;
use crate::ask::{self, ask};
use crate::log::printable;

/// How long apt may think. On a Pi with a slow card it takes a minute.
const APT: Duration = Duration::from_mins(3);

/// A package that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub package: String,
    /// The version that is there; none where it is new.
    pub from: Option<String>,
    /// The version that waits.
    pub to: String,
    /// Whether it mends a security hole.
    pub security: bool,
    /// Whether it is left to `vaultberry update`.
    pub held: bool,
}

impl Waiting {
    /// A line for a person.
    pub fn line(&self) -> String {
        let from = self.from.as_deref().unwrap_or("new");
        let security = if self.security { ", for security" } else { "" };
        let held = if self.held { ", held" } else { "" };
        format!("{}: {from} -> {}{security}{held}", self.package, self.to)
    }
}

/// Asks apt, held packages included; nothing is changed. None where it doesn't answer.
pub fn ask_apt() -> Option<Vec<Waiting>> {
    let options = ["--simulate", "--quiet", "--ignore-hold", "-o", "Debug::NoLocking=true", "dist-upgrade"];
    let simulated = ask("apt-get", &options, APT).filter(|answer| answer.success)?;
    let holds = ask("apt-mark", &["showhold"], ask::USUAL).filter(|answer| answer.success)?;
    Some(waiting(&simulated.text, &holds.text))
}

/// Reads lines as `Inst libssl3 [3.0.15-1] (3.0.17-1 Debian-Security:12/stable-security [arm64])`.
fn waiting(simulated: &str, holds: &str) -> Vec<Waiting> {
    let read = |line: &str| {
        let rest = printable(line.strip_prefix("Inst ")?.as_bytes());
        let (before, after) = rest.split_once('(')?;
        let mut words = before.split_whitespace();
        let package = words.next()?.to_owned();
        Some(Waiting {
            from: words.next().map(|version| version.trim_matches(['[', ']']).to_owned()),
            to: after.split_whitespace().next()?.trim_end_matches(')').to_owned(),
            security: after.to_ascii_lowercase().contains("-security"),
            held: boots(&package) || holds.lines().any(|held| held == package),
            package,
        })
    };
    simulated.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::waiting;

    #[test]
    fn what_apt_would_install_is_read() {
        let apt = "NOTE: This is only a simulation!\n\
                   Inst libssl3t64 [3.5.1-1] (3.5.4-1~deb13u1 Debian-Security:13/stable-security [arm64])\n\
                   Inst linux-image-6.12.57+deb13-arm64 (6.12.57-1 Debian:13.2/stable, Debian-Security:13/stable-security [arm64])\n\
                   Inst tzdata [2025a] (2025b Debian:13.2/stable [all])\n\
                   Inst nano [8.4-1] (8.4-2 Debian:13.2/stable [arm64]) []\n\
                   Conf libssl3t64 (3.5.4-1~deb13u1 Debian-Security:13/stable-security [arm64])\n";
        let lines: Vec<String> = waiting(apt, "nano\nraspi-firmware\n").iter().map(super::Waiting::line).collect();
        assert_eq!(
            lines,
            [
                "libssl3t64: 3.5.1-1 -> 3.5.4-1~deb13u1, for security",
                "linux-image-6.12.57+deb13-arm64: new -> 6.12.57-1, for security, held",
                "tzdata: 2025a -> 2025b",
                "nano: 8.4-1 -> 8.4-2, held",
            ]
        );
    }
}
