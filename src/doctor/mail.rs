//! The mail servers, greeted as for a mail.

use super::Check;
use crate::config::{MailServer, Report, Security};
use crate::report::{Smtp, place};

/// Greets one of the mail servers, with TLS and login.
pub fn examine(report: &Report, server: &MailServer, hostname: &str) -> Check {
    let about = format!("mail server {}", place(server));
    let largest = match Smtp::new(report, server, hostname).greet() {
        Ok(largest) => largest,
        Err(error) => return Check::failed(&about, &error),
    };
    if let Some(largest) = largest.filter(|largest| (*largest as u64) < report.size_limit) {
        return Check::warning(
            &about,
            &format!("it takes mails of {largest} bytes, and [report] size_limit is {}", report.size_limit),
            "make size_limit smaller, so that logs are cut to what it takes",
        );
    }
    let login = if server.credentials.is_some() { ", and takes the login" } else { "" };
    Check::ok(
        &about,
        match server.security {
            Security::None => format!("it answers without TLS{login}"),
            Security::StartTls | Security::Tls => format!("it proves who it is by TLS{login}"),
        },
    )
}
