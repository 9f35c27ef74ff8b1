//! The connection to a source: one master, over which everything else of that source goes.
//!
//! OpenSSH's own client does the work, told everything by a configuration file made for this connection, so that neither
//! the system's nor a user's settings, keys, agents or known hosts have a say. The server must show one of the host keys
//! that `appliance.toml` pins; there is no first-use trust, and a server can't teach us further keys. It runs in the source's
//! [`Cell`], as everything that hears from the server does. Of the key it has a copy until it is in.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use openssh::Session;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::config::Source;
use crate::sandbox::{Cell, NO_PROGRAM, NO_SANDBOX};
use crate::secret::Secret;
use crate::source::child;
use crate::source::ends::Ends;
use crate::source::retries::Retries;
use crate::stop::Stop;

/// How long a server may take until it has let us in. ssh counts the key exchange in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the server may take after that for the login. It counts what a command for keys or a directory service takes.
const LOGIN_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a master may take to answer that it will end.
const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether the master is up.
const LOOK: Duration = Duration::from_millis(10);

/// ssh asks a silent server for a sign of life this often, and gives up after three unanswered ones (its default).
const ALIVE_SECONDS: u64 = 20;

/// How much of what the master says is kept at each end, in bytes.
const KEPT: usize = 4 << 10;

/// If the master is gone, ssh would connect by itself. A proxy that ends at once forbids that. And no terminal is wanted.
const ONLY_THIS: [&str; 5] = ["-o", "ProxyCommand=false", "-o", "BatchMode=yes", "-T"];

/// An open master connection. Dropped, it is closed.
#[derive(Debug)]
pub struct Connection<'a> {
    source: &'a Source,
    cell: &'a Cell,
    config: PathBuf,
    socket: PathBuf,
    session: Session,
    master: Child,
    lost: Option<String>,
}

impl<'a> Connection<'a> {
    /// Connects and logs in, from within `cell`. What may be otherwise in a while is tried again, as often as the source says.
    ///
    /// # Errors
    /// The message names source, host and port, and what will probably help. Or a stop was asked for.
    pub async fn open(source: &'a Source, cell: &'a Cell, stop: &Stop) -> Result<Self> {
        let mut retries = Retries::new(source.retries);
        loop {
            let refused = match Self::try_open(source, cell, stop).await {
                Ok(connection) => return Ok(connection),
                Err(refused) => refused,
            };
            stop.check()?;
            let why = || refused.error.to_string().replace('\n', "; ");
            if refused.permanent || !retries.wait(&why, stop).await? {
                return Err(match retries.tried() {
                    0 => refused.error,
                    tried => refused.error.context(format!("tried {} times", tried + 1)),
                });
            }
        }
    }

    async fn try_open(source: &'a Source, cell: &'a Cell, stop: &Stop) -> Result<Self, Refused> {
        let config = configure(source, cell)?;
        let socket = cell.own_folder("master")?.join("socket");
        let key = key(source, cell)?;
        let mut sandbox = cell.sandbox();
        sandbox.write(socket.parent().expect("it has one"));
        sandbox.connect(source.port);
        if let Some(jump) = &source.jump {
            sandbox.connect(jump.port);
        }
        let mut command = sandbox.command("ssh");
        command.arg("-F").arg(&config).arg("-S").arg(&socket);
        command.args(["-o", "BatchMode=yes", "-M", "-N", "-T", "--", &source.name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut master = command.spawn().context("starting ssh")?;
        let said = tokio::spawn(drain(master.stderr.take().expect("it was piped")));
        let begun = Instant::now();
        let ended = loop {
            if socket.exists() {
                // It is in, and needs the key no more.
                fs::remove_file(&key).with_context(|| format!("removing {}", key.display()))?;
                let session = Session::resume_mux(socket.clone().into_boxed_path(), None);
                let answered = timeout(CONNECT_TIMEOUT, session.check()).await;
                answered.context("the ssh master doesn't answer")?.context("asking the ssh master whether it is up")?;
                return Ok(Self { source, cell, config, socket, session, master, lost: None });
            }
            if let Ok(ended) = timeout(LOOK, master.wait()).await {
                break Some(ended.context("waiting for ssh")?);
            }
            stop.check()?;
            if begun.elapsed() > CONNECT_TIMEOUT + LOGIN_TIMEOUT {
                let _ = master.kill().await;
                break None;
            }
        };
        let _ = fs::remove_file(&key);
        let said = said.await.context("reading what ssh says")?.lines();
        let status = ended.and_then(|status| status.code());
        Err(explain(source, &said, status))
    }

    /// Connects again when it no longer stands. Where that failed once, it isn't tried another time.
    ///
    /// # Errors
    /// There is no connection; or a stop was asked for.
    pub async fn ensure(&mut self, stop: &Stop) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        if let Some(why) = &self.lost {
            bail!("{why}");
        }
        tracing::warn!(source = self.source.name, "the connection is gone, connecting again");
        match Self::open(self.source, self.cell, stop).await {
            Ok(connection) => *self = connection,
            Err(error) => {
                stop.check()?;
                self.lost = Some(format!("{error:#}"));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether it still stands, as far as is known here.
    pub fn is_up(&mut self) -> bool {
        matches!(self.master.try_wait(), Ok(None))
    }

    /// The source that it is to.
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// Where its programs are at work.
    pub fn cell(&self) -> &'a Cell {
        self.cell
    }

    /// The remote shell for `rsync -e`: ssh over this connection, and over no other.
    pub fn remote_shell(&self) -> Vec<u8> {
        let mut shell = b"ssh -F ".to_vec();
        quote(&self.config, &mut shell);
        shell.extend_from_slice(b" -S ");
        quote(&self.socket, &mut shell);
        for option in ONLY_THIS {
            shell.push(b' ');
            shell.extend_from_slice(option.as_bytes());
        }
        shell
    }

    /// An `ssh`, not started, that runs `line`, for the shell of the user there, over this connection, and over no other.
    pub fn command(&self, line: &str) -> Command {
        let mut command = self.cell.sandbox().command("ssh");
        command.arg("-F").arg(&self.config).arg("-S").arg(&self.socket);
        command.args(ONLY_THIS).args(["--", &self.source.name, line]);
        command
    }

    /// What stands for the server in an argument of rsync. It's no host name: ssh looks it up in the configuration file.
    pub fn alias(&self) -> &str {
        &self.source.name
    }

    /// Ends the master and waits for its end. A connection that broke before is no error here: whoever used it knows.
    pub async fn close(mut self) {
        if self.is_up() {
            // No new sessions; then its own ends too.
            if let Ok(Err(error)) = timeout(GRACE, self.session.close()).await {
                tracing::debug!("closing the connection to {}: {error}", self.source.name);
            }
            child::end(&mut self.master).await;
        }
    }
}

/// Source, host and port, as messages name them.
fn place(source: &Source) -> String {
    let Source { name, host, port, user, .. } = source;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let jump = source.jump.as_ref().map(|jump| format!(" by way of {}", jump.host)).unwrap_or_default();
    format!("{name} ({user}@{host}:{port}{jump})")
}

/// Puts all that ssh needs into `cell`, the key too, and gives its configuration's name.
///
/// # Errors
/// There is no key, or something can't be written.
pub fn prepare(source: &Source, cell: &Cell) -> Result<PathBuf> {
    key(source, cell).map_err(|refused| refused.error)?;
    configure(source, cell)
}

/// Writes ssh's configuration and the pinned keys, and gives the former's name.
fn configure(source: &Source, cell: &Cell) -> Result<PathBuf> {
    let known_hosts = cell.file("known_hosts", known_hosts_text(source).as_bytes())?;
    cell.file("config", &config_text(source, &known_hosts, &cell.folder().join(KEY))?)
}

/// The name of the key's copy.
const KEY: &str = "key";

/// Copies the source's key to where ssh can read it: the key's own place is root's alone. ssh wants it to be its user's own.
fn key(source: &Source, cell: &Cell) -> Result<PathBuf, Refused> {
    let identity = &source.identity;
    let content = match fs::read(identity) {
        Ok(content) => Secret::new(content),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = anyhow!(
                "connecting to {}: there is no key {}\nhint: `vaultberry source key` makes it and shows the line for the \
                 server's authorized_keys",
                place(source),
                identity.display()
            );
            return Err(Refused { error, permanent: true });
        }
        Err(error) => return Err(anyhow!(error).context(format!("reading the key {}", identity.display())).into()),
    };
    let copy = cell.file(KEY, content.expose())?;
    let mine = fs::set_permissions(&copy, Permissions::from_mode(0o600));
    mine.with_context(|| format!("closing {}", copy.display()))?;
    cell.give(&copy)?;
    Ok(copy)
}

/// What stands for the jump host of `source` in files. No source has a dot in its name.
fn jump_alias(source: &Source) -> String {
    format!("{}.jump", source.name)
}

/// One line a pinned key. They stand under the source's name (`HostKeyAlias`), which spares the forms that `known_hosts` has
/// for ports and IPv6 addresses.
fn known_hosts_text(source: &Source) -> String {
    let own = source.host_keys.iter().map(|key| (source.name.clone(), key));
    let jump = source.jump.iter().flat_map(|jump| &jump.host_keys).map(|key| (jump_alias(source), key));
    own.chain(jump).fold(String::new(), |text, (name, key)| text + &format!("{name} {}\n", key.trim()))
}

/// The whole client configuration (`ssh_config(5)`).
fn config_text(source: &Source, known_hosts: &Path, key: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut host = |alias: &str, name: &str, user: &str, port: u16| -> Result<()> {
        text.extend_from_slice(format!("Host {alias}\nHostKeyAlias {alias}\nPort {port}\n").as_bytes());
        text.extend(setting(source, "HostName", name.as_ref())?);
        text.extend(setting(source, "User", user.as_ref())?);
        Ok(())
    };
    host(&source.name, &source.host, &source.user, source.port)?;
    if let Some(jump) = &source.jump {
        let alias = jump_alias(source);
        host(&alias, &jump.host, &jump.user, jump.port)?;
        text.extend_from_slice(format!("Host {}\nProxyJump {alias}\n", source.name).as_bytes());
    }
    text.extend_from_slice(
        format!(
            "Host *\n\
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
             ConnectTimeout {}\n\
             ServerAliveInterval {ALIVE_SECONDS}\n\
             LogLevel ERROR\n",
            CONNECT_TIMEOUT.as_secs()
        )
        .as_bytes(),
    );
    text.extend(setting(source, "UserKnownHostsFile", known_hosts.as_os_str())?);
    text.extend(setting(source, "IdentityFile", key.as_os_str())?);
    Ok(text)
}

/// A line of the configuration, its value quoted.
fn setting(source: &Source, key: &str, value: &OsStr) -> Result<Vec<u8>> {
    let mut text = format!("{key} \"").into_bytes();
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
    Ok(text)
}

/// Reads what the master says to its end, and keeps the ends.
async fn drain(mut stderr: ChildStderr) -> Ends {
    let mut ends = Ends::new(KEPT, KEPT);
    let mut block = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut block).await {
        ends.take(&block[..length]);
    }
    ends
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

/// Why there is no connection, and whether there would be one later.
#[derive(Debug)]
struct Refused {
    error: anyhow::Error,
    permanent: bool,
}

/// What is wrong here stays wrong.
impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self { error, permanent: true }
    }
}

/// What ssh said before it ended with `status`, with what will probably help.
fn explain(source: &Source, said: &[String], status: Option<i32>) -> Refused {
    let place = place(source);
    let text = if said.is_empty() { "ssh ended without a word".to_owned() } else { said.join("; ") };
    let permanent = |error| Refused { error, permanent: true };
    let hint = if text.contains("HOST IDENTIFICATION HAS CHANGED") || text.contains("Host key verification failed") {
        return permanent(anyhow!(
            "connecting to {place}: the server's host key is none of the keys pinned in `host_keys`: either the server was \
             set up anew, or this isn't the server\nhint: compare what `vaultberry source trust {}` shows with what \
             `ssh-keygen -lf` says of /etc/ssh/ssh_host_*_key.pub on the server itself, and put the right lines into `host_keys`",
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
    use std::path::Path;

    use super::{config_text, explain, known_hosts_text, place, quote, word};
    use crate::config::{Jump, Source, sample};

    fn source() -> Source {
        Source {
            host: "fe80::1%eth0".into(),
            port: 2222,
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
        let text = |source: &Source| {
            let text = config_text(source, Path::new("/tmp/100%/known"), Path::new("/tmp/a \"b\"/key"));
            text.map(|text| String::from_utf8(text).unwrap())
        };
        let plain = text(&source()).unwrap();
        let begin = "Host web\nHostKeyAlias web\nPort 2222\nHostName \"fe80::1%%eth0\"\nUser \"backup\"\nHost *\n";
        assert!(plain.starts_with(begin), "{plain}");
        let end = "\nUserKnownHostsFile \"/tmp/100%%/known\"\nIdentityFile \"/tmp/a \\\"b\\\"/key\"\n";
        assert!(plain.ends_with(end), "{plain}");
        let evil = Source { host: "a\nProxyCommand evil".into(), ..source() };
        assert!(text(&evil).unwrap_err().to_string().contains("its HostName has a line end in it"));
    }

    #[test]
    fn a_jump_host_has_a_name_and_keys_of_its_own() {
        let jump = Jump { host: "gate".into(), port: 22, user: "hop".into(), host_keys: vec!["ssh-ed25519 AAAA3".into()] };
        let source = Source { jump: Some(jump), ..source() };
        let text = String::from_utf8(config_text(&source, Path::new("/k"), Path::new("/i")).unwrap()).unwrap();
        let part = "Host web.jump\nHostKeyAlias web.jump\nPort 22\nHostName \"gate\"\nUser \"hop\"\nHost web\nProxyJump web.jump\nHost *\n";
        assert!(text.contains(part), "{text}");
        assert!(known_hosts_text(&source).ends_with("\nweb.jump ssh-ed25519 AAAA3\n"));
        assert_eq!(place(&source), "web (backup@[fe80::1%eth0]:2222 by way of gate)");
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
