//! What holds on the appliance itself: its files, units, open ports, passwords and secrets.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::check::Rule;
use super::{File, SSH_PORT};
use crate::ask::{self, ask};
use crate::config::{Config, DEFAULT_CONFIG};
use crate::kernel::appliance::{Appliance, CHANGED_HINT};
use crate::updates::settings::TIMER;

/// The services that have to run, and to be started at boot.
pub(super) const SERVICES: [&str; 3] = ["nftables.service", "fail2ban.service", "ssh.service"];

/// What keeps the logs that aren't the journal's from growing.
pub(super) const LOGS: &str = "logrotate.timer";

/// Folders of secrets on an appliance.
const SECRETS: [&str; 2] = ["/etc/vaultberry/keys", "/etc/vaultberry/credentials"];

pub(super) fn file(file: &File) -> Rule {
    let found = match fs::read_to_string(file.path) {
        Ok(text) if text == file.text => "as configured".to_owned(),
        Ok(_) => "changed".to_owned(),
        Err(error) => error.to_string(),
    };
    Rule::new(&format!("file: {}", file.path), "as configured", Some(found), "`vaultberry harden apply`")
}

pub(super) fn units() -> Vec<Rule> {
    let state = |unit: &str| {
        let answer =
            ask("systemctl", &["show", "--property=ActiveState", "--property=UnitFileState", "--value", unit], ask::USUAL)?;
        Some(answer.text.lines().collect::<Vec<_>>().join(", ")).filter(|_| answer.success)
    };
    let rule = |unit: &&str| {
        Rule::new(
            &format!("unit: {unit}"),
            "active, enabled",
            state(unit),
            &format!("`vaultberry harden apply`, and look at `journalctl -u {unit}`"),
        )
    };
    SERVICES.iter().chain([&TIMER, &LOGS]).map(rule).collect()
}

/// Who listens on more than the loopback. ss(8) prints the state, two queues, and the own address.
pub(super) fn listeners() -> Rule {
    let open = ask("ss", &["-Hltn"], ask::USUAL).filter(|answer| answer.success).map(|answer| open_ports(&answer.text));
    Rule::new("open TCP ports", &SSH_PORT.to_string(), open, "`ss -ltnp` shows who listens: remove it, or bind it to 127.0.0.1")
}

fn open_ports(text: &str) -> String {
    let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'));
    let open = addresses.filter(|(host, _)| !host.starts_with("127.") && *host != "[::1]");
    let mut ports: Vec<&str> = open.map(|(_, port)| port).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
}

/// What on the firmware partition was changed by others.
pub(super) fn firmware() -> Rule {
    let wanted = "as it was written";
    let rule = |found: Option<String>, fix: &str| Rule::new("firmware partition", wanted, found, fix);
    match Appliance::here().and_then(|appliance| appliance.tampered()) {
        Ok(lines) if lines.is_empty() => rule(Some(wanted.to_owned()), CHANGED_HINT),
        Ok(lines) => rule(Some(lines.join(", ")), CHANGED_HINT),
        Err(error) => rule(None, &format!("mend this: {}", format!("{error:#}").replace('\n', "; "))),
    }
}

/// Who could log in with a password, at the console, too: shadow(5), whose second field is the hash.
pub(super) fn passwords() -> Rule {
    let found = fs::read_to_string("/etc/shadow").ok().map(|text| with_password(&text));
    Rule::new("accounts with a password", "none", found, "`sudo passwd --lock NAME`")
}

fn with_password(shadow: &str) -> String {
    let accounts = shadow.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, hash) = (fields.next()?, fields.next()?);
        (!hash.starts_with(['!', '*'])).then_some(name)
    });
    let names: Vec<&str> = accounts.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The keys that let somebody log in: those of the config, and, where it says so, the one that was made with the image.
pub(super) fn keys(config: &Config) -> Rule {
    let path = keys_file(config);
    let found = fs::read_to_string(&path).ok().map(|text| compare_keys(config, &text));
    let fix = format!("`vaultberry harden apply`; with generate_key, edit {path}");
    Rule::new("keys of the admin", "as configured", found, &fix)
}

/// Where they are.
pub(super) fn keys_file(config: &Config) -> String {
    format!("/etc/ssh/authorized_keys.d/{}", config.admin.user)
}

fn compare_keys(config: &Config, text: &str) -> String {
    let known = &config.admin.ssh_keys;
    let there: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let more = there.iter().filter(|key| known.iter().all(|known| known != *key)).count();
    let missing = known.iter().filter(|key| !there.contains(&key.as_str())).count();
    let more = more.saturating_sub(usize::from(config.admin.generate_key));
    match (more, missing) {
        (0, 0) => "as configured".to_owned(),
        (0, missing) => format!("{missing} of the configuration missing"),
        (more, _) => format!("{more} that the configuration doesn't have"),
    }
}

/// Whether each is root's alone.
pub(super) fn secrets(config: &Config) -> Rule {
    let open = open_secrets(config);
    let names: Vec<String> = open.iter().map(|path| path.display().to_string()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Rule::new("secrets that others may read", "none", Some(found), "`vaultberry harden apply`")
}

/// Whether somebody else than root owns it or may do anything with it. What isn't there isn't open.
fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() != 0 || metadata.permissions().mode() & 0o077 != 0)
}

/// Secrets that others than root could read or own, also by way of a link.
pub(super) fn open_secrets(config: &Config) -> Vec<PathBuf> {
    let files = config.offsite.iter().map(|offsite| &offsite.credentials);
    let files =
        files.chain(config.report.iter().flat_map(|report| &report.servers).filter_map(|server| server.credentials.as_ref()));
    let files = files.chain(config.ping.iter().map(|ping| &ping.credentials));
    let files = files.chain(config.sources.iter().map(|source| &source.identity)).cloned();
    let folders = SECRETS.map(PathBuf::from).into_iter().chain([config.backup.state.join("ssh")]);
    let inside = folders.flat_map(|folder| {
        let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_none_or(|end| end != "pub")).chain([folder]).collect::<Vec<_>>()
    });
    let all: BTreeSet<PathBuf> = inside.chain(files).chain([PathBuf::from(DEFAULT_CONFIG)]).collect();
    all.into_iter().filter(|path| is_open(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::{compare_keys, open_ports, with_password};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn a_key_too_many_and_a_key_too_few_are_told() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW me";
        let made = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG65R/rxCkCfjr73Lwin1PSEziRs2SzUZZwjkk0qCzY3 made";
        let both =
            parse(&EXAMPLE.replace("generate_key = true", &format!("generate_key = true\nssh_keys = [\"{key}\"]"))).unwrap();
        let one = parse(&EXAMPLE.replace("generate_key = true", &format!("ssh_keys = [\"{key}\"]"))).unwrap();
        assert_eq!(compare_keys(&both, &format!("{key}\n{made}\n")), "as configured");
        assert_eq!(compare_keys(&one, &format!("{key}\n")), "as configured");
        assert_eq!(compare_keys(&one, &format!("{key}\n{made}\n")), "1 that the configuration doesn't have");
        assert_eq!(compare_keys(&both, &format!("{made}\n")), "1 of the configuration missing");
    }

    #[test]
    fn only_what_others_reach_is_open() {
        let text = "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*\nLISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\n\
                    LISTEN 0 128 [::1]:631 [::]:*\n";
        assert_eq!(open_ports(text), "22");
        assert_eq!(open_ports(&format!("{text}LISTEN 0 5 *:8000 *:*\n")), "22, 8000");
        assert_eq!(open_ports(""), "none");
    }

    #[test]
    fn an_empty_password_is_one() {
        assert_eq!(with_password("root:*:1::::::\nadmin:!:1::::::\nsshd:!*:1::::::\n"), "none");
        assert_eq!(with_password("root:$y$j9T$x:1::::::\nguest::1::::::\n"), "root, guest");
    }
}
