//! Names: of hosts, users, sources, packages and time zones. Each function takes what stands in the file and gives back
//! the checked value.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::tz;

use super::error::{Fault, show};

/// Users and groups that a Debian system brings along, or that the appliance makes itself. An admin of one of these
/// names couldn't be created, or would take over a service's account.
#[rustfmt::skip]
const SYSTEM_NAMES: [&str; 60] = [
    "_apt", "_chrony", "_ssh", "adm", "audio", "backup", "bin", "cdrom", "clock", "crontab", "daemon", "dialout", "dip",
    "disk", "fax", "floppy", "games", "input", "irc", "kmem", "kvm", "list", "lp", "mail", "man", "messagebus", "netdev",
    "news", "nobody", "nogroup", "operator", "plugdev", "polkitd", "proxy", "render", "root", "sasl", "sgx", "shadow",
    "src", "sshd", "staff", "sudo", "sync", "sys", "systemd-journal", "systemd-network", "systemd-resolve",
    "systemd-timesync", "tape", "tcpdump", "tty", "users", "utmp", "uucp", "uuidd", "vaultberry", "video", "voice", "www-data",
];

/// A host name of one label, RFC 1123 section 2.1, in lower case.
pub(super) fn hostname(text: &str) -> Result<String, Fault> {
    if text == "localhost" {
        return Err(Fault::new(
            "\"localhost\" is what every machine calls itself",
            "write a name of its own, as in \"vaultberry\"",
        ));
    }
    let proper = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if proper && is_label(text) {
        return Ok(String::from(text));
    }
    let hint = "write 1 to 63 lower-case letters, digits and inner hyphens, without a domain, as in \"vaultberry\"";
    Err(Fault::new(format!("{} is not a host name", show(text)), hint))
}

/// One label of a DNS name. Underscores aren't in RFC 1123, but are in many a home network.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A DNS name or an IP address. Nothing that passes can be taken for an option of ssh: it never begins with a hyphen.
pub(super) fn host(text: &str) -> Result<String, Fault> {
    if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
        return Ok(String::from(text));
    }
    let hint = match text {
        _ if text.contains('@') => "write only the host, and the user as user = \"backup\"",
        _ if text.contains("://") => "write only the host's name or address, without protocol and folder",
        _ if text.starts_with('[') => "write an IPv6 address without brackets, as in \"2001:db8::1\"",
        _ if text.matches(':').count() == 1 => "write only the host, and the port as port = 22",
        _ => "write a DNS name or an IP address, as in \"server.example.org\" or \"192.0.2.7\"",
    };
    // A last label of digits only is no DNS name (RFC 3696 section 2): "192.0.2.700" is a slip, not a host.
    let last_is_number = text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if text.len() <= 253 && text.split('.').all(is_label) && !last_is_number {
        return Ok(String::from(text));
    }
    Err(Fault::new(format!("{} is not a host name or IP address", show(text)), hint))
}

/// The login name of the appliance's admin.
pub(super) fn admin_user(text: &str) -> Result<String, Fault> {
    let hint = "write a name of your own, as in \"admin\"";
    if text == "root" {
        return Err(Fault::new("root may not log in; the admin becomes root with sudo", hint));
    }
    if SYSTEM_NAMES.contains(&text) || text.starts_with("systemd-") || text.starts_with("vaultberry-") {
        return Err(Fault::new(format!("{} is a name that the system itself uses", show(text)), hint));
    }
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| matches!(byte, b'a'..=b'z' | b'_'));
    let others = bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if first && others && text.len() <= 32 {
        return Ok(String::from(text));
    }
    let hint = "write at most 32 lower-case letters, digits, - and _, beginning with a letter, as in \"admin\"";
    Err(Fault::new(format!("{} is not a user name", show_user(text)), hint))
}

/// The account to log in as on a server. Not every server is a Debian, so capitals and dots pass.
pub(super) fn source_user(text: &str) -> Result<String, Fault> {
    if text == "root" {
        let message = "root is refused: whoever takes over the appliance would have root on the server as well";
        return Err(Fault::new(message, "make an account there that can only read what is to be saved, as in \"backup\""));
    }
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let others = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if first && others && text.len() <= 32 {
        return Ok(String::from(text));
    }
    let hint = "write at most 32 letters, digits, ., - and _, beginning with a letter or digit, as in \"backup\"";
    Err(Fault::new(format!("{} is not a user name", show_user(text)), hint))
}

/// A user, a host and a port, `backup@gate.example.org:22`; without a port it is 22.
pub(super) fn user_at_host(text: &str) -> Result<(String, String, u16), Fault> {
    let hint = "write user, host and port, as in \"backup@gate.example.org:22\" or \"backup@[2001:db8::1]:22\"";
    let wrong = || Fault::new(format!("{} is not a user and a host", show(text)), hint);
    let (user, place) = text.split_once('@').ok_or_else(wrong)?;
    let (host_name, rest) = match place.strip_prefix('[') {
        Some(place) => place.split_once(']').ok_or_else(wrong)?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
        None if rest.is_empty() => 22,
        None => return Err(wrong()),
    };
    Ok((source_user(user)?, host(host_name)?, port))
}

/// Like [`show`], but `user:password` stays hidden.
fn show_user(text: &str) -> String {
    if text.contains(':') { String::from("this text") } else { show(text) }
}

/// The name of a source, which names folders.
pub(super) fn source_name(text: &str) -> Result<String, Fault> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let others = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    if first && others && text.len() <= 64 {
        return Ok(String::from(text));
    }
    let hint = "write at most 64 lower-case letters, digits, - and _, beginning with a letter or digit, as in \"home\"";
    Err(Fault::new(format!("{} is not a name for folders", show(text)), hint))
}

/// A database, or `*` for all of them.
pub(super) fn databases(text: &str) -> Result<String, Fault> {
    if text == "*" { Ok(String::from(text)) } else { database(text) }
}

/// A database of PostgreSQL or MariaDB. `pg_dump` takes a name with `=` in it, or one that begins like an address, for a whole connection
/// string; and the dump is a file of this name.
pub(super) fn database(text: &str) -> Result<String, Fault> {
    let proper = text.chars().all(|letter| !letter.is_control() && !matches!(letter, '/' | '=' | '\\'));
    if (1..=63).contains(&text.len()) && proper && !text.starts_with(['.', '-']) {
        return Ok(String::from(text));
    }
    let hint = "write at most 63 bytes, without /, \\, = and control characters, not beginning with . or -, as in \"wiki\"";
    Err(Fault::new(format!("{} is not the name of a database that can be dumped", show(text)), hint))
}

/// A pattern for rsync's filter rules, which stand a line each.
pub(super) fn pattern(text: &str) -> Result<String, Fault> {
    let hint = "write a pattern of rsync's, as in \"*.tmp\", \"/srv/cache\" or \"node_modules/\"";
    if text.is_empty() || text == "/" || text.len() > 4095 || text.chars().any(char::is_control) || text.trim() != text {
        return Err(Fault::new(format!("{} is no pattern for what to leave out", show(text)), hint));
    }
    Ok(String::from(text))
}

/// A Debian package name, Debian Policy section 5.6.1.
pub(super) fn package(text: &str) -> Result<String, Fault> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let others = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
    // apt takes "name-" for an order to remove the package.
    if first && others && text.len() >= 2 && !text.ends_with('-') {
        return Ok(String::from(text));
    }
    Err(Fault::new(
        format!("{} is not the name of a Debian package", show(text)),
        "write names as apt knows them, as in \"htop\"",
    ))
}

/// A Debian suite that images are known to be built from.
pub(super) fn suite(text: &str) -> Result<String, Fault> {
    const SUPPORTED: [&str; 1] = ["trixie"];
    if SUPPORTED.contains(&text) {
        return Ok(String::from(text));
    }
    let message = format!("{} is not a supported Debian suite", show(text));
    Err(Fault::new(message, format!("write \"{}\", the only one supported", SUPPORTED[0])))
}

/// A name of the tz database, in its own spelling: `/usr/share/zoneinfo` on the appliance tells small from capital letters.
pub(super) fn timezone(text: &str) -> Result<String, Fault> {
    let refusal = |hint: String| Err(Fault::new(format!("{} is not a time zone", show(text)), hint));
    let hint = "write a name of the tz database, as in \"Europe/Zurich\"; `timedatectl list-timezones` lists them";
    let proper = |part: &str| {
        part.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+'))
    };
    if text.len() > 64 || !text.split('/').all(proper) {
        return refusal(String::from(hint));
    }
    // A build host may have no tz database; the appliance's own then has the last word.
    if tz::db().is_definitively_empty() {
        return Ok(String::from(text));
    }
    match tz::db().get(text) {
        Ok(zone) => match zone.iana_name() {
            Some(name) if name != text => refusal(format!("did you mean \"{name}\"?")),
            _ => Ok(String::from(text)),
        },
        Err(_) => refusal(String::from(hint)),
    }
}

/// A disk's serial number as udev writes it, without quotes, patterns and blanks, or a volume's UUID.
pub(super) fn serial(text: &str) -> Result<String, Fault> {
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_/".contains(&byte);
    if (1..=128).contains(&text.len()) && text.bytes().all(proper) {
        return Ok(String::from(text));
    }
    let hint = "write ID_SERIAL_SHORT as `udevadm info --query=property --name=/dev/sdX` prints it for the disk";
    Err(Fault::new(format!("{} is not a serial number of udev's", show(text)), hint))
}

/// Where Debian packages come from.
pub(super) fn mirror(text: &str) -> Result<String, Fault> {
    address(text, "https://mirror.example.org", "give the mirror without them; make it reachable by address instead")
}

/// An http or https address. It is never shown: it may hold a password.
pub(super) fn address(text: &str, example: &str, without_login: &str) -> Result<String, Fault> {
    let hint = format!("write an http or https address, as in \"{example}\"");
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return Err(Fault::new("must begin with https:// or http://", hint));
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        let message = "must not hold a user name or password, which would end up in the image";
        return Err(Fault::new(message, without_login));
    }
    if path.contains(['?', '#']) || authority.contains(['?', '#']) {
        return Err(Fault::new("must not have a query or fragment, ? or #", hint));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\<>`{}|^[]".contains(&byte)) {
        return Err(Fault::new("must be plain letters, digits and signs without blanks or quotes", hint));
    }
    let (name, port) = authority.split_once(':').map_or((authority, None), |(name, port)| (name, Some(port)));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if host(name).is_err() || !port_fits {
        return Err(Fault::new("has no valid host and port", hint));
    }
    Ok(String::from(text))
}

#[cfg(test)]
mod tests {
    use super::super::error::Fault;
    use super::{admin_user, host, hostname, mirror, package, serial, source_name, source_user, suite, timezone, user_at_host};

    type Check = fn(&str) -> Result<String, Fault>;

    #[test]
    fn a_user_at_a_host_has_a_port_or_the_usual_one() {
        let read = |text| user_at_host(text).map_err(drop).map(|(user, host, port)| format!("{user} {host} {port}"));
        for (text, expected) in [
            ("hop@gate.example.org", "hop gate.example.org 22"),
            ("hop@192.0.2.7:2222", "hop 192.0.2.7 2222"),
            ("hop@[2001:db8::1]:2222", "hop 2001:db8::1 2222"),
            ("hop@[::1]", "hop ::1 22"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected));
        }
        for wrong in
            ["gate", "@gate", "hop@", "root@gate", "hop@gate:0", "hop@gate:x", "hop@[::1", "hop@[::1]x", "hop@::1", "a@b@c"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn proper_names_pass_unchanged() {
        let label = "a".repeat(63);
        let cases: [(Check, &[&str]); 10] = [
            (hostname, &["vaultberry", "pi-4", "4pi", "a", &label]),
            (
                host,
                &["db", "db.example.org", "my_nas.lan", "192.0.2.7", "::1", "2001:db8::7", "1and1.de", "xn--bcher-kva.example"],
            ),
            (admin_user, &["admin", "_me", "a-b_c9", "jo"]),
            (source_user, &["backup", "Anna.Meier", "9lives", "_svc"]),
            (source_name, &["home", "1st", "a_b-c"]),
            (package, &["htop", "g++", "libstdc++-14-dev", "python3.13", "7zip"]),
            (suite, &["trixie"]),
            (timezone, &["Etc/UTC", "Europe/Zurich", "America/Argentina/Buenos_Aires", "Etc/GMT+1", "UTC"]),
            (serial, &["VAULTBERRY-DEMO", "WD_Elements_25A3_575831:0", "4C53#01"]),
            (mirror, &["https://mirror.example.org", "http://192.0.2.7:3142/mirror/", "https://mirror.example.org/path"]),
        ];
        for (check, names) in cases {
            for name in names {
                assert_eq!(check(name).as_deref(), Ok(*name));
            }
        }
    }

    #[test]
    fn improper_names_are_refused() {
        let (label, long) = ("a".repeat(64), "a".repeat(65));
        let cases: [(Check, &[&str]); 10] = [
            (hostname, &["", "Pi", "pi.lan", "-pi", "pi-", "pi_4", "pi 4", "é", "localhost", &label]),
            (
                host,
                &[
                    "",
                    "-oProxyCommand=x",
                    "a..b",
                    "a.",
                    "-a.b",
                    "192.0.2.700",
                    "1.2.3",
                    "[::1]",
                    "a b",
                    "db:22",
                    "me@db",
                    "fe80::1%eth0",
                ],
            ),
            (admin_user, &["", "root", "daemon", "sshd", "nobody", "systemd-x", "Admin", "9a", "a b", "a.b", "backup", &label]),
            (source_user, &["", "root", "-l", ".x", "a b", "a:b", "a@b", "a/b", &label]),
            (source_name, &["", "Home", "-a", "_a", "a/b", "..", "a b", "a\0", &long]),
            (package, &["", "a", "Htop", "htop-", "-y", "a b", "a/b", "a=1", "+a"]),
            (suite, &["", "bookworm", "Trixie", "../x"]),
            (
                timezone,
                &["", "Europe/Zürich", "../../etc/passwd", "/etc/localtime", "Europe//Zurich", "Mars/Base", "+01:00", "Europe/"],
            ),
            (serial, &["", "a b", "a*", "a\"b", "a\n", "a,b", "$x", "é"]),
            (
                mirror,
                &[
                    "",
                    "mirror.example.org",
                    "ftp://a/b",
                    "https://",
                    "https:///debian",
                    "https://a b/",
                    "https://a/\"",
                    "https://a:0/",
                ],
            ),
        ];
        for (check, names) in cases {
            for name in names {
                assert!(check(name).is_err_and(|fault| fault.hint.is_some()), "{name:?} passed");
            }
        }
    }

    #[test]
    fn refusals_say_what_to_write() {
        let cases: [(Check, &str, &str, &str); 9] = [
            (
                hostname,
                "My Pi",
                "\"My Pi\" is not a host name",
                "write 1 to 63 lower-case letters, digits and inner hyphens, without a domain, as in \"vaultberry\"",
            ),
            (
                host,
                "[::1]",
                "\"[::1]\" is not a host name or IP address",
                "write an IPv6 address without brackets, as in \"2001:db8::1\"",
            ),
            (host, "db:2222", "\"db:2222\" is not a host name or IP address", "write only the host, and the port as port = 22"),
            (
                host,
                "backup:hunter2@db",
                "this text is not a host name or IP address",
                "write only the host, and the user as user = \"backup\"",
            ),
            (
                admin_user,
                "root",
                "root may not log in; the admin becomes root with sudo",
                "write a name of your own, as in \"admin\"",
            ),
            (
                source_user,
                "root",
                "root is refused: whoever takes over the appliance would have root on the server as well",
                "make an account there that can only read what is to be saved, as in \"backup\"",
            ),
            (suite, "bookworm", "\"bookworm\" is not a supported Debian suite", "write \"trixie\", the only one supported"),
            (timezone, "europe/zurich", "\"europe/zurich\" is not a time zone", "did you mean \"Europe/Zurich\"?"),
            (
                mirror,
                "https://me:hunter2@mirror.example.org/",
                "must not hold a user name or password, which would end up in the image",
                "give the mirror without them; make it reachable by address instead",
            ),
        ];
        for (check, name, message, hint) in cases {
            assert_eq!(check(name), Err(Fault::new(message, hint)));
        }
    }

    #[test]
    fn a_password_behind_a_user_name_is_not_shown() {
        for check in [admin_user, source_user] {
            assert_eq!(check("backup:hunter2").unwrap_err().message, "this text is not a user name");
        }
    }
}
