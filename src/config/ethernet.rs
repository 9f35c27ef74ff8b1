//! `[ethernet]`: the appliance's address on the cable.

use std::net::IpAddr;

use toml::de::DeTable;

use super::error::{Fault, show};
use super::network::{Interface, interface};
use super::read::{Element, Report, Section};
use super::schema;
use super::section::distinct;

/// `[ethernet]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// The appliance's addresses, each with its network's length; empty for DHCP and router advertisements.
    pub addresses: Vec<Interface>,
    /// The routers; only with addresses, and each in a network of theirs or link-local.
    pub gateways: Vec<IpAddr>,
    /// The name servers; empty for those that DHCP names.
    pub name_servers: Vec<IpAddr>,
}

pub(super) fn ethernet(report: &mut Report<'_>, root: &DeTable<'_>) -> Ethernet {
    let section = Section::once(report, root, &schema::ETHERNET);
    let addresses = section.list(report, "addresses", interface);
    let gateways = section.list(report, "gateways", host_address);
    let name_servers = section.list(report, "name_servers", host_address);
    if addresses.sound() {
        for Element { value, path, at } in &gateways.value {
            let link_local = matches!(value, IpAddr::V6(address) if address.is_unicast_link_local());
            if !link_local && !addresses.value.iter().any(|address| address.value.network().holds(*value)) {
                let hint = "name a router in the network of one of the addresses, as in addresses = [\"192.168.1.20/24\"] and \
                            gateways = [\"192.168.1.1\"]";
                report.add(at, path.clone(), Fault::new("lies in the network of none of the addresses", hint));
            }
        }
        if section.sets("addresses") && name_servers.sound() && !addresses.value.is_empty() && name_servers.value.is_empty() {
            let hint = "add name_servers = [\"192.168.1.1\"], as a rule the router";
            let fault = Fault::new("nobody would say what servers' names mean: without DHCP there are no name servers", hint);
            report.add(&addresses.at, section.path("name_servers"), fault);
        }
    }
    Ethernet {
        addresses: distinct(report, addresses.value),
        gateways: distinct(report, gateways.value),
        name_servers: distinct(report, name_servers.value),
    }
}

/// An address that a host can have.
fn host_address(text: &str) -> Result<IpAddr, Fault> {
    let address: Option<IpAddr> = text.parse().ok();
    address.filter(|address| !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()).ok_or_else(|| {
        Fault::new(
            format!("{} is no host's IP address", show(text)),
            "write an address alone, as in \"192.168.1.1\" or \"fe80::1\"",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::Ethernet;
    use crate::config::{EXAMPLE, parse};

    fn read(lines: &str) -> Result<Ethernet, String> {
        parse(&EXAMPLE.replace("\n[ethernet]\n", &format!("\n[ethernet]\n{lines}\n")))
            .map(|config| config.ethernet)
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn an_address_of_its_own_or_dhcp() {
        assert_eq!(read("").unwrap(), Ethernet::default());
        let lines = "addresses = [\"192.168.1.20/24\", \"fd00::20/64\"]\ngateways = [\"192.168.1.1\", \"fe80::1\"]\nname_servers = [\"192.168.1.1\"]";
        let read = read(lines).unwrap();
        assert_eq!(read.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.1.20/24", "fd00::20/64"]);
        assert_eq!((read.gateways.len(), read.name_servers.len()), (2, 1));
    }

    #[test]
    fn what_would_reach_nobody_is_refused() {
        for (lines, told) in [
            ("addresses = [\"192.168.1.20\"]", "ethernet.addresses[1]: \"192.168.1.20\" has no network's length"),
            ("addresses = [\"192.168.1.0/24\"]", "ethernet.addresses[1]: \"192.168.1.0/24\" is a network, not an address in one"),
            ("addresses = [\"127.0.0.2/8\"]", "ethernet.addresses[1]: \"127.0.0.2/8\" is no address that others reach"),
            ("addresses = [\"10.0.0.2/8\"]", "ethernet.name_servers: nobody would say what servers' names mean"),
            ("gateways = [\"192.168.1.1\"]", "ethernet.gateways[1]: lies in the network of none of the addresses"),
            ("name_servers = [\"0.0.0.0\"]", "ethernet.name_servers[1]: \"0.0.0.0\" is no host's IP address"),
            ("name_servers = [\"dns.lan\"]", "ethernet.name_servers[1]: \"dns.lan\" is no host's IP address"),
            ("name_servers = [\"9.9.9.9\", \"9.9.9.9\"]", "ethernet.name_servers[2]: stands twice in this list"),
        ] {
            let error = read(lines).unwrap_err();
            assert!(error.starts_with(told), "{lines}: {error}");
            assert!(error.contains("\n  hint: "), "{error}");
        }
    }
}
