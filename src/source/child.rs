//! A child program at work for a source, from start to exit status: rsync, or ssh with a command for the server.
//!
//! Its stdout goes, block by block, to whoever called; its stderr is read beside that, so that it never blocks on a full
//! pipe, and only its ends are kept, so that a server can't fill our memory through it. The end of its stdout means
//! nothing by itself: the exit status, which comes after, says whether that was all.
//!
//! A stop request ends it politely; when the run is killed, its sandbox ends it. Its limits are looked at while it runs: how long it
//! may be silent, how fast it may be, and how much room there is.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::sandbox::NO_SANDBOX;
use crate::source::ends::Ends;
use crate::source::room::Room;
use crate::stop::Stop;

/// How much of an output's beginning is kept, in bytes.
pub const FIRST: usize = 64 << 10;

/// How much of an output's end is kept, in bytes.
pub const LAST: usize = 8 << 10;

/// How often the stop flag is looked at while a child runs.
const LOOK: Duration = Duration::from_millis(200);

/// How long a child gets to end by itself once asked.
const GRACE: Duration = Duration::from_secs(5);

/// How much is read of its stdout at once, in bytes: a pipe's size.
const BLOCK: usize = 64 << 10;

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The lines of its stderr, printable; with those that the server's side said.
    pub stderr: Vec<String>,
}

/// What a child is held to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits<'a> {
    /// How long it may write nothing to stdout.
    pub patience: Option<Duration>,
    /// How many bytes a second are taken from its stdout.
    pub pace: Option<u64>,
    /// The room for what it writes.
    pub room: Option<&'a Room<'a>>,
}

/// Runs `command`, and gives `take` what it writes to stdout.
///
/// # Errors
/// It couldn't be run, exceeded its limits, a stop was asked for, or `take` failed. It is ended then. A bad exit status
/// is for the caller to judge.
pub async fn run(
    mut command: Command,
    limits: Limits<'_>,
    stop: &Stop,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("starting a program")?;
    let mut stdout = child.stdout.take().expect("it was piped");
    let stderr = tokio::spawn(drain(child.stderr.take().expect("it was piped")));
    if let Err(error) = pass_on(&mut stdout, limits, stop, take).await {
        end(&mut child).await;
        // All that it started has ended when nobody has its stderr any more: rsync's receiver tidies up yet.
        let _ = timeout(GRACE, stderr).await;
        return Err(error);
    }
    let status = wait(&mut child, stop).await?;
    let stderr = stderr.await.context("reading what a child says")?.lines();
    if status.code() == Some(NO_SANDBOX.into()) && stderr.iter().any(|line| line.starts_with("error: entering the sandbox")) {
        bail!("{}", stderr.join("\n"));
    }
    Ok(Ended { code: status.code(), stderr })
}

/// Reads stdout to its end.
async fn pass_on<R: AsyncRead + Unpin>(
    stdout: &mut R,
    limits: Limits<'_>,
    stop: &Stop,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut block = vec![0; BLOCK];
    let begun = Instant::now();
    let (mut heard, mut taken) = (begun, 0);
    loop {
        match timeout(LOOK, stdout.read(&mut block)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(length)) => {
                heard = Instant::now();
                take(&block[..length])?;
                taken += length as u64;
            }
            Ok(Err(error)) => return Err(error).context("reading what a child writes"),
            Err(_) => {}
        }
        stop.check()?;
        limits.room.map_or(Ok(()), Room::check)?;
        while let Some(early) = limits.pace.and_then(|pace| due(taken, pace).checked_sub(begun.elapsed())) {
            sleep(early.min(LOOK)).await;
            stop.check()?;
            heard = Instant::now();
        }
        if let Some(patience) = limits.patience.filter(|patience| heard.elapsed() > *patience) {
            bail!("nothing came for {} minutes", patience.as_secs() / 60);
        }
    }
}

/// When so many bytes may have come at `pace`, since the beginning.
fn due(bytes: u64, pace: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / pace.max(1))
}

async fn wait(child: &mut Child, stop: &Stop) -> Result<ExitStatus> {
    loop {
        match timeout(LOOK, child.wait()).await {
            // A signal from the terminal reaches the child too: its exit status is then ours, not the server's doing.
            Ok(status) => {
                stop.check()?;
                return status.context("waiting for a child");
            }
            Err(_) if stop.requested() => {
                end(child).await;
                stop.check()?;
            }
            Err(_) => {}
        }
    }
}

/// Ends a child. SIGTERM lets rsync tell its other processes and remove its temporary file; SIGKILL comes when that takes too long.
pub(super) async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

/// Reads to the end and keeps the ends.
async fn drain<R: AsyncRead + Unpin>(mut reader: R) -> Ends {
    let mut ends = Ends::new(FIRST, LAST);
    let mut block = [0; 8192];
    while let Ok(length @ 1..) = reader.read(&mut block).await {
        ends.take(&block[..length]);
    }
    ends
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use anyhow::{Result, bail};
    use tokio::process::Command;

    use super::{Ended, Limits, due, run};
    use crate::stop::Stop;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn block_on(
        command: Command,
        patience: Option<Duration>,
        stop: &Stop,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(command, Limits { patience, ..Limits::default() }, stop, take))
    }

    #[test]
    fn all_of_stdout_passes_and_a_bad_exit_status_is_handed_on_with_what_was_said() {
        let mut taken = Vec::new();
        let script =
            "yes | head -c 300000; i=0; while [ $i -lt 20000 ]; do echo noise >&2; i=$((i+1)); done; echo why >&2; exit 7";
        let ended = block_on(shell(script), None, &Stop::default(), &mut |block| {
            taken.extend_from_slice(block);
            Ok(())
        });
        let ended = ended.unwrap();
        assert_eq!((ended.code, taken.len()), (Some(7), 300_000));
        assert!(ended.stderr.len() < 20_000 && ended.stderr.last().unwrap() == "why", "{:?}", ended.stderr.last());
        assert_eq!(block_on(shell("kill -KILL $$"), None, &Stop::default(), &mut |_| Ok(())).unwrap().code, None);
    }

    #[test]
    fn the_pace_says_when_so_much_may_have_come() {
        assert_eq!(due(3 << 20, 1 << 20), Duration::from_secs(3));
        assert_eq!(due(0, 1 << 20), Duration::ZERO);
        let mut command = Command::new("head");
        command.args(["-c", "300000", "/dev/zero"]);
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limits = Limits { pace: Some(600_000), ..Limits::default() };
        runtime.block_on(run(command, limits, &Stop::default(), &mut |_| Ok(()))).unwrap();
        assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_stop_a_silence_and_a_taker_that_fails_end_the_child() {
        let begun = Instant::now();
        let stop = Stop::default();
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            asked.request();
        });
        let error = block_on(shell("exec sleep 60"), None, &stop, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "interrupted by a signal");
        thread.join().unwrap();
        let error = block_on(shell("exec sleep 60"), Some(Duration::ZERO), &Stop::default(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "nothing came for 0 minutes");
        let error = block_on(shell("exec yes"), None, &Stop::default(), &mut |_| bail!("the disk is full")).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
