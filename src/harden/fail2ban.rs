//! fail2ban's settings: who fails to log in is shut out at the firewall, each time for longer.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

use super::check::Rule;
use super::head;
use crate::ask::{self, ask};
use crate::config::{Access, Network};

/// The jail.
pub(super) const JAIL: &str = "/etc/fail2ban/jail.d/vaultberry.conf";
/// The program's own.
pub(super) const SETTINGS: &str = "/etc/fail2ban/fail2ban.d/vaultberry.conf";

/// Within how many seconds failures count together.
const WITHIN: u64 = 3600;

/// How many seconds the longest ban lasts, and for how many more an address that was banned is remembered.
const LONGEST: u64 = 7 * 86_400;
const REMEMBERED: u64 = 2 * LONGEST;

/// How long it may take until it answers.
const STARTING: Duration = Duration::from_secs(60);

pub(super) fn jail(access: &Access) -> String {
    format!(
        "{}\
         # Debian keeps no auth.log: the journal is the only witness. In aggressive mode who comes with the wrong key counts, too.\n\
         [DEFAULT]\n\
         backend = systemd\n\
         banaction = nftables\n\
         banaction_allports = nftables[type=allports]\n\
         ignoreself = true\n\
         ignoreip = {}\n\
         \n\
         [sshd]\n\
         enabled = true\n\
         mode = aggressive\n\
         journalmatch = _SYSTEMD_UNIT=ssh.service\n\
         maxretry = {}\n\
         findtime = {WITHIN}\n\
         bantime = {}\n\
         bantime.increment = true\n\
         bantime.maxtime = {LONGEST}\n",
        head("[access]"),
        ignored(access).join(" "),
        access.ban_after,
        access.ban_for.as_secs(),
    )
}

pub(super) fn settings() -> String {
    let mut text = head("[access]");
    write!(text, "[DEFAULT]\n# Bans outlive a restart, and how long the next one lasts follows from those before.\ndbpurgeage = {REMEMBERED}\n\
         # Nothing rotates a file.\nlogtarget = SYSTEMD-JOURNAL\n")
        .expect("writing to a string doesn't fail");
    text
}

fn ignored(access: &Access) -> Vec<String> {
    let own = ["127.0.0.0/8".to_owned(), "::1".to_owned()];
    own.into_iter().chain(access.never_ban.iter().map(Network::to_string)).collect()
}

/// What the running fail2ban goes by. One that has just been started is waited for.
pub(super) fn check(access: &Access) -> Vec<Rule> {
    let answers = || ask("fail2ban-client", &["ping"], ask::USUAL).is_some_and(|answer| answer.success);
    let starting = || ask("systemctl", &["is-active", "fail2ban"], ask::USUAL).is_some_and(|answer| answer.success);
    for _ in 0..STARTING.as_secs() {
        if answers() || !starting() {
            break;
        }
        sleep(Duration::from_secs(1));
    }
    let get = |words: &[&str]| {
        let words: Vec<&str> = ["get"].into_iter().chain(words.iter().copied()).collect();
        Some(ask("fail2ban-client", &words, ask::USUAL)?.text)
    };
    let fix = "`vaultberry harden apply`, and look at `journalctl -u fail2ban`";
    let rule = |name: &str, wanted: String, found: Option<String>| {
        let found = found.filter(|text| !text.trim().is_empty());
        Rule::new(&format!("fail2ban: {name}"), &wanted, found, fix)
    };
    let jail = |name: &str| get(&["sshd", name]);
    let number = |name: &str| jail(name).map(|text| text.trim().to_owned());
    vec![
        rule("failures until a ban", access.ban_after.to_string(), number("maxretry")),
        rule("seconds in which they count", WITHIN.to_string(), number("findtime")),
        rule("seconds of the first ban", access.ban_for.as_secs().to_string(), number("bantime")),
        rule("longer each time", "True".to_owned(), number("bantime.increment")),
        rule("seconds of the longest ban", LONGEST.to_string(), number("bantime.maxtime")),
        rule("a wrong key counts", "yes".to_owned(), jail("failregex").map(|text| counts_keys(&text))),
        rule("never banned", sorted(ignored(access)), jail("ignoreip").map(|text| sorted(leaves(&text)))),
        rule("reads", "_SYSTEMD_UNIT=ssh.service".to_owned(), jail("journalmatch").map(|text| last_line(&text))),
        rule("bans by", "nftables".to_owned(), jail("actions").map(|text| last_line(&text))),
        rule("seconds that bans are remembered", REMEMBERED.to_string(), get(&["dbpurgeage"]).map(|text| digits(&text))),
    ]
}

/// What fail2ban-client lists: lines as `|- 127.0.0.0/8`, the last with another corner.
fn leaves(text: &str) -> Vec<String> {
    let leaves = text.lines().filter_map(|line| line.strip_prefix("|- ").or_else(|| line.strip_prefix("`- ")));
    leaves.map(|leaf| leaf.trim().to_owned()).collect()
}

/// Only in aggressive mode are there patterns for who breaks off before a login.
fn counts_keys(patterns: &str) -> String {
    if patterns.contains("Unable to negotiate with") { "yes".to_owned() } else { "no".to_owned() }
}

/// fail2ban tells them in an order of its own, and all addresses as the one that is none.
fn sorted(mut networks: Vec<String>) -> String {
    for network in &mut networks {
        if ["0.0.0.0", "::"].contains(&network.as_str()) {
            network.push_str("/0");
        }
    }
    networks.sort();
    networks.join(" ")
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim().to_owned()
}

fn digits(text: &str) -> String {
    text.split(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{digits, ignored, jail, leaves, sorted};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn the_jail_is_as_the_config_says() {
        let text =
            EXAMPLE.replace("\n[access]\n", "\n[access]\nnever_ban = [\"192.168.1.7\"]\nban_after = 3\nban_for = \"2m\"\n");
        let access = parse(&text).unwrap().access;
        let jail = jail(&access);
        for line in ["maxretry = 3", "bantime = 120", "ignoreip = 127.0.0.0/8 ::1 192.168.1.7", "backend = systemd"] {
            assert!(jail.lines().any(|other| other == line), "{line}: {jail}");
        }
        assert_eq!(ignored(&access), ["127.0.0.0/8", "::1", "192.168.1.7"]);
    }

    #[test]
    fn what_fail2ban_client_prints_is_understood() {
        let text = "These IP addresses/networks are ignored:\n|- 127.0.0.0/8\n`- ::1\n";
        assert_eq!(leaves(text), ["127.0.0.0/8", "::1"]);
        assert_eq!(sorted(leaves("x\n|- fd00::/8\n|- 127.0.0.0/8\n`- 0.0.0.0\n")), "0.0.0.0/0 127.0.0.0/8 fd00::/8");
        assert_eq!(digits("Current database purge age is:\n`- 1209600seconds\n"), "1209600");
    }
}
