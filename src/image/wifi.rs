//! The wireless network, as `wpa_supplicant` and systemd-networkd read it: `wpa_supplicant.conf(5)`, systemd.network(5).

use anyhow::{Result, bail};
use zeroize::Zeroizing;

use crate::config::{Config, Wifi};
use crate::secret::Secret;

/// The settings of `wpa_supplicant`, with the passphrase in them.
pub const SUPPLICANT: &str = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
/// What is started when the radio is there, and what starts it: not the target, which would wait for a radio that isn't.
pub const UNIT: (&str, &str) = ("sys-subsystem-net-devices-wlan0.device", "wpa_supplicant@wlan0.service");
/// The unit that the package starts by itself, for programs that ask for networks: there are none.
pub const UNUSED: &str = "etc/systemd/system/wpa_supplicant.service";

const NETWORK: &str = "etc/systemd/network/20-wifi.network";
const SERVICE: &str = "etc/systemd/system/wpa_supplicant@.service.d/vaultberry.conf";

/// The files without secrets, by their paths in the tree; none without a network to join.
pub fn files(config: &Config) -> Vec<(&'static str, String)> {
    if config.wifi.is_none() {
        return Vec::new();
    }
    // The cable is taken where there is one; a lost beacon is no lost network.
    let time = if config.appliance.time_servers.is_empty() { "" } else { "UseNTP=no\n" };
    let network = format!(
        "[Match]\nName=wlan0\n\n[Network]\nDHCP=yes\nIgnoreCarrierLoss=10s\n\n\
         [DHCPv4]\nRouteMetric=2048\n{time}\n[DHCPv6]\n{time}\n[IPv6AcceptRA]\nRouteMetric=2048\n"
    );
    vec![(NETWORK, network), (SERVICE, String::from(include_str!("../../image/wpa_supplicant.conf")))]
}

/// The settings of `wpa_supplicant` for a network with this passphrase, or with a key of 64 hexadecimal digits.
///
/// # Errors
/// It is neither.
pub fn supplicant(wifi: &Wifi, passphrase: &Secret<Vec<u8>>) -> Result<Secret<Vec<u8>>> {
    let text = passphrase.expose();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let is_key = text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit);
    let is_phrase = (8..=63).contains(&text.len()) && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    if !is_key && !is_phrase {
        bail!(
            "credentials/wifi in the secrets folder isn't the passphrase of a network\n\
             hint: write 8 to 63 letters, digits and signs into it, on one line, or a key of 64 hexadecimal digits"
        );
    }
    let quote = if is_key { "" } else { "\"" };
    let ssid = crate::digest::hex(wifi.ssid.as_bytes());
    let mut settings = Zeroizing::new(Vec::with_capacity(1024));
    settings.extend(
        format!(
            "country={}\nctrl_interface=DIR=/run/wpa_supplicant\n\nnetwork={{\n\t# {}\n\tssid={ssid}\n\tscan_ssid=1\n\
             \tkey_mgmt=WPA-PSK SAE\n\tieee80211w=1\n\tpsk={quote}",
            wifi.country,
            wifi.ssid.escape_debug()
        )
        .bytes(),
    );
    settings.extend_from_slice(text);
    settings.extend(format!("{quote}\n}}\n").bytes());
    Ok(Secret::new(std::mem::take(&mut *settings)))
}

#[cfg(test)]
mod tests {
    use super::supplicant;
    use crate::config::Wifi;
    use crate::secret::Secret;

    fn of(passphrase: &str) -> Result<String, String> {
        let wifi = Wifi { country: "CH".into(), ssid: "Grün\n".into() };
        let settings = supplicant(&wifi, &Secret::new(passphrase.as_bytes().to_vec())).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(settings.expose().clone()).unwrap())
    }

    #[test]
    fn a_passphrase_or_a_key_is_taken() {
        let text = of("correct \"horse\" #1\n").unwrap();
        assert!(text.starts_with("country=CH\n") && text.contains("\t# Grün\\n\n\tssid=4772c3bc6e0a\n"), "{text}");
        assert!(text.ends_with("\tpsk=\"correct \"horse\" #1\"\n}\n"), "{text}");
        assert!(of(" with blanks \r\n").unwrap().ends_with("\tpsk=\" with blanks \"\n}\n"));
        let key = "0f".repeat(32);
        assert!(of(&key).unwrap().ends_with(&format!("\tpsk={key}\n}}\n")));
        for wrong in ["", "short", "two lines\nof it", "ünicode passphrase", &"x".repeat(64)] {
            let error = of(wrong).unwrap_err();
            assert!(error.starts_with("credentials/wifi in the secrets folder isn't") && error.contains("\nhint: "), "{error}");
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
    }
}
