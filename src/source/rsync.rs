//! One rsync, from start to exit status, with what it said kept in bounds.
//!
//! Both its outputs are read as they come, so that it never blocks on a full pipe, and only their beginnings are
//! kept, so that a server can't fill our memory through them.
//!
//! It never outlives the run. A stop request ends it politely. And should the run be killed, the kernel ends rsync with
//! it (`setpriv --pdeathsig`; doing that from here would take unsafe code): the lock is free from that moment, and an rsync
//! left over would go on writing and deleting in a mirror that the next run is at work in.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::log::printable;
use crate::stop::Stop;

/// How much of each output is kept, in bytes.
const KEPT: usize = 64 << 10;

/// How often the stop flag is looked at while rsync runs.
const LOOK: Duration = Duration::from_millis(200);

/// How long rsync gets to end by itself once asked.
const GRACE: Duration = Duration::from_secs(5);

/// How an rsync ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The lines of its stdout, printable.
    pub stdout: Vec<String>,
    /// The lines of its stderr, printable; with those that the server's side said.
    pub stderr: Vec<String>,
}

/// Runs rsync with `arguments`.
///
/// # Errors
/// It couldn't be run, or a stop was asked for; a bad exit status is for the caller to judge.
pub async fn run<A: AsRef<OsStr>>(arguments: &[A], stop: &Stop) -> Result<Ended> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "rsync"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Its messages are read here, so they have to be in one language; and no setting of whoever runs us may change it.
    command.env("LC_ALL", "C");
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"RSYNC_") {
            command.env_remove(variable);
        }
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the program `setpriv` is not there\nhint: apt-get install util-linux")
        }
        Err(error) => return Err(error).context("starting `setpriv` with `rsync`"),
    };
    let stdout = tokio::spawn(beginning(child.stdout.take().expect("it was piped")));
    let stderr = tokio::spawn(beginning(child.stderr.take().expect("it was piped")));
    let status = wait(&mut child, stop).await?;
    let stdout = stdout.await.context("reading what rsync says")?;
    let stderr = stderr.await.context("reading what rsync says")?;
    Ok(Ended { code: status.code(), stdout: lines(&stdout), stderr: lines(&stderr) })
}

async fn wait(child: &mut Child, stop: &Stop) -> Result<ExitStatus> {
    loop {
        match timeout(LOOK, child.wait()).await {
            // A signal from the terminal reaches rsync too: its exit status is then ours, not the server's doing.
            Ok(status) => {
                stop.check()?;
                return status.context("waiting for `rsync`");
            }
            Err(_) if stop.requested() => {
                end(child).await;
                stop.check()?;
            }
            Err(_) => {}
        }
    }
}

/// SIGTERM lets rsync tell its other processes and remove its temporary file; SIGKILL comes when that takes too long.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

/// Reads to the end and keeps the beginning.
async fn beginning<R: AsyncRead + Unpin>(mut reader: R) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut block = [0; 8192];
    while let Ok(length @ 1..) = reader.read(&mut block).await {
        kept.extend_from_slice(&block[..length.min(KEPT - kept.len())]);
    }
    kept
}

fn lines(text: &[u8]) -> Vec<String> {
    text.split(|&byte| byte == b'\n').map(|line| printable(line.trim_ascii())).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::{KEPT, beginning, lines, run};
    use crate::stop::Stop;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_output_without_end_is_read_and_only_its_beginning_kept() {
        let endless = vec![b'x'; KEPT * 3];
        assert_eq!(block_on(beginning(endless.as_slice())).len(), KEPT);
    }

    #[test]
    fn lines_are_printable_and_not_empty() {
        assert_eq!(lines(b"one\r\n\n  \x1b[2Jtwo\n"), ["one", "\\u{1b}[2Jtwo"]);
    }

    #[test]
    fn a_bad_exit_status_is_handed_on_with_what_was_said() {
        let ended = block_on(run(&["--no-such-option"], &Stop::default())).unwrap();
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr[0].contains("--no-such-option: unknown option"), "{:?}", ended.stderr);
    }
}
