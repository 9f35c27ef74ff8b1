//! What depends on the region that the appliance's people come from: locale and keyboard.

use std::fmt;

use super::error::{Fault, show};

/// What a language's rules are called where there is none: as glibc has it by itself.
pub const PLAIN_LOCALE: &str = "C.UTF-8";

/// A keyboard's layout, as XKB names it (setxkbmap(1)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keymap {
    /// As `de`.
    pub layout: String,
    /// As `fr` in `ch(fr)`; empty for the layout as such.
    pub variant: String,
}

impl Default for Keymap {
    /// That of the kernel itself.
    fn default() -> Self {
        Self { layout: String::from("us"), variant: String::new() }
    }
}

impl fmt::Display for Keymap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.layout)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "({})", self.variant) }
    }
}

pub(super) fn keymap(text: &str) -> Result<Keymap, Fault> {
    let (layout, variant) = text.strip_suffix(')').and_then(|text| text.split_once('(')).unwrap_or((text, ""));
    let proper =
        |part: &str| part.len() <= 32 && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let is_whole = !layout.is_empty() && text.ends_with(')') != variant.is_empty();
    if is_whole && proper(layout) && proper(variant) && layout.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Ok(Keymap { layout: String::from(layout), variant: String::from(variant) });
    }
    let hint = "write a layout as XKB names it, as in \"de\", or with a variant \"ch(fr)\"";
    Err(Fault::new(format!("{} is no keyboard's layout", show(text)), hint))
}

/// A locale in UTF-8, as `de_CH.UTF-8`.
pub(super) fn locale(text: &str) -> Result<String, Fault> {
    let name = text.strip_suffix(".UTF-8");
    let is_proper = name.is_some_and(|name| {
        let (language, country) = name.split_once('_').unwrap_or((name, "XX"));
        (2..=3).contains(&language.len())
            && language.bytes().all(|byte| byte.is_ascii_lowercase())
            && country.len() == 2
            && country.bytes().all(|byte| byte.is_ascii_uppercase())
    });
    if is_proper || text == PLAIN_LOCALE {
        return Ok(String::from(text));
    }
    let hint = "write language, country and .UTF-8, as in \"de_CH.UTF-8\", or \"C.UTF-8\"";
    Err(Fault::new(format!("{} is no locale in UTF-8", show(text)), hint))
}

#[cfg(test)]
mod tests {
    use crate::config::{EXAMPLE, parse};

    fn read(lines: &str) -> Result<(String, String, Vec<String>), String> {
        parse(&EXAMPLE.replace("\n[appliance]\n", &format!("\n[appliance]\n{lines}\n")))
            .map(|config| (config.appliance.locale, config.appliance.keymap.to_string(), config.image.packages))
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn what_differs_from_the_plain_brings_its_packages() {
        let plain = ("C.UTF-8".into(), "us".into(), vec![]);
        assert_eq!(read("").unwrap(), plain);
        assert_eq!(read("locale = \"C.UTF-8\"\nkeymap = \"us\"").unwrap(), plain);
        let swiss = ("fr_CH.UTF-8".into(), "ch(fr)".into(), vec!["locales".into(), "console-setup".into()]);
        assert_eq!(read("locale = \"fr_CH.UTF-8\"\nkeymap = \"ch(fr)\"").unwrap(), swiss);
    }

    #[test]
    fn what_is_none_is_refused() {
        for (line, told) in [
            ("keymap = \"\"", "appliance.keymap: \"\" is no keyboard's layout"),
            ("keymap = \"de()\"", "appliance.keymap: \"de()\" is no keyboard's layout"),
            ("keymap = \"de nodeadkeys\"", "appliance.keymap: \"de nodeadkeys\" is no keyboard's layout"),
            ("locale = \"de_CH\"", "appliance.locale: \"de_CH\" is no locale in UTF-8"),
            ("locale = \"de_CH.ISO-8859-1\"", "appliance.locale: \"de_CH.ISO-8859-1\" is no locale in UTF-8"),
            ("locale = \"german.UTF-8\"", "appliance.locale: \"german.UTF-8\" is no locale in UTF-8"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.starts_with(told), "{line}: {error}");
            assert!(error.contains("\n  hint: "), "{error}");
        }
    }
}
