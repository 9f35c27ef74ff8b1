//! What the config says of the network, as the files that systemd and apt read: systemd.network(5), timesyncd.conf(5),
//! apt.conf(5).

use std::fmt::Write as _;

use crate::config::Config;

/// The cable's settings.
pub const ETHERNET: &str = "etc/systemd/network/10-ethernet.network";
/// Who is asked for the time.
pub const TIME: &str = "etc/systemd/timesyncd.conf.d/vaultberry.conf";
/// The proxy for packages.
pub const PROXY: &str = "etc/apt/apt.conf.d/54vaultberry-proxy";

/// The files, by their paths in the tree.
pub fn files(config: &Config) -> Vec<(&'static str, String)> {
    let time = &config.appliance.time_servers;
    let time = (!time.is_empty()).then(|| (TIME, format!("[Time]\nNTP={}\nFallbackNTP=\n", time.join(" "))));
    let proxy = config.image.proxy.as_ref();
    let proxy = proxy.map(|proxy| (PROXY, format!("Acquire::http::Proxy \"{proxy}\";\nAcquire::https::Proxy \"{proxy}\";\n")));
    [Some((ETHERNET, ethernet(config))), time, proxy].into_iter().flatten().collect()
}

fn ethernet(config: &Config) -> String {
    let ethernet = &config.ethernet;
    // Cables only: no bridges, tunnels and the like.
    let mut text = String::from("[Match]\nType=ether\nKind=!*\n\n[Network]\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a string can't fail");
    };
    line("DHCP", if ethernet.addresses.is_empty() { &"yes" } else { &"no" });
    ethernet.addresses.iter().for_each(|address| line("Address", address));
    ethernet.gateways.iter().for_each(|gateway| line("Gateway", gateway));
    ethernet.name_servers.iter().for_each(|server| line("DNS", server));
    // What the config names isn't mixed with what a network offers by itself.
    let mut own = Vec::new();
    if !ethernet.name_servers.is_empty() {
        own.push("UseDNS=no\n");
    }
    if !config.appliance.time_servers.is_empty() {
        own.push("UseNTP=no\n");
    }
    if !own.is_empty() {
        let own = own.concat();
        write!(text, "\n[DHCPv4]\n{own}\n[DHCPv6]\n{own}").expect("writing to a string can't fail");
        if !ethernet.name_servers.is_empty() {
            text += "\n[IPv6AcceptRA]\nUseDNS=no\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::files;
    use crate::config::{EXAMPLE, parse};

    fn of(lines: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let text = lines.iter().fold(EXAMPLE.to_owned(), |text, (section, lines)| {
            text.replace(&format!("\n[{section}]\n"), &format!("\n[{section}]\n{lines}\n"))
        });
        files(&parse(&text).unwrap())
    }

    #[test]
    fn without_a_word_the_network_says_all() {
        let dhcp = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n";
        assert_eq!(of(&[]), [(super::ETHERNET, dhcp.to_owned())]);
    }

    #[test]
    fn what_the_config_names_is_not_mixed_with_what_is_offered() {
        let files = of(&[
            ("ethernet", "addresses = [\"192.168.1.20/24\"]\ngateways = [\"192.168.1.1\"]\nname_servers = [\"192.168.1.1\"]"),
            ("appliance", "time_servers = [\"ntp.lan\", \"192.168.1.1\"]"),
            ("image", "proxy = \"http://proxy.lan:3128\""),
        ]);
        let text = |path: &str| files.iter().find(|(known, _)| *known == path).unwrap().1.as_str();
        let fixed = "DHCP=no\nAddress=192.168.1.20/24\nGateway=192.168.1.1\nDNS=192.168.1.1\n\n[DHCPv4]\nUseDNS=no\nUseNTP=no\n";
        assert!(text(super::ETHERNET).contains(fixed), "{files:?}");
        assert_eq!(text(super::TIME), "[Time]\nNTP=ntp.lan 192.168.1.1\nFallbackNTP=\n");
        assert!(text(super::PROXY).starts_with("Acquire::http::Proxy \"http://proxy.lan:3128\";\n"));
    }
}
