//! fail2ban's settings: who fails to log in is shut out at the firewall, each time for longer.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::check::Rule;
use super::head;
use crate::ask::{self, ask, ask_with_input};
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
const STARTING: Duration = Duration::from_mins(1);

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

/// What is asked, in the order of the rules.
const QUESTIONS: [&str; 10] = [
    "get sshd maxretry",
    "get sshd findtime",
    "get sshd bantime",
    "get sshd bantime.increment",
    "get sshd bantime.maxtime",
    "get sshd failregex",
    "get sshd ignoreip",
    "get sshd journalmatch",
    "get sshd actions",
    "get dbpurgeage",
];

/// What the running fail2ban goes by.
pub(super) fn check(access: &Access) -> Vec<Rule> {
    rules(access, &answers())
}

/// Its answers, none where it gave none. One client asks them all: each start of it takes a Pi half a second. A server that has
/// just been started is waited for.
fn answers() -> Vec<String> {
    let is_active = || ask("systemctl", &["is-active", "fail2ban"], ask::USUAL).is_some_and(|answer| answer.success);
    let input = QUESTIONS.join("\n") + "\nexit\n";
    let begun = Instant::now();
    loop {
        let said = ask_with_input("fail2ban-client", &["-i"], &input, ask::USUAL);
        let answers = said.map(|answer| split(&answer.text)).unwrap_or_default();
        if answers.len() == QUESTIONS.len() || begun.elapsed() > STARTING || !is_active() {
            return answers;
        }
        sleep(Duration::from_secs(1));
    }
}

/// The client writes its prompt before each answer, and, for a server that isn't there, nothing behind it.
fn split(text: &str) -> Vec<String> {
    let answers = text.split("fail2ban> ").skip(1).map(|answer| answer.trim().to_owned());
    answers.filter(|answer| !answer.is_empty()).collect()
}

fn rules(access: &Access, answers: &[String]) -> Vec<Rule> {
    let fix = "`vaultberry harden apply`, and look at `journalctl -u fail2ban`";
    // Where one answer is missing, nobody knows which.
    let answers = (answers.len() == QUESTIONS.len()).then_some(answers);
    let rule = |number: usize, name: &str, wanted: String, read: &dyn Fn(&str) -> String| {
        let found = answers.map(|answers| read(&answers[number]));
        Rule::new(&format!("fail2ban: {name}"), &wanted, found, fix)
    };
    vec![
        rule(0, "failures until a ban", access.ban_after.to_string(), &str::to_owned),
        rule(1, "seconds in which they count", WITHIN.to_string(), &str::to_owned),
        rule(2, "seconds of the first ban", access.ban_for.as_secs().to_string(), &str::to_owned),
        rule(3, "longer each time", "True".to_owned(), &str::to_owned),
        rule(4, "seconds of the longest ban", LONGEST.to_string(), &str::to_owned),
        rule(5, "a wrong key counts", "yes".to_owned(), &counts_keys),
        rule(6, "never banned", sorted(ignored(access)), &|text| sorted(leaves(text))),
        rule(7, "reads", "_SYSTEMD_UNIT=ssh.service".to_owned(), &last_line),
        rule(8, "bans by", "nftables".to_owned(), &last_line),
        rule(9, "seconds that bans are remembered", REMEMBERED.to_string(), &digits),
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
    use super::{ignored, jail, leaves, rules, sorted, split};
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

    /// As fail2ban 1.1 says it.
    const SAID: &str = "Fail2Ban v1.1.0 reads log file that contains password failure report\nand bans the corresponding IP addresses\n\n\
        fail2ban> 5\nfail2ban> 3600\nfail2ban> 600\nfail2ban> True\nfail2ban> 604800\n\
        fail2ban> The following regular expression are defined:\n|- [0]: ^x\n`- [1]: ^Unable to negotiate with <HOST>\n\
        fail2ban> These IP addresses/networks are ignored:\n|- 127.0.0.0/8\n`- ::1\n\
        fail2ban> Current match filter:\n_SYSTEMD_UNIT=ssh.service\n\
        fail2ban> The jail sshd has the following actions:\nnftables\n\
        fail2ban> Current database purge age is:\n`- 1209600seconds\nfail2ban> ";

    #[test]
    fn what_fail2ban_says_is_held_against_the_config() {
        let access = parse(EXAMPLE).unwrap().access;
        let broken = |said: &str| -> Vec<String> {
            rules(&access, &split(said)).into_iter().filter(|rule| rule.kept() != Some(true)).map(|rule| rule.told()).collect()
        };
        assert_eq!(broken(SAID), [""; 0]);
        for (from, to, told) in [
            ("> True", "> False", "fail2ban: longer each time is False, not True"),
            ("Unable to negotiate", "x", "fail2ban: a wrong key counts is no, not yes"),
            ("|- 127.0.0.0/8", "|- 10.0.0.0/8", "fail2ban: never banned is 10.0.0.0/8 ::1, not 127.0.0.0/8 ::1"),
            ("1209600seconds", "1day", "fail2ban: seconds that bans are remembered is 1, not 1209600"),
        ] {
            assert_eq!(broken(&SAID.replace(from, to)), [told]);
        }
        // A server that isn't there.
        assert_eq!(broken("fail2ban> fail2ban> fail2ban> ").len(), 10);
        assert_eq!(broken("").last().unwrap(), "fail2ban: seconds that bans are remembered: couldn't be found out");
        assert_eq!(sorted(leaves("x\n|- fd00::/8\n|- 127.0.0.0/8\n`- 0.0.0.0\n")), "0.0.0.0/0 127.0.0.0/8 fd00::/8");
    }
}
