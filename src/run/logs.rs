//! The logs of runs: one file each, in the state folder and beside the snapshots, the newest of them kept.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::durable::{self, Durable};
use crate::log::{self, RunLog};
use crate::redact::Redactor;
use crate::snapshot::list::{name_of, time_of};

/// What a log's name ends with.
pub const END: &str = ".log";

/// Names the run after its start, opens its log in the folder `logs`, with secrets masked by `redactor`, and gives both. A name is given once: the log of the
/// same second, should there be one, makes this run a second younger.
pub fn begin(logs: &Path, redactor: &Redactor) -> Result<(String, Timestamp, RunLog)> {
    loop {
        let started = Timestamp::now();
        let name = name_of(started);
        let path = logs.join(format!("{name}{END}"));
        match log::attach(&path, redactor.clone()) {
            Ok(log) => return Ok((name, started, log)),
            Err(_) if path.symlink_metadata().is_ok() => sleep(Duration::from_millis(200)),
            Err(error) => return Err(error),
        }
    }
}

/// Copies the log of `run` from `logs` to the folder `copies`, beside the snapshots that it speaks of.
pub fn copy(logs: &Path, copies: &Path, run: &str) -> Result<()> {
    let (from, to) = (logs.join(format!("{run}{END}")), copies.join(format!("{run}{END}")));
    durable::private_folder(copies)?;
    let mut copy = Durable::create(&to, 0o600)?;
    File::open(&from)
        .and_then(|mut log| io::copy(&mut log, copy.file()))
        .with_context(|| format!("copying the log to {}", to.display()))?;
    copy.publish()
}

/// Removes all logs in `folder` but the newest `keep`, of which that of `run` is one, and copies that were cut short. Other files
/// aren't touched.
pub fn rotate(folder: &Path, keep: u16, run: &str) -> Result<()> {
    let reading = || format!("looking for old logs in {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        if let Ok(name) = entry.with_context(reading)?.file_name().into_string() {
            names.push(name);
        }
    }
    let cut = names.extract_if(.., |name| name.strip_suffix(durable::PART).is_some_and(is_log)).collect::<Vec<_>>();
    for name in surplus(names, usize::from(keep), run).into_iter().chain(cut) {
        let path = folder.join(name);
        fs::remove_file(&path).with_context(|| format!("removing the old log {}", path.display()))?;
    }
    Ok(())
}

fn is_log(name: &str) -> bool {
    name.strip_suffix(END).is_some_and(|name| time_of(name).is_some())
}

/// Which of these names are of logs older than the newest `keep` up to `run`: the names of runs sort by time. Later ones are
/// from a clock that was wrong, and count as the oldest.
fn surplus(mut names: Vec<String>, keep: usize, run: &str) -> Vec<String> {
    names.retain(|name| is_log(name));
    names.sort_by_key(|name| (name.trim_end_matches(END) <= run, name.clone()));
    names.truncate(names.len().saturating_sub(keep));
    names
}

#[cfg(test)]
mod tests {
    use super::surplus;

    #[test]
    fn the_newest_logs_stay_and_other_files_are_left_alone() {
        let names = |list: &[&str]| list.iter().map(|name| String::from(*name)).collect::<Vec<_>>();
        let all = names(&[
            "20261123T023000Z.log",
            "20261121T023000Z.log",
            "notes.log",
            "20261122T023000Z.log",
            "20261120T023000Z.log.gz",
            "2026112XT023000Z.log",
        ]);
        assert_eq!(surplus(all.clone(), 2, "20261123T023000Z"), ["20261121T023000Z.log"]);
        assert!(surplus(all.clone(), 3, "20261123T023000Z").is_empty());
        assert_eq!(surplus(all.clone(), 1, "20261123T023000Z"), ["20261121T023000Z.log", "20261122T023000Z.log"]);
        assert_eq!(surplus(all, 1, "20261121T023000Z"), ["20261122T023000Z.log", "20261123T023000Z.log"], "a clock set back");
    }
}
