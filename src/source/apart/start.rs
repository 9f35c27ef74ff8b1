//! How a helper is started: as whoever runs us, or by root as a source's user.
//!
//! Root that may become others, as at a shell, starts it with a view of the files of its own ([`super::view`]). The services of an
//! appliance may not: for each pull, they have systemd make a unit, `vaultberry-pull-SOURCE.service`, with the same view, and with
//! the bounds of `vaultberry-pull-.service.d`. Whatever the helper leaves running ends with the unit.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{Account, NUMBERS, give};
use super::view;
use crate::{process, sandbox};

/// The bits of capabilities in /proc/self/status (capability(7), `linux/capability.h`).
const CAP_SETUID: u32 = 7;
const CAP_SYS_ADMIN: u32 = 21;

/// How often it is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long one may take to end once it was asked to, or has said its last word. What it runs is asked first.
const GRACE: Duration = Duration::from_secs(30);

/// A helper at work.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    orders: Option<ChildStdin>,
    unit: Option<String>,
    grace: Duration,
}

/// Whether this process, which is root's, can become other users and show them files.
pub(super) fn can_become_others() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    [CAP_SETUID, CAP_SYS_ADMIN].iter().all(|bit| capabilities & (1 << bit) != 0)
}

/// One that pulls into `mirror`.
///
/// # Errors
/// It can't be started.
pub(super) fn for_mirror(name: &str, mirror: &Path, account: Option<Account>) -> Result<Helper> {
    match account.filter(|account| !account.is_ours()) {
        None => at_hand(name, Some(mirror), account),
        Some(account) => in_a_unit(name, mirror, account),
    }
}

/// One that is a child of ours, and sees `mirror` if that is there.
///
/// # Errors
/// It can't be started.
pub(super) fn at_hand(name: &str, mirror: Option<&Path>, account: Option<Account>) -> Result<Helper> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("apart");
    if let Some(account) = account {
        // A copy of a key may be in one.
        sandbox::clean(&|uid| NUMBERS.contains(&uid));
        command.arg("--account").arg(account.number().to_string());
        if let Some(mirror) = mirror.filter(|mirror| mirror.is_dir()) {
            command.arg("--mirror").arg(mirror);
        }
    }
    Helper::start(command, None, GRACE).with_context(|| format!("starting the helper for {name}"))
}

fn in_a_unit(name: &str, mirror: &Path, account: Account) -> Result<Helper> {
    let cover = view::cover(mirror)?;
    if cover.as_os_str().as_bytes().contains(&b':') {
        bail!(
            "having systemd show {} alone: there is a colon in its name\nhint: have a [backup] folder without one",
            mirror.display()
        );
    }
    let unit = format!("vaultberry-pull-{name}.service");
    // That of a run that was killed may not be through yet.
    stop(&unit)?;
    let mut command = process::tool("systemd-run");
    command.args(["--quiet", "--collect", "--wait", "--pipe", "--service-type=exec"]);
    command.args([format!("--unit={unit}"), format!("--description=Pull of {name}")]);
    let number = account.number();
    let mut property = |name: &str, value: OsString| {
        command.arg("--property").arg([OsString::from(name), value].into_iter().collect::<OsString>());
    };
    property("User=", number.to_string().into());
    property("TemporaryFileSystem=", quoted(cover));
    property("BindPaths=", quoted(mirror));
    if !account.owns() {
        // With all rights, and with nothing in the path that stands for something else.
        let give = format!("+:chown {} ", give(number).join(" "));
        // With many files it takes long, once.
        property("TimeoutStartSec=", "infinity".into());
        property("ExecStartPre=", [OsString::from(give), quoted(mirror)].into_iter().collect());
    }
    let program = std::env::current_exe().context("looking where this program is")?;
    command.arg("--").arg(program).arg("apart");
    Helper::start(command, Some(unit), GRACE).with_context(|| format!("having systemd start the helper for {name}"))
}

/// A path as one word of a property (systemd.syntax(7), systemd.exec(5)): nothing in it means anything.
fn quoted(path: &Path) -> OsString {
    let mut text = vec![b'"'];
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            _ => text.push(byte),
        }
    }
    text.push(b'"');
    OsString::from_vec(text)
}

/// Ends a unit, with all that runs in it; one that isn't there has ended.
fn stop(unit: &str) -> Result<()> {
    let output = process::tool("systemctl").args(["stop", "--quiet", unit]).output().context("starting systemctl")?;
    // 5: there is no such unit (LSB, as systemctl(1) has it).
    if output.status.success() || output.status.code() == Some(5) {
        return Ok(());
    }
    bail!("stopping {unit}: {}", String::from_utf8_lossy(&output.stderr).trim())
}

impl Helper {
    pub(super) fn start(mut command: Command, unit: Option<String>, grace: Duration) -> Result<Self> {
        // Nothing of ours is for it, which may be root's, but where programs are and temporary files go.
        let kept = ["PATH", "TMPDIR"].map(|name| (name, std::env::var_os(name)));
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        command.envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take();
        Ok(Self { child, orders, unit, grace })
    }

    /// Where it is told what to do.
    pub(super) fn orders(&mut self) -> &mut ChildStdin {
        self.orders.as_mut().expect("it is told before it is let go")
    }

    /// Where it is heard: its words, and its complaints. It is, once.
    pub(super) fn outputs(&mut self) -> (ChildStdout, ChildStderr) {
        self.child.stdout.take().zip(self.child.stderr.take()).expect("it is heard once")
    }

    /// Asks it to stop.
    pub(super) fn let_go(&mut self) {
        self.orders = None;
    }

    /// Whether it has.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// How long it may take to end.
    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// Has it end, by force when that is over, and says how that was, for one that said nothing.
    ///
    /// # Errors
    /// It can't be ended.
    pub(super) fn end(&mut self) -> Result<String> {
        self.let_go();
        let begun = Instant::now();
        while !self.has_ended() && begun.elapsed() < self.grace {
            thread::sleep(LOOK);
        }
        // Also with all that it started.
        self.unit.as_deref().map_or(Ok(()), stop)?;
        if !self.has_ended() {
            self.child.kill().context("ending a helper")?;
        }
        let status = self.child.wait().context("waiting for a helper")?;
        let (what, hint) = match &self.unit {
            None => ("the helper that deals with the server", "the log has what it said last".to_owned()),
            Some(unit) => (unit.as_str(), format!("see the log, and `journalctl -u {unit}`")),
        };
        Ok(format!("{what} ended without a word: {status}\nhint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::quoted;

    #[test]
    fn a_path_is_one_word_of_a_property() {
        assert_eq!(quoted(Path::new("/mnt/back up/it's")), "\"/mnt/back up/it's\"");
        assert_eq!(quoted(Path::new("/a\"b\\c:d")), "\"/a\\\"b\\\\c:d\"");
    }
}
