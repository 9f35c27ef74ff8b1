//! `[access]`: what the network may do to the appliance, and the appliance to the network.

use std::time::Duration;

use toml::de::DeTable;

use super::error::Fault;
use super::network::{Network, network};
use super::read::{Element, Report, Section};
use super::{Access, schema, value};

/// Where home networks have their addresses: RFC 1918, RFC 3927, RFC 4193 and RFC 4291 section 2.5.6.
pub(super) const PRIVATE: [Network; 6] = [
    Network::v4(10, 0, 8),
    Network::v4(172, 16, 12),
    Network::v4(192, 168, 16),
    Network::v4(169, 254, 16),
    Network::v6(0xfc00, 7),
    Network::v6(0xfe80, 10),
];

const WEEK: Duration = Duration::from_hours(7 * 24);

pub(super) fn access(report: &mut Report<'_>, root: &DeTable<'_>) -> Access {
    let section = Section::once(report, root, &schema::ACCESS);
    let from = section.list(report, "ssh_from", network);
    let never_ban = section.list(report, "never_ban", network);
    if from.sound() && section.sets("ssh_from") && from.value.is_empty() {
        let hint = "write the networks that you come from, as in ssh_from = [\"192.168.1.0/24\"]";
        report.add(&from.at, section.path("ssh_from"), Fault::new("nobody could log in from anywhere", hint));
    }
    let sound = from.sound();
    let from = if from.value.is_empty() { PRIVATE.to_vec() } else { distinct(report, from.value) };
    for Element { value, path, at } in &never_ban.value {
        if sound && !from.iter().any(|from| from.contains(*value)) {
            let hint = format!("add \"{value}\" to ssh_from as well, or take it out here");
            report.add(at, path.clone(), Fault::new("isn't let in at all: ssh_from has no network that it lies in", hint));
        }
    }
    let ban_for = section.text(report, "ban_for", Duration::from_mins(10), |text| {
        let hint = "write 1m to 7d, as in \"10m\"";
        let time = value::at_most(text, WEEK, hint)?;
        if time < Duration::from_mins(1) {
            return Err(Fault::new(format!("{} stops nobody", value::duration_text(time)), hint));
        }
        Ok(time)
    });
    Access {
        ssh_from: from,
        never_ban: distinct(report, never_ban.value),
        ban_after: section.number(report, "ban_after", 5, 2..=20).value,
        ban_for: ban_for.value,
        strict: section.flag(report, "strict", false).value,
    }
}

/// The networks, without what comes a second time, which is reported.
fn distinct(report: &mut Report<'_>, elements: Vec<Element<Network>>) -> Vec<Network> {
    let mut networks: Vec<Network> = Vec::new();
    for Element { value, path, at } in elements {
        match networks.iter().find(|known| known.contains(value) || value.contains(**known)) {
            Some(known) => report.add(&at, path, Fault::new(format!("overlaps with {known}"), "keep one of the two")),
            None => networks.push(value),
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use crate::config::{Access, EXAMPLE, parse};

    fn read(lines: &str) -> Result<Access, String> {
        parse(&EXAMPLE.replace("\n[access]\n", &format!("\n[access]\n{lines}\n")))
            .map(|config| config.access)
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn without_a_word_private_networks_may_come() {
        let access = read("").unwrap();
        let from: Vec<String> = access.ssh_from.iter().map(ToString::to_string).collect();
        assert_eq!(from, ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"]);
        assert!(access.never_ban.is_empty() && !access.strict);
    }

    #[test]
    fn what_would_lock_out_or_do_nothing_is_refused() {
        for (lines, told) in [
            (
                "ssh_from = []",
                "access.ssh_from: nobody could log in from anywhere\n  hint: write the networks that you come from",
            ),
            ("ssh_from = [\"10.0.0.0/8\", \"10.1.0.0/16\"]", "access.ssh_from[2]: overlaps with 10.0.0.0/8"),
            ("ssh_from = [\"10.1.0.0/16\", \"10.0.0.0/8\"]", "access.ssh_from[2]: overlaps with 10.1.0.0/16"),
            ("ssh_from = [\"::ffff:192.168.1.0/120\"]", "access.ssh_from[1]: \"::ffff:192.168.1.0/120\" is not an IP network"),
            ("never_ban = [\"203.0.113.7\"]", "access.never_ban[1]: isn't let in at all: ssh_from has no network"),
            ("ban_after = 1", "access.ban_after: must be from 2 to 20"),
            ("ban_for = \"8d\"", "access.ban_for: 192h is longer than 168h"),
            ("ban_for = \"59s\"", "access.ban_for: 59s stops nobody"),
        ] {
            let refusal = read(lines).unwrap_err();
            assert!(refusal.starts_with(told), "{lines}: {refusal}");
        }
    }
}
