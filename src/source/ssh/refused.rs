//! Why there is no connection, in words that help, and whether there would be one later.

use anyhow::anyhow;

use super::config::place;
use crate::config::Source;
use crate::sandbox::{NO_PROGRAM, NO_SANDBOX};

/// Why there is no connection, and whether there would be one later.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: anyhow::Error,
    pub(super) permanent: bool,
}

/// What is wrong here stays wrong.
impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self { error, permanent: true }
    }
}

/// What ssh said before it ended with `status`, with what will probably help.
pub(super) fn explain(source: &Source, said: &[String], status: Option<i32>) -> Refused {
    let place = place(source);
    let text = if said.is_empty() { "ssh ended without a word".to_owned() } else { said.join("; ") };
    let permanent = |error| Refused { error, permanent: true };
    let hint = if text.contains("HOST IDENTIFICATION HAS CHANGED") || text.contains("Host key verification failed") {
        return permanent(anyhow!(
            "connecting to {place}: the server's host key is none of the keys pinned in {}: either the server was \
             set up anew, or this isn't the server\nhint: compare what `vaultberry source trust {}` shows with what \
             `ssh-keygen -lf` says of /etc/ssh/ssh_host_*_key.pub on the server itself, and put the right lines into `host_keys`",
            if source.jump.is_some() {
                "`host_keys`, or the jump host's none of those in `jump_host_keys`"
            } else {
                "`host_keys`"
            },
            source.name,
        ));
    } else if status == Some(NO_PROGRAM.into()) {
        return permanent(anyhow!(
            "connecting to {place}: there is no ssh on this machine\nhint: apt-get install openssh-client"
        ));
    } else if status == Some(NO_SANDBOX.into()) {
        return permanent(anyhow!("connecting to {place}: {text}"));
    } else if text.contains("Permission denied") {
        let line = "the line that `vaultberry source key` shows must stand in ~/.ssh/authorized_keys of that user on the server";
        return permanent(anyhow!("connecting to {place}: {text}\nhint: {line}"));
    } else if text.contains("Could not resolve hostname") {
        "check `host` and the appliance's name server"
    } else {
        "check that the server is up and that `host` and `port` are right; `vaultberry source trust` asks it for its keys"
    };
    Refused {
        error: anyhow!("connecting to {place}: {text}\nhint: {hint}"),
        permanent: text.contains("Name or service not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::{explain, place};
    use crate::config::{Source, sample};

    fn source() -> Source {
        Source { host: "fe80::1%eth0".into(), port: 2222, ..sample::source("web") }
    }

    #[test]
    fn a_refused_connection_names_the_place_and_says_whether_it_is_for_good() {
        let said = |text: &str| explain(&source(), &[text.to_owned(), "Connection closed".to_owned()], Some(255));
        let refused = said("kex: gone");
        let text = refused.error.to_string();
        let begin = "connecting to web (backup@[fe80::1%eth0]:2222): kex: gone; Connection closed\nhint: ";
        assert!(text.starts_with(begin) && !refused.permanent, "{text}");
        for (said_, permanent) in [
            ("Host key verification failed.", true),
            ("backup@h: Permission denied (publickey).", true),
            ("ssh: Could not resolve hostname h: Name or service not known", true),
            ("ssh: Could not resolve hostname h: Temporary failure in name resolution", false),
            ("ssh: connect to host h port 22: Connection refused", false),
        ] {
            assert_eq!(said(said_).permanent, permanent, "{said_}");
        }
        assert!(explain(&source(), &[], Some(127)).error.to_string().ends_with("hint: apt-get install openssh-client"));
        assert_eq!(place(&Source { host: "example.org".into(), ..source() }), "web (backup@example.org:2222)");
    }
}
