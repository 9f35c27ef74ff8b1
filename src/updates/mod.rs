//! Updates of the appliance's own packages.
//!
//! Security updates come by themselves, in a window, by Debian's unattended-upgrades, for which [`settings`] has the words. What
//! boots is held until somebody is there: [`upgrade`] installs it with all else. Both are done under the run's lock, so that no
//! backup and no upgrade are ever at work together. [`waiting`] and [`history`] tell what is still to come and what was done,
//! [`restart`] whether a restart is wanted, and [`stick`] whether one would come to its end.

pub mod history;
pub mod restart;
pub mod settings;
pub mod stick;
pub mod upgrade;
pub mod waiting;

/// The packages that are held: kernel, boot firmware and boot loader. A Pi that loses its USB by one of them loses its stick.
pub const HELD: [&str; 4] = ["linux-image-arm64", "raspi-firmware", "u-boot-rpi", "firmware-brcm80211"];

/// How the names of packages that boot begin.
const BOOT: [&str; 4] = ["linux-image-", "raspi-firmware", "u-boot-", "firmware-"];

/// Whether a package, as apt names it, is part of what boots.
pub fn boots(package: &str) -> bool {
    BOOT.iter().any(|begin| package.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::{HELD, boots};

    #[test]
    fn what_is_held_boots_and_the_image_holds_it() {
        assert!(HELD.into_iter().all(boots) && boots("linux-image-6.12.57+deb13-arm64") && !boots("libssl3t64"));
        let stage = include_str!("../../image/stages/tree.sh");
        assert!(stage.contains(&format!("printf '%s hold\\n' {} |", HELD.join(" "))));
        let packages = include_str!("../../image/packages");
        assert!(HELD.iter().all(|held| packages.lines().any(|line| line == *held)));
    }
}
