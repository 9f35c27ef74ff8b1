//! The firewall: in comes ssh, from where it may; out goes what each user of the appliance has to do.
//!
//! The rules know numbers and users and no names of hosts: they are loaded before there is a network that could resolve any.
//! So they hold a user to ports, not to servers. Who speaks for the sources has numbers of their own
//! ([`apart::NUMBERS`](crate::source::apart::NUMBERS)).

use std::collections::BTreeSet;

use super::check::Rule;
use super::{SSH_PORT, head};
use crate::ask::{self, ask};
use crate::config::{Access, Config, Network};
use crate::process;
use crate::source::apart;

/// What Debian's nftables.service loads.
pub(super) const PATH: &str = "/etc/nftables.conf";

/// The table; bans are in fail2ban's own, which comes before.
const TABLE: &str = "inet vaultberry";

/// How many new connections one address may make in a minute, and how many of them at once.
const NEWCOMERS: &str = "limit rate over 60/minute burst 60 packets";

/// The sets that the kernel fills; what is in them is no rule.
const FILLED: &str = "newcomers";

/// All of the rules, for `nft -f`.
pub(super) fn rules(config: &Config) -> String {
    let out = Out::of(config);
    format!(
        "#!/usr/sbin/nft -f\n\
         {head}\
         # Only this table is replaced: fail2ban's bans are in another one.\n\
         table {TABLE}\n\
         delete table {TABLE}\n\
         table {TABLE} {{\n\
         {sets}\
         \tchain input {{\n\
         \t\ttype filter hook input priority filter; policy drop;\n\
         \t\tiif \"lo\" accept\n\
         \t\tct state vmap {{ established : accept, related : accept, invalid : drop }}\n\
         \t\tip protocol icmp icmp type echo-request limit rate 10/second accept\n\
         \t\ticmpv6 type echo-request limit rate 10/second accept\n\
         \t\t# Without these there is no IPv6 (RFC 4890 section 4.4).\n\
         \t\ticmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query }} accept\n\
         \t\tudp sport 67 udp dport 68 accept\n\
         \t\tip6 saddr fe80::/10 udp sport 547 udp dport 546 accept\n\
         \t\ttcp dport {SSH_PORT} jump ssh\n\
         \t}}\n\
         \tchain ssh {{\n\
         {never}\
         \t\tip saddr != @from4 jump refuse\n\
         \t\tip6 saddr != @from6 jump refuse\n\
         \t\tadd @{FILLED}4 {{ ip saddr {NEWCOMERS} }} jump refuse\n\
         \t\tadd @{FILLED}6 {{ ip6 saddr {NEWCOMERS} }} jump refuse\n\
         \t\taccept\n\
         \t}}\n\
         \tchain refuse {{\n\
         \t\tlimit rate 6/minute burst 5 packets log prefix \"vaultberry refused: \"\n\
         \t\tdrop\n\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy drop;\n\
         \t}}\n\
         \tchain output {{\n\
         \t\ttype filter hook output priority filter; policy drop;\n\
         \t\toif \"lo\" accept\n\
         \t\tct state established,related accept\n\
         \t\tmeta l4proto {{ icmp, ipv6-icmp, igmp }} accept\n\
         \t\tmeta skuid \"systemd-network\" udp dport {{ 67, 547 }} accept\n\
         \t\tmeta skuid \"systemd-resolve\" meta l4proto {{ tcp, udp }} th dport 53 accept\n\
         \t\tmeta skuid \"systemd-timesync\" udp dport 123 accept\n\
         \t\tmeta skuid \"_apt\" tcp dport {{ {packages} }} accept\n\
         \t\tmeta skuid {first}-{last} tcp dport {{ {sources} }} accept\n\
         {people}\
         \t\tlimit rate 6/minute burst 5 packets log prefix \"vaultberry kept in: \" flags skuid\n\
         \t\treject with icmpx admin-prohibited\n\
         \t}}\n\
         }}\n",
        head = head("[access]"),
        sets = sets(&config.access),
        never = never(&config.access),
        packages = list(&out.packages),
        first = apart::NUMBERS.start(),
        last = apart::NUMBERS.end(),
        sources = list(&out.sources),
        people = people(config, &out),
    )
}

/// Where programs may go to, in words: everything but names, time and addresses by DHCP.
pub fn goes_out(config: &Config) -> Vec<String> {
    let out = Out::of(config);
    let people = if config.access.strict {
        let others = if out.others.is_empty() { String::new() } else { format!(", {}", list(&out.others)) };
        format!("TCP {}, {}{others}: root", list(&out.packages), list(&out.sources))
    } else {
        format!("everywhere: root and {}", config.admin.user)
    };
    vec![format!("TCP {}: packages", list(&out.packages)), format!("TCP {}: sources", list(&out.sources)), people]
}

fn list(ports: &BTreeSet<u16>) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// The ports that the config speaks of.
struct Out {
    /// Of servers with packages.
    packages: BTreeSet<u16>,
    /// Of the sources, and of hosts that the way to them leads through.
    sources: BTreeSet<u16>,
    /// Of the store and of mail servers.
    others: BTreeSet<u16>,
}

impl Out {
    fn of(config: &Config) -> Self {
        let mirror = [&config.image.mirror, &config.image.proxy].into_iter().filter_map(|address| port(address.as_deref()?));
        let jumps = config.sources.iter().filter_map(|source| Some(source.jump.as_ref()?.port));
        let servers = config.report.iter().flat_map(|report| &report.servers).map(|server| server.port);
        let store = config.offsite.iter().filter_map(|offsite| port(offsite.endpoint.as_deref()?));
        Self {
            packages: [80, 443].into_iter().chain(mirror).collect(),
            // The usual port too: who is asked for keys (`source trust --at`) isn't in the config yet.
            sources: config.sources.iter().map(|source| source.port).chain(jumps).chain([22]).collect(),
            others: servers.chain(store).collect(),
        }
    }
}

/// The port that an http or https address names, if it names one.
fn port(address: &str) -> Option<u16> {
    let host = address.split_once("://")?.1.split('/').next()?;
    host.rsplit_once(':')?.1.parse().ok()
}

/// What root and the admin reach.
fn people(config: &Config, out: &Out) -> String {
    if !config.access.strict {
        let admin = &config.admin.user;
        return format!("\t\tmeta skuid {{ \"root\", \"{admin}\" }} accept\n");
    }
    let ports: BTreeSet<u16> = out.packages.iter().chain(&out.sources).chain(&out.others).copied().collect();
    format!("\t\tmeta skuid \"root\" tcp dport {{ {} }} accept\n", list(&ports))
}

fn sets(access: &Access) -> String {
    let constant = |name: &str, version: u8, networks: &[Network]| {
        let of_it: Vec<String> =
            networks.iter().filter(|network| network.is_v4() == (version == 4)).map(Network::to_string).collect();
        let elements = if of_it.is_empty() { String::new() } else { format!("\t\telements = {{ {} }}\n", of_it.join(", ")) };
        format!("\tset {name}{version} {{\n\t\ttype ipv{version}_addr\n\t\tflags interval\n{elements}\t}}\n")
    };
    let filled = |version: u8| {
        format!(
            "\tset {FILLED}{version} {{\n\t\ttype ipv{version}_addr\n\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 2m\n\t}}\n"
        )
    };
    [4, 6]
        .iter()
        .map(|version| {
            constant("from", *version, &access.ssh_from) + &constant("never_ban", *version, &access.never_ban) + &filled(*version)
        })
        .collect()
}

fn never(access: &Access) -> &'static str {
    if access.never_ban.is_empty() { "" } else { "\t\tip saddr @never_ban4 accept\n\t\tip6 saddr @never_ban6 accept\n" }
}

/// Holds the rules that the kernel goes by against those that it makes of the config's, in a network namespace that goes at
/// once.
pub(super) fn check(config: &Config) -> Vec<Rule> {
    let list = "nft --stateless list table inet vaultberry";
    let load = format!("printf %s \"$1\" | nft -f - && {list}");
    let mut loading = process::tool("unshare");
    loading.args(["--net", "sh", "-c", &load, "sh", &rules(config)]);
    let wanted = process::output(&mut loading, "letting nft read the configuration's rules");
    let found = ask("nft", &["--stateless", "list", "table", "inet", "vaultberry"], ask::USUAL);
    let unknown = |fix: &str| vec![Rule::new("firewall: rules", "loaded", None, fix)];
    match (wanted, found) {
        (Ok(wanted), Some(found)) => compare(&String::from_utf8_lossy(&wanted), &found.text),
        (Err(error), _) => unknown(&format!("mend this: {error:#}")),
        (_, None) => unknown("install the package nftables"),
    }
}

/// A row for each set and chain, and for the table itself, also for those that nobody wants.
fn compare(wanted: &str, found: &str) -> Vec<Rule> {
    let (wanted, found) = (blocks(wanted), blocks(found));
    let row = |name: &str, state: String| {
        Rule::new(&format!("firewall: {name}"), "as configured", Some(state), "`vaultberry harden apply`")
    };
    let kept = wanted.iter().filter(|(name, _)| !name.starts_with(&format!("set {FILLED}"))).map(|(name, wanted)| {
        let state = match found.iter().find(|(other, _)| other == name) {
            None => "missing".to_owned(),
            Some((_, lines)) if lines == wanted => "as configured".to_owned(),
            Some((_, lines)) => difference(wanted, lines),
        };
        row(name, state)
    });
    let more = found.iter().filter(|(name, _)| wanted.iter().all(|(other, _)| other != name));
    kept.chain(more.map(|(name, _)| row(name, "not from the configuration".to_owned()))).collect()
}

fn difference(wanted: &[&str], found: &[&str]) -> String {
    let more = found.iter().find(|line| !wanted.contains(line)).map(|line| format!("has `{line}`"));
    let less = wanted.iter().find(|line| !found.contains(line)).map(|line| format!("lacks `{line}`"));
    more.or(less).unwrap_or_else(|| "in another order".to_owned())
}

/// The sets and chains of a table as `nft list` prints it, name and lines, behind what stands in the table itself.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut blocks: Vec<(&str, Vec<&str>)> = vec![("table", Vec::new())];
    for line in text.lines() {
        match line.strip_prefix('\t') {
            Some(inner) if inner.starts_with('\t') => {
                if let Some((_, lines)) = blocks.last_mut() {
                    lines.push(inner.trim());
                }
            }
            Some(head) if head.ends_with('{') => blocks.push((head.trim_end_matches('{').trim(), Vec::new())),
            Some("}") | None => {}
            // As `flags dormant`, which takes all of it out of force.
            Some(line) => blocks[0].1.push(line),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::{compare, port, rules};
    use crate::config::{Config, EXAMPLE, parse};
    use crate::process;

    fn config(access: &str) -> Config {
        parse(&EXAMPLE.replace("\n[access]\n", &format!("\n[access]\n{access}\n"))).unwrap()
    }

    #[test]
    fn strict_keeps_the_admin_in_and_root_to_the_ports_of_the_config() {
        assert!(rules(&config("")).contains("meta skuid { \"root\", \"admin\" } accept"));
        let rules = rules(&config("strict = true"));
        assert!(
            rules.contains("meta skuid \"root\" tcp dport { 22, 80, 443 } accept") && !rules.contains("\"admin\""),
            "{rules}"
        );
    }

    /// What the kernel makes of rules, in a network namespace of their own.
    fn loaded(rules: &str) -> String {
        // Users that this machine needn't have.
        let rules = ["systemd-network", "systemd-resolve", "systemd-timesync", "_apt", "admin"]
            .iter()
            .fold(rules.to_owned(), |rules, name| rules.replace(&format!("\"{name}\""), "\"nobody\""));
        let twice = "nft -f /dev/stdin && nft --stateless list ruleset";
        let mut command = process::tool("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", twice]);
        let text = process::output_with_input(&mut command, "loading the rules", format!("{rules}{rules}").as_bytes()).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn nft_takes_the_rules_also_a_second_time_and_lists_all_of_them() {
        let own =
            ["", "strict = true", "ssh_from = [\"192.168.1.0/24\"]\nnever_ban = [\"192.168.1.7\"]", "ssh_from = [\"::/0\"]"];
        let listed = own.map(|access| loaded(&rules(&config(access))));
        for (number, one) in listed.iter().enumerate() {
            let names: Vec<String> = compare(one, one).into_iter().map(|rule| rule.name).collect();
            let sets = ["set from4", "set never_ban4", "set from6", "set never_ban6"];
            let chains = ["chain input", "chain ssh", "chain refuse", "chain forward", "chain output"];
            let expected = ["table"].into_iter().chain(sets).chain(chains).map(|name| format!("firewall: {name}"));
            assert_eq!(names, expected.collect::<Vec<_>>());
            // Rules that differ are listed otherwise, and only they are.
            for (other, two) in listed.iter().enumerate() {
                let kept = compare(one, two).iter().all(|rule| rule.kept() == Some(true));
                assert_eq!(kept, number == other, "{one}{two}");
            }
        }
    }

    #[test]
    fn ports_stand_in_addresses() {
        let found = ["https://s3.example.org", "http://[::1]:3900", "http://mirror.lan:3142/debian"].map(port);
        assert_eq!(found, [None, Some(3900), Some(3142)]);
    }

    #[test]
    fn each_chain_that_differs_is_told_and_what_the_kernel_counts_is_not() {
        let wanted = "table inet vaultberry {\n\tset newcomers4 {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input {\n\t\tpolicy drop;\n\t\tdrop\n\t}\n\n\tchain ssh {\n\t\taccept\n\t}\n}\n";
        let states = |found: &str| compare(wanted, found).into_iter().map(|rule| rule.found.unwrap()).collect::<Vec<_>>();
        let counted = wanted.replace("type ipv4_addr", "type ipv4_addr\n\t\telements = { 10.0.0.1 }");
        let good = "as configured";
        assert_eq!(states(&counted), [good; 3]);
        assert_eq!(states(&wanted.replace("\t\tdrop\n", "\t\taccept\n")), [good, "has `accept`", good]);
        assert_eq!(states(&wanted.replace("\t\tdrop\n", "")), [good, "lacks `drop`", good]);
        assert_eq!(
            states(&wanted.replace("vaultberry {\n", "vaultberry {\n\tflags dormant\n")),
            ["has `flags dormant`", good, good]
        );
        let more = wanted.replace("\tchain ssh", "\tchain first {\n\t\taccept\n\t}\n\n\tchain ssh");
        assert_eq!(states(&more), [good, good, good, "not from the configuration"]);
        assert_eq!(states(""), ["missing"; 3]);
    }
}
