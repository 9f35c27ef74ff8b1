//! `[report]`: the mail that tells of each run.

use lettre::Address;
use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Found, Section};
use super::section::distinct;
use super::{MailServer, Report, Security, certificate, name, place, read, schema, value};

/// Reads how the mail goes; none without the section.
pub(super) fn report(report: &mut read::Report<'_>, root: &DeTable<'_>) -> Option<Report> {
    let section = Section::once(report, root, &schema::REPORT);
    if !section.exists() {
        return None;
    }
    let to = section.required_list(report, "to", address).value;
    let to = distinct(report, to);
    let from = section.required(report, "from", address);
    let first = server(report, &section);
    let fallbacks = section.inner(report, "fallback", &schema::FALLBACK);
    let fallbacks: Vec<MailServer> = fallbacks.iter().filter_map(|section| server(report, section)).collect();
    let size_limit = section.text(report, "size_limit", 1 << 20, size_limit).value;
    let servers = first.into_iter().chain(fallbacks).collect();
    Some(Report { to, from: from?, servers, size_limit })
}

/// Reads how a mail server is reached; none if its name is missing or wrong.
fn server(report: &mut read::Report<'_>, section: &Section<'_>) -> Option<MailServer> {
    let host = section.required(report, "server", name::host);
    let security = section.text(report, "security", Security::StartTls, security);
    let port = match security.value {
        Security::StartTls => 587,
        Security::Tls => 465,
        Security::None => 25,
    };
    let port = section.number(report, "port", port, 1..=u16::MAX).value;
    let credentials = section.text(report, "credentials", None, |text| place::credentials(text).map(Some));
    if security.value == Security::None && credentials.found == Found::Right {
        let hint = "write security = \"starttls\" or \"tls\", or leave out credentials";
        let fault = Fault::new("without TLS the password would cross the network in clear", hint);
        report.add(&credentials.at, section.path("credentials"), fault);
    }
    let ca = section.text(report, "ca", None, |text| certificate::authorities(text).map(Some)).value;
    Some(MailServer { host: host?, port, security: security.value, credentials: credentials.value, ca })
}

/// A mail address, without a name before it.
fn address(text: &str) -> Result<String, Fault> {
    match text.parse::<Address>() {
        Ok(_) if text.is_ascii() => Ok(String::from(text)),
        _ => Err(Fault::new(format!("{} is not a mail address", show(text)), "write only the address, as in \"me@example.org\"")),
    }
}

fn security(text: &str) -> Result<Security, Fault> {
    match text {
        "starttls" => Ok(Security::StartTls),
        "tls" => Ok(Security::Tls),
        "none" => Ok(Security::None),
        _ => Err(Fault::new(format!("{} is no way to keep mail private", show(text)), "write \"starttls\", \"tls\" or \"none\"")),
    }
}

fn size_limit(text: &str) -> Result<u64, Fault> {
    let size = value::size(text)?;
    if (64 << 10..=8 << 20).contains(&size) {
        return Ok(size);
    }
    Err(Fault::new(
        format!("{} is not from 64 KiB to 8 MiB", value::size_text(size)),
        "write what your mail server takes, as in \"1 MiB\"",
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::{EXAMPLE, parse};

    /// The example with a `[report]` of these settings, and what they come to.
    fn outcome(settings: &str) -> Result<Vec<(String, u16, bool)>, String> {
        let certificate: Vec<&str> = EXAMPLE
            .lines()
            .skip_while(|line| *line != "#   [openpgp]")
            .take_while(|line| *line != "#   \"\"\"]")
            .map(|line| line.trim_start_matches('#').trim_start())
            .collect();
        let report = format!("[report]\nto = [\"me@example.org\"]\nfrom = \"pi@example.org\"\n{settings}\n");
        let text = format!("{report}{}\n\"\"\"]\n{EXAMPLE}", certificate.join("\n"));
        match parse(&text) {
            Ok(config) => {
                let servers = config.report.unwrap().servers;
                Ok(servers.into_iter().map(|server| (server.host, server.port, server.credentials.is_some())).collect())
            }
            Err(errors) => Err(errors.to_string()),
        }
    }

    #[test]
    fn servers_stand_in_the_order_in_which_they_are_tried() {
        let settings = "server = \"a.example.org\"\ncredentials = \"/etc/vaultberry/credentials/smtp\"\n\
                        [[report.fallback]]\nserver = \"b.example.org\"\nsecurity = \"tls\"\n\
                        [[report.fallback]]\nserver = \"c.example.org\"\nsecurity = \"none\"\n";
        let servers = [("a.example.org", 587, true), ("b.example.org", 465, false), ("c.example.org", 25, false)];
        assert_eq!(outcome(settings).unwrap(), servers.map(|(host, port, login)| (host.to_owned(), port, login)));
    }

    #[test]
    fn a_fallback_has_the_same_rules_as_the_first() {
        for (settings, expected) in [
            ("port = 25\n", "report.fallback[1].server: is missing\n  hint: add server = \"mail.example.net\""),
            (
                "server = \"b\"\nsecurity = \"none\"\ncredentials = \"/etc/vaultberry/credentials/b\"\n",
                "report.fallback[1].credentials: without TLS the password would cross the network in clear",
            ),
            ("server = \"b\"\nto = [\"me@example.org\"]\n", "report.fallback[1].to: unknown setting"),
        ] {
            let told = outcome(&format!("server = \"a\"\n[[report.fallback]]\n{settings}")).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn a_mail_has_a_least_and_a_largest_size() {
        for (size, sound) in [("64 KiB", true), ("8 MiB", true), ("63 KiB", false), ("9 MiB", false)] {
            let outcome = outcome(&format!("server = \"a\"\nsize_limit = \"{size}\"\n"));
            assert_eq!(outcome.is_ok(), sound, "{outcome:?}");
        }
    }
}
