//! From text to a checked [`Config`].

use toml::de::DeTable;

use super::error::Errors;
use super::read::{Report, report_unknown_sections};
use super::{
    Appliance, Config, Keymap, PLAIN_LOCALE, PostgresqlFormat, Source, Wifi, access, ethernet, monitoring, offsite, report,
    section, source, updates, wifi,
};

/// Checks the text of an `appliance.toml`.
///
/// # Errors
///
/// With everything that is wrong in it.
pub fn parse(text: &str) -> Result<Config, Errors> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let root = root.get_ref();
    let mut mistakes = Report::new(text, &errors);
    report_unknown_sections(&mut mistakes, root);
    let appliance = section::appliance(&mut mistakes, root);
    let admin = section::admin(&mut mistakes, root);
    let access = access::access(&mut mistakes, root);
    let ethernet = ethernet::ethernet(&mut mistakes, root);
    let wifi = wifi::wifi(&mut mistakes, root);
    let mut image = section::image(&mut mistakes, root);
    let unlock = section::unlock(&mut mistakes, root);
    let disk = section::disk(&mut mistakes, root);
    let backup = section::backup(&mut mistakes, root);
    let updates = updates::updates(&mut mistakes, root, &backup);
    let recipients = offsite::recipients(&mut mistakes, root);
    let offsite = offsite::offsite(&mut mistakes, root, &appliance.hostname);
    let report = report::report(&mut mistakes, root);
    let ping = monitoring::ping(&mut mistakes, root);
    let metrics = monitoring::metrics(&mut mistakes, root);
    let sources = source::sources(&mut mistakes, root, &backup);
    if let Some(errors) = mistakes.into_errors() {
        return Err(errors);
    }
    image.packages.extend(needed(&appliance, wifi.as_ref(), &sources, &image.packages));
    Ok(Config {
        appliance,
        admin,
        access,
        ethernet,
        wifi,
        image,
        unlock,
        disk,
        backup,
        updates,
        recipients,
        offsite,
        report,
        ping,
        metrics,
        sources,
        text: text.to_owned(),
    })
}

/// The packages that settings bring, beside those that the file names: for language, keyboard and radio, and to read dumps with.
fn needed(appliance: &Appliance, wifi: Option<&Wifi>, sources: &[Source], have: &[String]) -> Vec<String> {
    let custom = |source: &Source| !source.postgresql.is_empty() && source.dumps.postgresql_format == PostgresqlFormat::Custom;
    let sqlite = |source: &Source| !source.dumps.sqlite.is_empty();
    let settings = [
        ("locales", appliance.locale != PLAIN_LOCALE),
        ("console-setup", appliance.keymap != Keymap::default()),
        ("postgresql-client", sources.iter().any(custom)),
        ("sqlite3", sources.iter().any(sqlite)),
    ];
    let radio = wifi::PACKAGES.map(|name| (name, wifi.is_some()));
    let wanted = settings.into_iter().chain(radio);
    let missing = |name: &str| !have.iter().any(|package| package == name);
    wanted.filter(|(name, wanted)| *wanted && missing(name)).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::parse;
    use crate::config::{Config, EXAMPLE};
    use crate::outcome::Outcome;

    /// A file with nothing optional in it; lines 1 to 10.
    const SMALL: &str = "\
[admin]
generate_key = true

[[source]]
name = \"home\"
host = \"db.lan\"
user = \"backup\"
host_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW\"]
paths = [\"/srv\"]
";

    /// The errors of the small file, `from` in it replaced by `to`.
    fn errors(from: &str, to: &str) -> String {
        assert!(SMALL.contains(from), "{from}");
        parse(&SMALL.replacen(from, to, 1)).map_or_else(|errors| errors.to_string(), |_| String::from("valid"))
    }

    /// The lines of the example that show a default, and whether a line is one.
    fn is_default(line: &str) -> bool {
        let key = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = "));
        key.is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    }

    fn uncommented(which: impl Fn(usize) -> bool) -> String {
        let mut number = 0;
        let lines = EXAMPLE.lines().map(|line| {
            number += usize::from(is_default(line));
            if is_default(line) && which(number) { &line[2..] } else { line }
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_defaults_that_the_example_shows_are_the_defaults() {
        let parse = |text: &str| Config { text: String::new(), ..parse(text).unwrap() };
        let expected = parse(EXAMPLE);
        let count = EXAMPLE.lines().filter(|line| is_default(line)).count();
        assert_eq!(count, 47);
        for number in 1..=count {
            assert_eq!(parse(&uncommented(|this| this == number)), expected, "the default number {number}");
        }
        assert_eq!(parse(&uncommented(|_| true)), expected);
    }

    #[test]
    fn the_sections_that_the_example_only_offers_are_valid() {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("#   ") {
            Some(_) if line.starts_with("#   ca = ") || line.starts_with("#   mirror = ") => "",
            Some(offered) => offered,
            None if line == "#" => "",
            None => line,
        });
        let config = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        let (offsite, report) = (config.offsite.unwrap(), config.report.unwrap());
        assert_eq!((config.recipients.len(), offsite.path_style, offsite.prefix.as_str()), (1, true, "vaultberry"));
        assert_eq!(config.wifi.unwrap().ssid, "home");
        let (ping, metrics) = (config.ping.unwrap(), config.metrics.unwrap());
        assert_eq!((ping.credentials.to_str().unwrap(), ping.partial), ("/etc/vaultberry/credentials/ping", Outcome::Failed));
        assert_eq!(metrics.folder.to_str().unwrap(), "/var/lib/prometheus/node-exporter");
        assert_eq!((offsite.every.as_secs(), report.servers[0].port, report.size_limit), (7 * 86400, 587, 1 << 20));
    }

    #[test]
    fn copies_and_reports_want_somebody_to_seal_for() {
        let text = format!("{SMALL}[offsite]\nbucket = \"abc\"\n");
        assert_eq!(
            parse(&text).unwrap_err().to_string(),
            "1:1: openpgp.recipients: [offsite] has nobody to seal for\n  hint: add [openpgp] with recipients = \
             [\"\"\"…\"\"\"], each what `gpg --armor --export you@example.org` prints"
        );
    }

    #[test]
    fn the_small_file_is_valid_and_has_no_disk() {
        let config = parse(SMALL).unwrap();
        assert_eq!(config.disk, None);
        assert_eq!(config.image_name(), "vaultberry");
        assert!(parse(&format!("\u{feff}{}", SMALL.replace('\n', "\r\n"))).is_ok(), "as an editor on Windows writes it");
    }

    #[test]
    fn a_source_logs_in_with_the_key_in_the_state_folder() {
        let config = parse(&format!("{SMALL}[backup]\nstate = \"/data/state\"\n")).unwrap();
        assert_eq!(config.sources[0].identity.to_str(), Some("/data/state/ssh/id_ed25519"));
    }

    #[test]
    fn what_a_file_lacks_is_named() {
        assert_eq!(
            parse("").unwrap_err().to_string(),
            "1:1: source: there is no server to pull from\n  \
             hint: begin each source with [[source]], followed by name, host, user, host_keys and paths"
        );
        assert_eq!(
            parse("[admin]\nssh_keys = []\n[disk]\n[[source]]\nname = \"a\"\npaths = []\n").unwrap_err().to_string(),
            "2:12: admin.ssh_keys: nobody could log in: there is no ssh key\n  \
             hint: add ssh_keys = [\"ssh-ed25519 AAAA… me@laptop\"], or generate_key = true for a demonstration\n\
             3:1: disk.serials: is missing\n  hint: add serials = [\"VAULTBERRY-DEMO\"]\n\
             4:1: source[1].host: is missing\n  hint: add host = \"server.example.org\"\n\
             4:1: source[1].user: is missing\n  hint: add user = \"backup\"\n\
             4:1: source[1].host_keys: is missing\n  hint: add host_keys = [\"ssh-ed25519 AAAA…\"]\n\
             6:9: source[1].paths: there is nothing to save\n  \
             hint: add paths = [\"/srv\", \"/home\"], or postgresql = [\"wiki\"], or both"
        );
    }

    #[test]
    fn a_section_that_stands_inside_another_is_meant_too() {
        let errors = parse(&format!("{SMALL}[[report.falback]]\nserver = \"mail.lan\"\n")).unwrap_err().to_string();
        assert!(errors.contains("report.falback: unknown setting\n  hint: did you mean [[report.fallback]]?"), "{errors}");
    }

    #[test]
    fn unknown_names_are_told_with_the_one_that_was_meant() {
        for (to, expected) in [
            ("hostkeys = 1\nname", "5:1: source[1].hostkeys: unknown setting\n  hint: did you mean host_keys?"),
            ("serials = 1\nname", "5:1: source[1].serials: unknown setting\n  hint: it belongs into [disk]"),
            (
                "colour = 1\nname",
                "5:1: source[1].colour: unknown setting\n  \
                 hint: [[source]] has name, host, port, user, identity, host_keys, jump, jump_host_keys, gate, retries, bandwidth, quota, postgresql, postgresql_format, postgresql_globals, mariadb, sqlite, least_dump_percent, paths, exclude, largest_file, one_file_system, sentinels, max_deletions, keep, [[source.command]]",
            ),
            (
                "\"a b\\u001b\" = 1\nname",
                "5:1: source[1].(unprintable): unknown setting\n  hint: [[source]] has name, host, port, user, identity, host_keys, jump, jump_host_keys, gate, retries, bandwidth, quota, postgresql, postgresql_format, postgresql_globals, mariadb, sqlite, least_dump_percent, paths, exclude, largest_file, one_file_system, sentinels, max_deletions, keep, [[source.command]]",
            ),
        ] {
            assert_eq!(errors("name", to), expected);
        }
        for (to, expected) in [
            ("[unlok]\n[admin]", "1:2: unlok: unknown section\n  hint: did you mean [unlock]?"),
            ("[[sources]]\n[admin]", "1:3: sources: unknown section\n  hint: did you mean [[source]]?"),
            (
                "port = 22\n[admin]",
                "1:1: port: unknown setting outside of any section\n  hint: it belongs into [report] or [[source]]",
            ),
            (
                "[mail]\n[admin]",
                "1:2: mail: unknown section\n  \
                 hint: there are [appliance], [admin], [access], [ethernet], [wifi], [image], [unlock], [disk], [backup], [updates], [openpgp], [offsite], [report], [ping], [metrics], [[source]]",
            ),
        ] {
            assert_eq!(errors("[admin]", to), expected);
        }
    }

    #[test]
    fn wrong_types_are_told_with_an_example() {
        for (from, to, expected) in [
            ("\"home\"", "7", "5:8: source[1].name: must be text in quotes, not a number\n  hint: write name = \"home\""),
            (
                "true",
                "\"yes\"",
                "2:16: admin.generate_key: must be true or false, without quotes, not text\n  hint: write generate_key = true",
            ),
            (
                "[\"/srv\"]",
                "\"/srv\"",
                "9:9: source[1].paths: must be a list, not text\n  hint: write paths = [\"/srv\", \"/home\"]",
            ),
            (
                "\"/srv\"]",
                "1.5, \"/srv\"]",
                "9:10: source[1].paths[1]: must be text in quotes, not a fraction\n  hint: write paths = [\"/srv\", \"/home\"]",
            ),
            (
                "host =",
                "port = \"22\"\nhost =",
                "6:8: source[1].port: must be a number without quotes, not text\n  hint: write port = 22",
            ),
            (
                "[admin]",
                "[backup]\nat = 02:30\n[admin]",
                "2:6: backup.at: must be text in quotes, not a date or time\n  hint: write at = \"02:30\"",
            ),
            (
                "[admin]",
                "disk = 1\n[admin]",
                "1:8: disk: must be one section, not a number\n  hint: write [disk] on a line of its own, and its settings below",
            ),
            (
                "[admin]",
                "[[disk]]\nserials = [\"x\"]\n[admin]",
                "1:1: disk: must be one section, not a list\n  hint: write [disk] on a line of its own, and its settings below",
            ),
            (
                "[[source]]",
                "[source]",
                "4:1: source: must have double brackets, so that there can be several\n  hint: write [[source]]",
            ),
        ] {
            assert_eq!(errors(from, to), expected);
        }
    }

    #[test]
    fn impossible_values_are_told() {
        for port in ["0", "70000", "-1", "99999999999999999999999999", "0x1_0000"] {
            let expected = "6:8: source[1].port: must be from 1 to 65535\n  hint: write port = 22";
            assert_eq!(errors("host =", &format!("port = {port}\nhost =")), expected);
        }
        assert_eq!(errors("host =", "port = 0xffff\nhost ="), "valid");
        let sizes = "write one of \"2 GiB\", \"4 GiB\", \"8 GiB\", \"16 GiB\", \"32 GiB\" and \"64 GiB\"";
        let hold = "keep state and lock outside of folder, as in \"/var/lib/vaultberry\" and \"/run/lock/vaultberry.lock\"";
        for (section, place, message, hint) in [
            ("[image]\nsize = \"3 GiB\"", "2:8: image.size", "3 GiB is not a power of two from 2 GiB to 64 GiB", sizes),
            ("[image]\nsize = \"1024 MiB\"", "2:8: image.size", "1 GiB is not a power of two from 2 GiB to 64 GiB", sizes),
            ("[image]\nsize = \"128 GiB\"", "2:8: image.size", "128 GiB is not a power of two from 2 GiB to 64 GiB", sizes),
            (
                "[image]\npackages = [\"htop\", \"htop\"]",
                "2:21: image.packages[2]",
                "stands twice in this list",
                "keep one of the two",
            ),
            ("[unlock]\nwait = \"601s\"", "2:8: unlock.wait", "601s is longer than 10m", "write 0s to 10m, as in \"30s\""),
            (
                "[unlock]\nreboot_after = \"25h\"",
                "2:16: unlock.reboot_after",
                "25h is longer than 24h",
                "write 1m to 24h, as in \"10m\"",
            ),
            (
                "[unlock]\nreboot_after = \"30s\"",
                "2:16: unlock.reboot_after",
                "30s leaves nobody the time to plug a stick in",
                "write 1m to 24h, as in \"10m\"",
            ),
            (
                "[unlock]\nwait = \"2m\"\nreboot_after = \"2m\"",
                "3:16: unlock.reboot_after",
                "the reboot after 2m would come before the wait of 2m is over",
                "make reboot_after longer than wait",
            ),
            (
                "[unlock]\nwait = \"10m\"",
                "2:8: unlock.wait",
                "the reboot after 10m would come before the wait of 10m is over",
                "make reboot_after longer than wait",
            ),
            (
                "[backup]\nstate = \"/mnt/backup\"",
                "2:9: backup.state",
                "lies inside /mnt/backup, where a missing disk would take it away",
                hold,
            ),
            (
                "[backup]\nfolder = \"/var/lib\"",
                "2:10: backup.state",
                "lies inside /var/lib, where a missing disk would take it away",
                hold,
            ),
            (
                "[backup]\nlock = \"/mnt/backup/lock\"",
                "2:8: backup.lock",
                "lies inside /mnt/backup, where a missing disk would take it away",
                hold,
            ),
            (
                "[backup]\nlock = \"/var/lib\"",
                "2:8: backup.lock",
                "is the state folder or one above it, but must be a file",
                "write lock = \"/run/lock/vaultberry.lock\"",
            ),
        ] {
            assert_eq!(errors("[admin]", &format!("{section}\n[admin]")), format!("{place}: {message}\n  hint: {hint}"));
        }
        for limits in ["wait = \"0s\"", "wait = \"10m\"\nreboot_after = \"601s\"", "reboot_after = \"24h\""] {
            assert_eq!(errors("[admin]", &format!("[unlock]\n{limits}\n[admin]")), "valid");
        }
    }

    #[test]
    fn sources_and_their_paths_must_be_apart() {
        for (paths, place, message, hint) in [
            ("\"/a\", \"/a\"", "9:16: source[1].paths[2]", "\"/a\" stands twice in this list", "keep one of the two"),
            (
                "\"/a\", \"/a/b\"",
                "9:16: source[1].paths[2]",
                "\"/a/b\" lies inside \"/a\", which is saved already",
                "leave it out",
            ),
            (
                "\"/a/b\", \"/a\"",
                "9:18: source[1].paths[2]",
                "\"/a\" holds \"/a/b\", which is saved already",
                "leave out \"/a/b\"",
            ),
        ] {
            assert_eq!(errors("\"/srv\"", paths), format!("{place}: {message}\n  hint: {hint}"));
        }
        assert_eq!(errors("\"/srv\"", "\"/a\", \"/ab\""), "valid");
        let second = SMALL.split_once("\n\n").unwrap().1;
        assert_eq!(
            parse(&format!("{SMALL}{second}")).unwrap_err().to_string(),
            "11:8: source[2].name: \"home\" is the name of source[1] already\n  hint: give each source a name of its own; it names folders"
        );
    }

    #[test]
    fn an_account_with_a_gate_serves_one_source() {
        let second = SMALL.split_once("\n\n").unwrap().1.replace("\"home\"", "\"other\"");
        let gated = second.replace("user = ", "gate = true\nuser = ");
        for (text, at) in [
            (format!("{SMALL}{gated}"), "14:8"),
            (format!("{}{second}", SMALL.replace("user = ", "gate = true\nuser = ")), "14:8"),
        ] {
            let told = parse(&text).unwrap_err().to_string();
            let expected = format!(
                "{at}: source[2].user: \"backup\" is the account of source[1] too, and a gate serves one source\n  \
                 hint: give each of the two an account of its own on that server"
            );
            assert_eq!(told, expected, "{text}");
        }
        parse(&format!("{SMALL}{second}")).unwrap();
        parse(&format!("{SMALL}{}", gated.replace("user = \"", "user = \"b"))).unwrap();
    }

    #[test]
    fn syntax_errors_stand_beside_the_others_and_bring_none_of_their_own() {
        for (from, to, expected) in [
            // A default that isn't one: the setting has lost its equals sign.
            (
                "[admin]",
                "[unlock]\nwait = \"10m\"\nreboot_after \"1h\"\n[admin]",
                "3:14: syntax error: key with no value, expected `=`\n  \
                 hint: write a setting as key = value, and a comment with # before it",
            ),
            (
                "true",
                "yes",
                "2:16: syntax error: string values must be quoted\n  hint: put text in quotes, as in key = \"value\"",
            ),
            (
                "user =",
                "user =\nuser =",
                "7:7: syntax error: string values must be quoted\n  hint: put text in quotes, as in key = \"value\"\n\
                 8:1: syntax error: duplicate key\n  \
                 hint: keep one of them; each section and each setting stands only once",
            ),
            (
                "[admin]",
                "[admin",
                "1:7: syntax error: unclosed table, expected `]`\n  hint: close the section's name with ], as in [disk]",
            ),
            ("[\"/srv\"]", "[\"srv\"", "9:15: syntax error: unclosed array, expected `]`\n  hint: close the list with ]"),
            (
                "[admin]",
                "[unlock]\nwait = soon\nreboot_after = \"later\"\n[admin]",
                "2:8: syntax error: string values must be quoted\n  hint: put text in quotes, as in key = \"value\"\n\
                 3:16: unlock.reboot_after: \"later\" is not a duration\n  \
                 hint: write a whole number and a unit, s, m, h or d, as in \"30s\" or \"10m\"",
            ),
        ] {
            assert_eq!(errors(from, to), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_parse_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_toml_like_text_makes_parse_panic(parts in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "[[source]]\n", "[disk]\n", "serial", "paths", "=", "\"", "'''", "\"\"\"", "\n", "\r", ".", ",", "{", "}", "1", "02:30",
            "true", "\\", "#", "é", "\u{feff}", "\0", "source", "name", "/srv", " ",
        ]), 0..40)) {
            let _ = parse(&parts.concat());
        }

        #[test]
        fn no_change_to_the_example_makes_parse_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..20_usize, any::<Vec<u8>>()), 1..5),
        ) {
            let mut bytes = uncommented(|_| true).into_bytes();
            for (index, removed, added) in changes {
                let start = index.index(bytes.len() + 1);
                let end = (start + removed).min(bytes.len());
                bytes.splice(start..end, added);
            }
            if let Err(errors) = parse(&String::from_utf8_lossy(&bytes)) {
                assert!(!errors.mistakes().is_empty());
                assert!(!errors.to_string().chars().any(|letter| letter.is_control() && letter != '\n'));
            }
        }
    }
}
