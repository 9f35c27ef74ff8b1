//! Processes that are there though what we started has ended.
//!
//! A program that a server has taken over can start others, and let them outlive it: they would be at work in the source's
//! folder while we are. A run takes in all orphans below it ([`adopt`]), so that nothing gets away from it, and after each pull
//! ends what is left of the source's user.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How often processes are looked for that should have ended, and how long is waited in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// What matters of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    uid: u32,
    /// It waits to be asked how it ended.
    over: bool,
}

/// Has processes that lose their parent become children of this one, for as long as it lives (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`).
pub fn adopt() -> Result<()> {
    set_child_subreaper(true).context("taking in orphans")
}

/// Ends all below this process that runs as the user of this number.
///
/// # Errors
/// The processes can't be listed, or new ones come as fast as they end.
pub fn end(account: u32) -> Result<()> {
    let this = i32::try_from(std::process::id()).context("asking for the own number")?;
    for _ in 0..TRIES {
        let processes = processes().context("listing the processes")?;
        let below = below(this, &processes);
        let found = below.iter().filter(|(_, process)| process.uid == account);
        let mut alive = false;
        for (pid, process) in found {
            alive |= !process.over;
            // Either may fail for one that has ended meanwhile.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
        if !alive {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    bail!("ending the processes of the user {account}: there are always more of them\nhint: look at `ps -u {account}`")
}

/// Those that descend from `this`.
fn below(this: i32, all: &HashMap<i32, Process>) -> Vec<(i32, Process)> {
    let is_below = |pid: &i32| {
        let line = std::iter::successors(all.get(pid), |process| all.get(&process.parent));
        // No line is longer than there are processes; one that was read while they changed could lead in a circle.
        line.take(all.len()).any(|process| process.parent == this)
    };
    all.iter().filter(|(pid, _)| is_below(pid)).map(|(pid, process)| (*pid, *process)).collect()
}

/// All processes by number (proc(5)).
fn processes() -> Result<HashMap<i32, Process>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if let Some(process) = parse(&status) {
            all.insert(pid, process);
        }
    }
    Ok(all)
}

fn parse(status: &str) -> Option<Process> {
    let word = |begin: &str| status.lines().find_map(|line| line.strip_prefix(begin))?.split_whitespace().next();
    Some(Process { parent: word("PPid:")?.parse().ok()?, uid: word("Uid:")?.parse().ok()?, over: word("State:")? == "Z" })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Process, below, parse, processes};

    #[test]
    fn descendants_are_found_over_generations_and_circles_end() {
        let process = |parent| Process { parent, uid: 0, over: false };
        let all: HashMap<i32, Process> =
            [(1, 0), (10, 1), (20, 10), (30, 20), (40, 1), (50, 51), (51, 50)].map(|(pid, parent)| (pid, process(parent))).into();
        let mut found: Vec<i32> = below(10, &all).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, [20, 30]);
    }

    #[test]
    fn this_process_is_among_all() {
        let status = "Name:\tx\nState:\tZ (zombie)\nPPid:\t7\nUid:\t60706\t60706\t60706\t60706\n";
        assert_eq!(parse(status), Some(Process { parent: 7, uid: 60706, over: true }));
        assert_eq!(parse(""), None);
        let this = i32::try_from(std::process::id()).unwrap();
        let parent = processes().unwrap()[&this].parent;
        assert!(below(parent, &processes().unwrap()).iter().any(|(pid, _)| *pid == this));
    }
}
