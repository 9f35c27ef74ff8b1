//! The connection to a source: one master, over which everything else of that source goes.
//!
//! OpenSSH's own client does the work, told everything by a configuration file made for this connection, so that neither
//! the system's nor a user's settings, keys, agents or known hosts have a say. The server must show one of the host keys
//! that `appliance.toml` pins; there is no first-use trust, and a server can't teach us further keys. It runs in the source's
//! [`Cell`], as everything that hears from the server does. Of the key it has a copy until it is in.

mod config;
mod refused;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use openssh::Session;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::config::Source;
use crate::sandbox::Cell;
use crate::secret::Secret;
use crate::source::child::{self, Limits};
use crate::source::ends::Ends;
use crate::source::gate::Gate;
use crate::source::request::Request;
use crate::source::retries::Retries;
use crate::stop::Stop;

use config::{configure, copy_key};
pub use config::{prepare, read_key};
use refused::{Refused, explain};

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
    key: &'a Secret<Vec<u8>>,
    cell: &'a Cell,
    config: PathBuf,
    socket: PathBuf,
    session: Session,
    master: Child,
    gate: Option<Gate>,
    lost: Option<String>,
}

impl<'a> Connection<'a> {
    /// Connects and logs in, from within `cell`. What may be otherwise in a while is tried again, as often as the source says.
    ///
    /// # Errors
    /// The message names source, host and port, and what will probably help. Or a stop was asked for.
    pub async fn open(source: &'a Source, key: &'a Secret<Vec<u8>>, cell: &'a Cell, stop: &Stop) -> Result<Self> {
        let mut retries = Retries::new(source.retries);
        loop {
            let refused = match Self::try_open(source, key, cell, stop).await {
                Ok(connection) => {
                    if let Err(error) = connection.greet(stop).await {
                        connection.close().await;
                        return Err(error);
                    }
                    return Ok(connection);
                }
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

    /// Asks the gate, where there is one, whether it is that of this configuration.
    async fn greet(&self, stop: &Stop) -> Result<()> {
        if self.gate.is_none() {
            return Ok(());
        }
        let limits = Limits { patience: Some(LOGIN_TIMEOUT), ..Limits::default() };
        let ended = child::run(self.command(&Request::quiet()), limits, stop, &mut |_| Ok(())).await?;
        if ended.code == Some(0) {
            return Ok(());
        }
        let name = &self.source.name;
        bail!(
            "asking the gate of {name}: {}\nhint: run on the server what `vaultberry source setup {name}` prints, as after each \
             change of the source",
            ended.stderr.last().map_or("it ended without a word", String::as_str)
        )
    }

    async fn try_open(source: &'a Source, key: &'a Secret<Vec<u8>>, cell: &'a Cell, stop: &Stop) -> Result<Self, Refused> {
        let config = configure(source, cell)?;
        let socket = cell.inner("master")?.join("socket");
        let copy = copy_key(key, cell)?;
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
                fs::remove_file(&copy).with_context(|| format!("removing {}", copy.display()))?;
                let session = Session::resume_mux(socket.clone().into_boxed_path(), None);
                let answered = timeout(CONNECT_TIMEOUT, session.check()).await;
                answered.context("the ssh master doesn't answer")?.context("asking the ssh master whether it is up")?;
                return Ok(Self { source, key, cell, config, socket, session, master, gate: Gate::of(source), lost: None });
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
        let _ = fs::remove_file(&copy);
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
        match Self::open(self.source, self.key, self.cell, stop).await {
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

    /// An `ssh`, not started, that asks for this over this connection, and over no other.
    pub fn command(&self, request: &Request) -> Command {
        let line = self.gate.as_ref().map_or_else(|| request.line().to_owned(), |gate| gate.ask(request));
        let mut command = self.cell.sandbox().command("ssh");
        command.arg("-F").arg(&self.config).arg("-S").arg(&self.socket);
        command.args(ONLY_THIS).args(["--", &self.source.name, &line]);
        command
    }

    /// What the server's gate is asked with; none where the account has a shell.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{quote, word};

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
}
