//! Processes that are there though the helper that started them has ended, or its run was killed.
//!
//! A program that a server has taken over can start others, and let them outlive it: they would be at work in the source's mirror
//! while we are. They are known by their user, and by the mirror, which nobody else sees mounted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mounts;

/// How often processes are looked for that should have ended, and how long is waited in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Ends all that runs as the user of this number and sees `mirror` mounted.
///
/// # Errors
/// The processes can't be listed, or new ones come as fast as they end.
pub(super) fn end(number: u32, mirror: &Path) -> Result<()> {
    for _ in 0..TRIES {
        let alive = processes(number, mirror).context("listing the processes")?;
        if alive.is_empty() {
            return Ok(());
        }
        for pid in alive {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
    bail!("ending the processes of the user {number}: there are always more of them\nhint: look at `ps -u {number}`")
}

/// Those that aren't over yet (proc(5)).
fn processes(number: u32, mirror: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if runs_as(&status, number) && mounts::is_mounted_for(pid, mirror) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn runs_as(status: &str, number: u32) -> bool {
    let word = |begin: &str| status.lines().find_map(|line| line.strip_prefix(begin))?.split_whitespace().next();
    word("State:").is_some_and(|state| state != "Z") && word("Uid:").and_then(|uid| uid.parse().ok()) == Some(number)
}

#[cfg(test)]
mod tests {
    use super::runs_as;

    #[test]
    fn the_dead_and_those_of_others_are_no_leftovers() {
        let status = "Name:\tx\nState:\tS (sleeping)\nPPid:\t7\nUid:\t60706\t60706\t60706\t60706\n";
        assert!(runs_as(status, 60706) && !runs_as(status, 60707) && !runs_as("", 0));
        assert!(!runs_as(&status.replace("S (sleeping)", "Z (zombie)"), 60706));
    }
}
