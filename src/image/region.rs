//! Locale and keyboard, as Debian's packages read them: `locales` and `console-setup`, which the config brings when either isn't
//! the plain one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::config::{Config, Keymap, PLAIN_LOCALE};

/// Where glibc looks for the locales that were made.
const ARCHIVE: &str = "usr/lib/locale/locale-archive";

/// What the packages would ask: answers for debconf (debconf-set-selections(1)).
pub fn answers(config: &Config) -> String {
    let locale = &config.appliance.locale;
    if locale == PLAIN_LOCALE {
        return String::new();
    }
    format!(
        "locales locales/locales_to_be_generated multiselect {locale} UTF-8\n\
         locales locales/default_environment_locale select {locale}\n"
    )
}

/// The keyboard (keyboard(5)), and that the initramfs is to have it, by their paths in the tree.
pub fn files(config: &Config) -> Vec<(&'static str, String)> {
    let keymap = &config.appliance.keymap;
    if *keymap == Keymap::default() {
        return Vec::new();
    }
    let Keymap { layout, variant } = keymap;
    let keyboard =
        format!("XKBMODEL=\"pc105\"\nXKBLAYOUT=\"{layout}\"\nXKBVARIANT=\"{variant}\"\nXKBOPTIONS=\"\"\nBACKSPACE=\"guess\"\n");
    vec![("etc/default/keyboard", keyboard), ("etc/initramfs-tools/conf.d/keymap", String::from("KEYMAP=y\n"))]
}

/// Where XKB lists its layouts and variants.
const LAYOUTS: &str = "usr/share/X11/xkb/rules/base.lst";

/// Shows that the tree has locale and keyboard.
///
/// # Errors
/// There is none of this name.
pub fn prove(config: &Config, tree: &Path) -> Result<()> {
    prove_locale(config, tree)?;
    prove_keymap(&config.appliance.keymap, tree)
}

fn prove_keymap(keymap: &Keymap, tree: &Path) -> Result<()> {
    if *keymap == Keymap::default() {
        return Ok(());
    }
    let path = tree.join(LAYOUTS);
    let list = fs::read_to_string(&path).with_context(|| format!("looking for the keymap {keymap} in {}", path.display()))?;
    let section = |name: &'static str| {
        let lines = list.lines().skip_while(move |line| *line != name).skip(1).take_while(|line| !line.starts_with('!'));
        lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
    };
    let Keymap { layout, variant } = keymap;
    let has_layout = section("! layout").any(|words| words.first() == Some(&layout.as_str()));
    let of_layout = format!("{layout}:");
    let has_variant = variant.is_empty() || section("! variant").any(|words| words == [variant.as_str(), of_layout.as_str()]);
    ensure!(
        has_layout && has_variant,
        "appliance.keymap: XKB has no layout {keymap}\nhint: xkeyboard-config(7) lists all, as de, us(intl) and ch(fr)"
    );
    Ok(())
}

fn prove_locale(config: &Config, tree: &Path) -> Result<()> {
    let locale = &config.appliance.locale;
    let Some(name) = locale.strip_suffix(".UTF-8").filter(|_| locale != PLAIN_LOCALE) else { return Ok(()) };
    let path = tree.join(ARCHIVE);
    let archive = fs::read(&path).with_context(|| format!("looking for the locale {locale} in {}", path.display()))?;
    let name = format!("{name}.utf8\0");
    ensure!(
        archive.windows(name.len()).any(|bytes| bytes == name.as_bytes()),
        "appliance.locale: Debian has no locale {locale}\nhint: /usr/share/i18n/SUPPORTED of its package `locales` lists all"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ARCHIVE, LAYOUTS, answers, files, prove};
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn the_plain_takes_nothing_and_the_rest_is_said_to_debian() {
        let plain = parse(EXAMPLE).unwrap();
        assert!(answers(&plain).is_empty() && files(&plain).is_empty());
        let swiss = EXAMPLE.replace("\n[appliance]\n", "\n[appliance]\nlocale = \"fr_CH.UTF-8\"\nkeymap = \"ch(fr)\"\n");
        let swiss = parse(&swiss).unwrap();
        assert!(answers(&swiss).starts_with("locales locales/locales_to_be_generated multiselect fr_CH.UTF-8 UTF-8\n"));
        assert!(files(&swiss)[0].1.contains("\nXKBLAYOUT=\"ch\"\nXKBVARIANT=\"fr\"\n"));

        let folder = tempfile::tempdir().unwrap();
        prove(&plain, folder.path()).unwrap();
        assert!(prove(&swiss, folder.path()).is_err());
        let archive = folder.path().join(ARCHIVE);
        fs::create_dir_all(archive.parent().unwrap()).unwrap();
        fs::write(&archive, "C.utf8\0de_CH.utf8\0").unwrap();
        let error = prove(&swiss, folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("appliance.locale: Debian has no locale fr_CH.UTF-8\nhint: "), "{error}");
        fs::write(&archive, "C.utf8\0fr_CH.utf8\0").unwrap();

        let list = folder.path().join(LAYOUTS);
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        for (layouts, known) in [
            ("! model\n  ch x\n! layout\n  de              German\n! variant\n  fr  ch: Swiss\n", false),
            ("! layout\n  ch              German\n! variant\n  fr  de: Swiss\n! option\n  fr ch: x\n", false),
            ("! layout\n  de  German\n  ch  Swiss\n\n! variant\n  fr  ch: Swiss (French)\n", true),
        ] {
            fs::write(&list, layouts).unwrap();
            let proven = prove(&swiss, folder.path()).map_err(|error| error.to_string());
            assert_eq!(proven.is_ok(), known, "{layouts}: {proven:?}");
        }
    }
}
