//! The settings of unattended-upgrades and of its window, and whether they are what apt goes by.

use crate::ask::{self, ask};
use crate::config::{Config, Updates};
use crate::harden::File;
use crate::harden::check::Rule;
use crate::updates::{BOOT, HELD};

/// The timer of the window.
pub const TIMER: &str = "apt-daily-upgrade.timer";

const APT: &str = "/etc/apt/apt.conf.d/53vaultberry-updates";
const WINDOW: &str = "/etc/systemd/system/apt-daily-upgrade.timer.d/vaultberry.conf";

/// Debian's security updates: the archive names its releases `trixie-security`, once it was only `trixie`.
const ORIGINS: [&str; 2] = [
    "origin=Debian,codename=${distro_codename},label=Debian-Security",
    "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
];

/// What else is settled of it. A restart is `vaultberry update`'s to make.
const SINGLE: [(&str, &str); 7] = [
    ("Unattended-Upgrade::MinimalSteps", "true"),
    ("Unattended-Upgrade::Mail", ""),
    ("Unattended-Upgrade::Automatic-Reboot", "false"),
    ("Unattended-Upgrade::InstallOnShutdown", "false"),
    ("Unattended-Upgrade::Remove-Unused-Kernel-Packages", "false"),
    ("Unattended-Upgrade::Remove-New-Unused-Dependencies", "false"),
    ("Unattended-Upgrade::Remove-Unused-Dependencies", "false"),
];

/// The files, below what each file that is made from the config begins with.
pub fn files(config: &Config, head: &str) -> [File; 2] {
    let file = |path, text| File { path, text: format!("{head}{text}"), mode: 0o644 };
    [file(APT, apt(&config.updates)), file(WINDOW, window(&config.updates))]
}

/// Lists that the package's own file has begun are cleared first.
fn apt(updates: &Updates) -> String {
    let list = |name: &str, values: &[&str]| {
        values.iter().fold(format!("#clear {name};\n"), |text, value| text + &setting(&format!("{name}::"), value))
    };
    let single = SINGLE.iter().fold(String::new(), |text, (name, value)| text + &setting(name, value));
    [
        setting("APT::Periodic::Unattended-Upgrade", if updates.security { "1" } else { "0" }).as_str(),
        &list("Unattended-Upgrade::Allowed-Origins", &[]),
        &list("Unattended-Upgrade::Origins-Pattern", &ORIGINS),
        "// What boots waits for `vaultberry update`.\n",
        &list("Unattended-Upgrade::Package-Blacklist", &BOOT),
        &single,
        "// A file of settings that was changed here stays as it is.\n",
        &setting("Dpkg::Options::", "--force-confdef"),
        &setting("Dpkg::Options::", "--force-confold"),
    ]
    .concat()
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} \"{value}\";\n")
}

/// A window that was missed isn't made up for: it would run into the backup.
fn window(updates: &Updates) -> String {
    format!("[Timer]\nOnCalendar=\nOnCalendar=*-*-* {}\nRandomizedDelaySec=5min\nAccuracySec=1min\nPersistent=no\n", updates.at)
}

/// What apt itself says that it goes by, and whether what boots is held.
pub fn check(config: &Config) -> Vec<Rule> {
    let dump = ask("apt-config", &["dump"], ask::USUAL).filter(|answer| answer.success).map(|answer| answer.text);
    let holds = ask("apt-mark", &["showhold"], ask::USUAL).filter(|answer| answer.success).map(|answer| answer.text);
    rules(config, dump.as_deref(), holds.as_deref())
}

fn rules(config: &Config, dump: Option<&str>, holds: Option<&str>) -> Vec<Rule> {
    let fix = "`vaultberry harden apply`; if it stays, a file of /etc/apt/apt.conf.d that comes later has other words";
    let rule = |name: &str, wanted: &str| {
        let found = dump.map(|dump| or_none(values(dump, name).join(" ")));
        Rule::new(&format!("updates: {name}"), &or_none(wanted.to_owned()), found, fix)
    };
    let mut rules = vec![
        rule("APT::Periodic::Unattended-Upgrade", if config.updates.security { "1" } else { "0" }),
        rule("Unattended-Upgrade::Allowed-Origins", ""),
        rule("Unattended-Upgrade::Origins-Pattern", &ORIGINS.join(" ")),
        rule("Unattended-Upgrade::Package-Blacklist", &BOOT.join(" ")),
    ];
    rules.extend(SINGLE.iter().map(|(name, value)| rule(name, value)));
    let held = holds.map(|holds| {
        let is_held = |name: &&str| holds.lines().any(|held| held == *name);
        HELD.into_iter().filter(is_held).collect::<Vec<_>>().join(", ")
    });
    let held = held.map(or_none);
    rules.push(Rule::new("updates: held packages", &HELD.join(", "), held, "`vaultberry harden apply`"));
    rules
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The values of a setting, of a list all: `NAME:: "VALUE";`. A list's own line, `NAME "";`, is none.
fn values<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix("::").unwrap_or(rest).strip_prefix(" \"")?;
        rest.strip_suffix("\";").filter(|value| !value.is_empty())
    };
    dump.lines().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::{apt, rules, window};
    use crate::config::{EXAMPLE, parse};
    use crate::outcome::Outcome;
    use crate::{harden, updates::HELD};

    #[test]
    fn only_security_updates_come_by_themselves_and_never_what_boots() {
        let config = parse(EXAMPLE).unwrap();
        let text = apt(&config.updates);
        let expected = "\
APT::Periodic::Unattended-Upgrade \"1\";
#clear Unattended-Upgrade::Allowed-Origins;
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern:: \"origin=Debian,codename=${distro_codename},label=Debian-Security\";
Unattended-Upgrade::Origins-Pattern:: \"origin=Debian,codename=${distro_codename}-security,label=Debian-Security\";
// What boots waits for `vaultberry update`.
#clear Unattended-Upgrade::Package-Blacklist;
Unattended-Upgrade::Package-Blacklist:: \"linux-image-\";
Unattended-Upgrade::Package-Blacklist:: \"raspi-firmware\";
Unattended-Upgrade::Package-Blacklist:: \"u-boot-\";
Unattended-Upgrade::Package-Blacklist:: \"firmware-\";
Unattended-Upgrade::MinimalSteps \"true\";
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn the_window_begins_when_the_config_says_and_is_never_made_up_for() {
        let mut config = parse(EXAMPLE).unwrap();
        config.updates.at = config.backup.at;
        let text = window(&config.updates);
        assert!(text.contains("\nOnCalendar=\nOnCalendar=*-*-* 02:30\n") && text.contains("\nPersistent=no\n"), "{text}");
    }

    #[test]
    fn what_another_file_adds_and_what_is_not_held_is_found() {
        let config = parse(EXAMPLE).unwrap();
        let dump = apt(&config.updates).lines().filter(|line| !line.starts_with(['#', '/'])).collect::<Vec<_>>().join("\n");
        let dump = format!("Unattended-Upgrade::Origins-Pattern \"\";\n{dump}");
        let holds = HELD.join("\n");
        let broken = |dump: Option<&str>, holds: Option<&str>| {
            let rules = rules(&config, dump, holds);
            let told: Vec<String> =
                rules.iter().filter(|rule| rule.kept() != Some(true)).map(harden::check::Rule::told).collect();
            (harden::check::outcome(&rules), told)
        };
        assert_eq!(broken(Some(&dump), Some(&holds)), (Outcome::Complete, Vec::new()));
        let more = format!("{dump}\nUnattended-Upgrade::Allowed-Origins:: \"x:y\";");
        let (outcome, told) = broken(Some(&more), Some("u-boot-rpi\nraspi-firmware\n"));
        assert_eq!(outcome, Outcome::Failed);
        assert_eq!(
            told,
            [
                "updates: Unattended-Upgrade::Allowed-Origins is x:y, not none",
                "updates: held packages is raspi-firmware, u-boot-rpi, not linux-image-arm64, raspi-firmware, u-boot-rpi, firmware-brcm80211",
            ]
        );
        assert_eq!(broken(None, Some(&holds)).0, Outcome::Partial);
    }
}
