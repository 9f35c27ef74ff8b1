//! `[wifi]`: the wireless network that the appliance joins, and where it stands.

use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Report, Section};
use super::schema;

/// `[wifi]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wifi {
    /// Where the appliance stands, two capital letters (ISO 3166-1): says which channels it may use.
    pub country: String,
    /// The network's name: 1 to 32 bytes (IEEE 802.11).
    pub ssid: String,
}

/// The packages that it takes.
pub(super) const PACKAGES: [&str; 2] = ["wpasupplicant", "wireless-regdb"];

/// Reads which network to join; none without the section.
pub(super) fn wifi(report: &mut Report<'_>, root: &DeTable<'_>) -> Option<Wifi> {
    let section = Section::once(report, root, &schema::WIFI);
    if !section.exists() {
        return None;
    }
    let country = section.required(report, "country", country);
    let ssid = section.required(report, "ssid", ssid);
    Some(Wifi { country: country?, ssid: ssid? })
}

fn country(text: &str) -> Result<String, Fault> {
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(String::from(text));
    }
    Err(Fault::new(format!("{} is no country's code", show(text)), "write two capital letters, as in \"CH\", \"DE\" or \"US\""))
}

fn ssid(text: &str) -> Result<String, Fault> {
    if (1..=32).contains(&text.len()) && !text.contains('\0') {
        return Ok(String::from(text));
    }
    let hint = "write the network's name as it is, 1 to 32 bytes of UTF-8";
    Err(Fault::new(format!("{} is no network's name", show(text)), hint))
}

#[cfg(test)]
mod tests {
    use super::Wifi;
    use crate::config::{EXAMPLE, parse};

    fn read(lines: &str) -> Result<(Option<Wifi>, Vec<String>), String> {
        parse(&format!("{EXAMPLE}\n{lines}\n"))
            .map(|config| (config.wifi, config.image.packages))
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn a_network_brings_its_packages() {
        let wifi = Wifi { country: "CH".into(), ssid: "Zum grünen \"Baum\"".into() };
        let (read, packages) = read("[wifi]\ncountry = \"CH\"\nssid = 'Zum grünen \"Baum\"'").unwrap();
        assert_eq!((read, packages.iter().map(String::as_str).collect()), (Some(wifi), super::PACKAGES.to_vec()));
    }

    #[test]
    fn what_no_radio_takes_is_refused() {
        for (lines, told) in [
            ("[wifi]\nssid = \"home\"", "wifi.country: is missing"),
            ("[wifi]\ncountry = \"CH\"", "wifi.ssid: is missing"),
            ("[wifi]\ncountry = \"ch\"\nssid = \"home\"", "wifi.country: \"ch\" is no country's code"),
            ("[wifi]\ncountry = \"CH\"\nssid = \"\"", "wifi.ssid: \"\" is no network's name"),
            ("[wifi]\ncountry = \"CH\"\nssid = \"123456789012345678901234567890123\"", "wifi.ssid: \"123456789012345678901234"),
            ("[wifi]\ncountry = \"CH\"\nssid = \"home\"\npsk = \"x\"", "wifi.psk: unknown setting"),
        ] {
            let error = read(lines).unwrap_err();
            assert!(error.starts_with(told), "{lines}: {error}");
            assert!(error.contains("\n  hint: "), "{error}");
        }
    }
}
