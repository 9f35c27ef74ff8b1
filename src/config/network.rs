//! IP networks as they are written in the file: `192.168.1.0/24`, `fd00::/8`, or one address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{Fault, show};

/// A network in CIDR notation (RFC 4632, RFC 4291 section 2.3): no bit is set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// 0 to 32, or to 128.
    prefix: u8,
}

impl Network {
    pub(super) const fn v4(a: u8, b: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), prefix }
    }

    pub(super) const fn v6(first: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether its addresses have 32 bits.
    pub fn is_v4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether all of `other` lies in it.
    pub fn contains(self, other: Self) -> bool {
        self.is_v4() == other.is_v4() && self.prefix <= other.prefix && masked(other.address, self.prefix) == self.address
    }

    /// Whether this address lies in it. An IPv4 address in IPv6's clothes (`::ffff:192.0.2.7`) is one of IPv4.
    pub fn holds(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.contains(Self { address, prefix: bits(address) })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == bits(self.address) {
            self.address.fmt(formatter)
        } else {
            write!(formatter, "{}/{}", self.address, self.prefix)
        }
    }
}

/// A host's address, and the length of its network's prefix: `192.168.1.20/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    address: IpAddr,
    prefix: u8,
}

impl Interface {
    /// The network that it lies in.
    pub fn network(self) -> Network {
        Network { address: masked(self.address, self.prefix), prefix: self.prefix }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

pub(super) fn interface(text: &str) -> Result<Interface, Fault> {
    let hint = "write address and network's length, as in \"192.168.1.20/24\"";
    let Some((first, length)) = text.split_once('/') else {
        return Err(Fault::new(format!("{} has no network's length", show(text)), hint));
    };
    let address: Option<IpAddr> = first.parse().ok();
    let prefix: Option<u8> = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(address), Some(prefix)) = (address, prefix) else {
        return Err(Fault::new(format!("{} is no address in a network", show(text)), hint));
    };
    if prefix == 0 || prefix > bits(address) || address.to_canonical() != address {
        return Err(Fault::new(format!("{} is no address in a network", show(text)), hint));
    }
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Err(Fault::new(format!("{} is no address that others reach", show(text)), hint));
    }
    let host = bits(address) - prefix;
    let last = masked(address, prefix) == address || is_broadcast(address, prefix);
    if last && host > 1 {
        return Err(Fault::new(format!("{} is a network, not an address in one", show(text)), hint));
    }
    Ok(Interface { address, prefix })
}

/// Whether it means all hosts of its network (RFC 919).
fn is_broadcast(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(address) => u32::MAX.checked_shr(u32::from(prefix)).is_some_and(|host| address.to_bits() & host == host),
        IpAddr::V6(_) => false,
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with nothing set behind its first `prefix` bits.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let behind = u32::from(bits(address) - prefix);
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(u32::MAX.checked_shl(behind).unwrap_or(0) & address.to_bits()).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(u128::MAX.checked_shl(behind).unwrap_or(0) & address.to_bits()).into(),
    }
}

pub(super) fn network(text: &str) -> Result<Network, Fault> {
    let wrong = || {
        let hint = "write an address or a network, as in \"192.168.1.0/24\", \"192.168.1.7\" or \"fd00::/8\"";
        Fault::new(format!("{} is not an IP network", show(text)), hint)
    };
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    // No packet has such an address.
    if address.to_canonical() != address {
        return Err(wrong());
    }
    let digits = |prefix: &str| prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = match prefix {
        None => bits(address),
        Some(prefix) => prefix.parse().ok().filter(|length| digits(prefix) && *length <= bits(address)).ok_or_else(wrong)?,
    };
    let network = Network { address: masked(address, prefix), prefix };
    if network.address == address {
        return Ok(network);
    }
    let message = format!("{} has bits behind its first {prefix}", show(text));
    Err(Fault::new(message, format!("write \"{network}\" for the network, or \"{address}\" for the address")))
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn networks_and_addresses_are_read_and_shown_alike() {
        for text in ["192.168.1.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0", "192.0.2.7", "fd00::/8", "2001:db8::1", "fe80::/10"] {
            assert_eq!(network(text).unwrap().to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").unwrap().to_string(), "192.0.2.7");
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_to_write() {
        for text in ["", "lan", "192.168.1.0/33", "192.168.1.0/+8", "192.168.1.0/", "192.168.1/24", "::/129", "10.0.0.0-10.0.0.9"]
        {
            let fault = network(text).unwrap_err();
            assert!(fault.message.ends_with("is not an IP network"), "{text}: {}", fault.message);
        }
        let fault = network("192.168.1.7/24").unwrap_err();
        assert_eq!(fault.message, "\"192.168.1.7/24\" has bits behind its first 24");
        assert_eq!(fault.hint.unwrap(), "write \"192.168.1.0/24\" for the network, or \"192.168.1.7\" for the address");
    }

    #[test]
    fn networks_lie_in_larger_ones_of_their_kind() {
        let read = |text: &str| network(text).unwrap();
        assert!(read("10.0.0.0/8").contains(read("10.1.0.0/16")) && read("0.0.0.0/0").contains(read("10.0.0.0/8")));
        assert!(!read("10.1.0.0/16").contains(read("10.0.0.0/8")) && !read("::/0").contains(read("10.0.0.0/8")));
        assert!(read("192.168.1.0/24").holds("::ffff:192.168.1.7".parse().unwrap()));
        assert!(!read("192.168.1.0/24").holds("192.168.2.7".parse().unwrap()));
    }
}
