//! A server's host keys, for the owner to compare and to pin.
//!
//! Each kind of key is asked for by a connection that ends before any login, since a server shows one key at a time. Nothing of
//! it is trusted, and nothing is written down but what the owner then puts into the configuration.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::log::printable;
use crate::sandbox::Cell;
use crate::secret::Secret;
use crate::source::child::{self, Limits};
use crate::source::{runtime, ssh};
use crate::stop::Stop;

/// What is asked for, the best first.
const ALGORITHMS: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512,rsa-sha2-256"];

/// How long a server may take to show one.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where keys are asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    host: String,
    port: u16,
    jump: Option<config::Source>,
    pinned: Vec<String>,
}

/// What it showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offered {
    host: String,
    port: u16,
    keys: Vec<Key>,
}

/// One of its keys.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    /// As `host_keys` has it.
    line: String,
    /// As `ssh-keygen -l` shows it.
    fingerprint: String,
    /// Whether the configuration has it.
    pinned: bool,
}

impl Server {
    /// That of the source `name`.
    ///
    /// # Errors
    /// There is no such source.
    pub fn of(config: &Config, name: &str) -> Result<Self> {
        let Some(source) = config.sources.iter().find(|source| source.name == name) else {
            let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
            bail!(
                "asking for host keys: there is no source {}\nhint: there are {}",
                printable(name.as_bytes()),
                names.join(", ")
            );
        };
        let jump = source.jump.is_some().then(|| source.clone());
        Ok(Self { host: source.host.clone(), port: source.port, jump, pinned: source.host_keys.clone() })
    }

    /// One of which no more is known than `HOST` or `HOST:PORT`.
    ///
    /// # Errors
    /// That is no host.
    pub fn at(text: &str) -> Result<Self> {
        let (host, port) =
            config::host_and_port(text).with_context(|| format!("asking {} for host keys", printable(text.as_bytes())))?;
        Ok(Self { host, port, jump: None, pinned: Vec::new() })
    }

    /// The source that tells the way there, where that isn't straight.
    pub fn jump(&self) -> Option<&config::Source> {
        self.jump.as_ref()
    }
}

/// Asks it.
///
/// # Errors
/// It shows none.
pub fn ask(server: &Server, key: &Secret<Vec<u8>>, stop: &Stop) -> Result<Offered> {
    let cell = Cell::new()?;
    let mut keys = Vec::new();
    let mut said = Vec::new();
    for algorithm in ALGORITHMS {
        let known_hosts = cell.inner("keys")?.join(algorithm);
        said = runtime()?.block_on(one(server, key, &cell, algorithm, &known_hosts, stop))?;
        // `NAME TYPE KEY`; nothing was written where the server has no such key.
        let line = fs::read_to_string(&known_hosts).unwrap_or_default();
        if let Some((_, key)) = line.trim_end().split_once(' ') {
            let fingerprint = config::key_fingerprint(key);
            let pinned = server.pinned.iter().any(|pinned| same(pinned, key));
            keys.push(Key { line: key.to_owned(), fingerprint, pinned });
        }
    }
    if keys.is_empty() {
        bail!(
            "asking {} port {} for host keys: it shows none: {}\nhint: check that it is up and that host and port are right; an appliance reaches \
             the ports of its sources and 22: add the source, run `vaultberry harden apply`, and ask again",
            server.host,
            server.port,
            said.join("; ")
        );
    }
    Ok(Offered { host: server.host.clone(), port: server.port, keys })
}

/// Lets ssh write the key of this kind to `known_hosts`, and gives what it said.
async fn one(
    server: &Server,
    key: &Secret<Vec<u8>>,
    cell: &Cell,
    algorithm: &str,
    known_hosts: &Path,
    stop: &Stop,
) -> Result<Vec<String>> {
    let mut sandbox = cell.sandbox();
    sandbox.write(known_hosts.parent().context("it has no folder")?);
    sandbox.connect(server.port);
    let way = server.jump.as_ref().map(|source| (source, source.jump.as_ref().map_or(22, |jump| jump.port)));
    let config = match way {
        // The way there is proven as ever; only the last key is new.
        Some((source, port)) => {
            sandbox.connect(port);
            ssh::prepare(source, key, cell)?
        }
        None => "none".into(),
    };
    let file = known_hosts.to_str().context("the folder's name is not UTF-8")?;
    let mut command = sandbox.command("ssh");
    command.arg("-F").arg(config);
    command.args(["-o", &format!("HostKeyAlgorithms={algorithm}"), "-o", &format!("UserKnownHostsFile={file}")]);
    command.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "HashKnownHosts=no", "-o", "UpdateHostKeys=no"]);
    command.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "HostKeyAlias=server"]);
    command.args(["-o", "PreferredAuthentications=none", "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR"]);
    command.args(["-p", &server.port.to_string(), "-l", "nobody", "-T", "--"]);
    command.args([way.map_or(&server.host, |(source, _)| &source.name), "true"]);
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let ended = child::run(command, limits, stop, &mut |_| Ok(())).await.context("asking for host keys")?;
    Ok(ended.stderr)
}

/// Whether two lines are of the same key, whatever comments they have.
fn same(one: &str, other: &str) -> bool {
    let key = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    key(one) == key(other)
}

impl Offered {
    /// Makes what another process says of it fit to be shown.
    ///
    /// # Errors
    /// It has no keys.
    pub(super) fn check(&mut self) -> Result<()> {
        let shown = |text: &mut String| *text = printable(text.as_bytes());
        self.keys.truncate(ALGORITHMS.len());
        shown(&mut self.host);
        self.keys.iter_mut().flat_map(|key| [&mut key.line, &mut key.fingerprint]).for_each(shown);
        if self.keys.is_empty() {
            bail!("asking for host keys: there are none");
        }
        Ok(())
    }

    /// Whether the configuration has one of them.
    pub fn is_pinned(&self) -> bool {
        self.keys.iter().any(|key| key.pinned)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{} port {} shows:\n", self.host, self.port);
        for key in &self.keys {
            let pinned = if key.pinned { "  (pinned)" } else { "" };
            let _ = writeln!(text, "  {}{pinned}", key.fingerprint);
        }
        let best = &self.keys[0].line;
        if !self.is_pinned() {
            let _ = writeln!(
                text,
                "If `ssh-keygen -lf` says the same of /etc/ssh/ssh_host_*_key.pub on the server itself, pin it:\n  host_keys = \
                 [\"{best}\"]"
            );
        }
        text
    }
}
