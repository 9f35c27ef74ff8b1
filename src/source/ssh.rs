//! The connection to a source: one master, over which everything else of that source goes.
//!
//! OpenSSH's own client does the work, told everything by a configuration file made for this connection, so that neither
//! the system's nor a user's settings, keys, agents or known hosts have a say. The server must show one of the host keys
//! that `appliance.toml` pins; there is no first-use trust, and a server can't teach us further keys.

use std::ffi::{OsStr, OsString};
use std::fs::{OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder};
use tempfile::TempDir;

use crate::config::Source;
use crate::log::printable;

/// How long a server may take until it has let us in. ssh counts the key exchange in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// ssh asks a silent server for a sign of life this often, and gives up after three unanswered ones (its default).
const ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long a master without any session in it lives. It is closed at the end; this is for a run that was killed.
const IDLE_SECONDS: NonZeroUsize = NonZeroUsize::new(120).expect("it isn't zero");

/// Unix socket names end at 107 bytes; ssh and openssh add some 60 to the folder's.
const LONGEST_TEMPORARY: usize = 40;

/// If the master is gone, ssh would connect by itself. A proxy that ends at once forbids that. And no terminal is wanted.
const ONLY_THIS: [&str; 5] = ["-o", "ProxyCommand=false", "-o", "BatchMode=yes", "-T"];

/// An open master connection. Dropped, it is closed.
#[derive(Debug)]
pub struct Connection {
    // before `folder`, since fields are dropped in order, and closing needs the socket
    session: Session,
    config: PathBuf,
    alias: String,
    folder: TempDir,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The message names source, host and port, and what will probably help.
    pub async fn open(source: &Source) -> Result<Self> {
        if !source.identity.exists() {
            bail!(
                "connecting to {}: there is no key {}\nhint: `vaultberry source key` makes it and shows the line for the \
                 server's authorized_keys",
                place(source),
                source.identity.display()
            );
        }
        let folder = private_folder()?;
        let config = folder.path().join("config");
        let known_hosts = folder.path().join("known_hosts");
        write_private(&known_hosts, known_hosts_text(source).as_bytes())?;
        write_private(&config, &config_text(source, &known_hosts)?)?;
        let connected = SessionBuilder::default()
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(CONNECT_TIMEOUT)
            .server_alive_interval(ALIVE_INTERVAL)
            .control_persist(ControlPersist::IdleFor(IDLE_SECONDS))
            .control_directory(folder.path())
            .config_file(&config)
            .connect(&source.name)
            .await;
        let session = connected.map_err(|error| explain(source, &error))?;
        Ok(Self { session, config, alias: source.name.clone(), folder })
    }

    /// The remote shell for `rsync -e`: ssh over this connection, and over no other.
    pub fn remote_shell(&self) -> Vec<u8> {
        let mut shell = b"ssh -F ".to_vec();
        quote(&self.config, &mut shell);
        shell.extend_from_slice(b" -S ");
        quote(self.session.control_socket(), &mut shell);
        for option in ONLY_THIS {
            shell.push(b' ');
            shell.extend_from_slice(option.as_bytes());
        }
        shell
    }

    /// The arguments for an `ssh` that runs `command`, a line for the shell of the user there, over this connection, and over
    /// no other.
    pub fn arguments(&self, command: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["-F".into(), self.config.clone().into()];
        arguments.extend(["-S".into(), self.session.control_socket().into()]);
        arguments.extend(ONLY_THIS.map(OsString::from));
        arguments.extend(["--".into(), OsString::from(&self.alias), command.into()]);
        arguments
    }

    /// What stands for the server in an argument of rsync. It's no host name: ssh looks it up in the configuration file.
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Ends the master and waits for its end. A connection that broke before is no error here: whoever used it knows.
    pub async fn close(self) {
        if let Err(error) = self.session.close().await {
            tracing::debug!("closing the connection to {}: {}", self.alias, chain(&error));
        }
        drop(self.folder);
    }
}

/// Source, host and port, as messages name them.
fn place(source: &Source) -> String {
    let Source { name, host, port, user, .. } = source;
    if host.contains(':') { format!("{name} ({user}@[{host}]:{port})") } else { format!("{name} ({user}@{host}:{port})") }
}

/// A folder of our own for socket and configuration, where its name isn't too long for a socket.
fn private_folder() -> Result<TempDir> {
    let mut base = std::env::temp_dir();
    if base.as_os_str().len() > LONGEST_TEMPORARY {
        base = PathBuf::from("/tmp");
    }
    tempfile::Builder::new()
        .prefix("vaultberry-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&base)
        .with_context(|| format!("making a folder for the ssh connection in {}", base.display()))
}

fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("writing {}", path.display()))
}

/// One line a pinned key. They stand under the source's name (`HostKeyAlias`), which spares the forms that `known_hosts` has
/// for ports and IPv6 addresses.
fn known_hosts_text(source: &Source) -> String {
    let lines: Vec<String> = source.host_keys.iter().map(|key| format!("{} {}\n", source.name, key.trim())).collect();
    lines.concat()
}

/// The whole client configuration (`ssh_config(5)`).
fn config_text(source: &Source, known_hosts: &Path) -> Result<Vec<u8>> {
    let mut text = format!(
        "Host *\n\
         HostKeyAlias {}\n\
         Port {}\n\
         GlobalKnownHostsFile /dev/null\n\
         StrictHostKeyChecking yes\n\
         UpdateHostKeys no\n\
         VerifyHostKeyDNS no\n\
         CheckHostIP no\n\
         CanonicalizeHostname no\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         PreferredAuthentications publickey\n\
         ForwardAgent no\n\
         ForwardX11 no\n\
         ClearAllForwardings yes\n\
         PermitLocalCommand no\n\
         RequestTTY no\n\
         EscapeChar none\n\
         Compression no\n\
         LogLevel ERROR\n",
        source.name, source.port
    )
    .into_bytes();
    let values: [(&str, &OsStr); 4] = [
        ("HostName", source.host.as_ref()),
        ("User", source.user.as_ref()),
        ("UserKnownHostsFile", known_hosts.as_os_str()),
        ("IdentityFile", source.identity.as_os_str()),
    ];
    for (key, value) in values {
        text.extend_from_slice(key.as_bytes());
        text.extend_from_slice(b" \"");
        for &byte in value.as_bytes() {
            match byte {
                // ssh would read a further setting from it; nothing stands for it inside quotes
                b'\n' | b'\r' | 0 => bail!("connecting to {}: its {key} has a line end in it", place(source)),
                b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
                // `%` begins a token, except in user names
                b'%' if key != "User" => text.extend_from_slice(b"%%"),
                _ => text.push(byte),
            }
        }
        text.extend_from_slice(b"\"\n");
    }
    Ok(text)
}

/// Quotes a path for rsync's `-e`, which splits at spaces and takes a doubled quote inside quotes for one.
fn quote(path: &Path, line: &mut Vec<u8>) {
    line.push(b'\'');
    for &byte in path.as_os_str().as_bytes() {
        if byte == b'\'' {
            line.push(byte);
        }
        line.push(byte);
    }
    line.push(b'\'');
}

/// `text` as one word for the shell of a server, whichever of the usual ones it is.
pub fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What ssh said, with what will probably help.
fn explain(source: &Source, error: &openssh::Error) -> anyhow::Error {
    let place = place(source);
    let said = chain(error);
    if said.contains("HOST IDENTIFICATION HAS CHANGED") || said.contains("Host key verification failed") {
        return anyhow!(
            "connecting to {place}: the server's host key is none of the keys pinned in `host_keys`: either the server was \
             set up anew, or this isn't the server\nhint: compare `ssh-keyscan -p {} {}` with what \
             /etc/ssh/ssh_host_*_key.pub says on the server itself, and put the right lines into `host_keys`",
            source.port,
            source.host
        );
    }
    let hint = match error {
        openssh::Error::Connect(cause) if cause.kind() == ErrorKind::NotFound => "apt-get install openssh-client",
        _ if said.contains("Permission denied") => {
            "the line that `vaultberry source key` shows must stand in ~/.ssh/authorized_keys of that user on the server"
        }
        _ if said.contains("Could not resolve hostname") => "check `host` and the appliance's name server",
        _ => "check that the server is up and that `host` and `port` are right; from the appliance, `ssh-keyscan` should answer",
    };
    anyhow!("connecting to {place}: {said}\nhint: {hint}")
}

/// An error of the openssh crate with its causes, on one printable line.
fn chain(error: &openssh::Error) -> String {
    let text = match error {
        // "failed to connect to the remote host" is what the sentence round it says already
        openssh::Error::Connect(cause) => cause.to_string(),
        other => format!("{:#}", anyhow!("{other}")),
    };
    let lines: Vec<String> = text.lines().map(|line| printable(line.trim().as_bytes())).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{config_text, explain, known_hosts_text, place, quote, word};
    use crate::config::{Source, sample};

    fn source() -> Source {
        Source {
            host: "fe80::1%eth0".into(),
            port: 2222,
            identity: PathBuf::from("/var/lib/a \"b\"/id"),
            host_keys: vec!["ssh-ed25519 AAAA1".into(), "ssh-rsa AAAA2 comment".into()],
            ..sample::source("web")
        }
    }

    #[test]
    fn pinned_keys_stand_under_the_sources_name() {
        assert_eq!(known_hosts_text(&source()), "web ssh-ed25519 AAAA1\nweb ssh-rsa AAAA2 comment\n");
    }

    #[test]
    fn values_are_quoted_and_tokens_taken_literally() {
        let text = String::from_utf8(config_text(&source(), Path::new("/tmp/100%/known")).unwrap()).unwrap();
        assert!(
            text.contains("\nHostName \"fe80::1%%eth0\"\nUser \"backup\"\nUserKnownHostsFile \"/tmp/100%%/known\"\n"),
            "{text}"
        );
        assert!(text.ends_with("\nIdentityFile \"/var/lib/a \\\"b\\\"/id\"\n"), "{text}");
        let evil = Source { host: "a\nProxyCommand evil".into(), ..source() };
        assert!(config_text(&evil, Path::new("/k")).unwrap_err().to_string().contains("its HostName has a line end in it"));
    }

    #[test]
    fn a_socket_name_with_spaces_and_quotes_stays_one_word() {
        let mut line = Vec::new();
        quote(Path::new("/tmp/it's here"), &mut line);
        assert_eq!(line, b"'/tmp/it''s here'");
    }

    #[test]
    fn a_word_for_the_servers_shell_means_itself() {
        for text in ["wiki", "it's", "a b\"c$d`e`\\", "'", ""] {
            let echoed = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", word(text))).output().unwrap();
            assert_eq!(String::from_utf8(echoed.stdout).unwrap(), text);
        }
        assert_eq!(word("it's"), "'it'\\''s'");
    }

    #[test]
    fn a_refused_connection_names_the_place_and_escapes_what_the_server_said() {
        let cause = std::io::Error::other("kex: \x1b[2Jgone\r\nConnection closed");
        let text = explain(&source(), &openssh::Error::Connect(cause)).to_string();
        assert!(
            text.starts_with("connecting to web (backup@[fe80::1%eth0]:2222): kex: \\u{1b}[2Jgone; Connection closed\nhint: "),
            "{text}"
        );
        assert_eq!(place(&Source { host: "example.org".into(), ..source() }), "web (backup@example.org:2222)");
    }
}
