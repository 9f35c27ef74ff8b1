//! What became of the last four hundred runs: `history.jsonl` in the state folder, a line each, from the oldest to the newest.
//!
//! From it come the charts, and how long the disk will last. A line is appended and synced at the end of a run. A power cut
//! can tear the last one, so what can't be read is passed over, and whoever appends begins a line of their own. A run that
//! was killed gets its line, `failed`, from the next one. Runs that were skipped get none: they did nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::outcome::Outcome;
use crate::run::report::{Missed, RunReport, SourceReport};
use crate::snapshot::list;
use crate::space::Space;

/// The file's name.
const NAME: &str = "history.jsonl";

/// How many lines stay: more than a year of nights.
const MOST: usize = 400;

/// How much of the file is read at most, in bytes. Four hundred lines of a hundred sources take less.
const LARGEST: u64 = 16 << 20;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Night {
    /// Its name.
    pub run: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; none when it was killed.
    pub ended: Option<Timestamp>,
    /// How it went.
    pub outcome: Outcome,
    /// Its sources; none when a guard stopped it, or it was killed.
    pub sources: Vec<SourceNight>,
    /// The room of the backup disk at its end; none where that wasn't usable.
    pub disk: Option<Space>,
    /// The disk's serial number; none where that isn't known, as for a plain folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// One source of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNight {
    /// Its name.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// Bytes of the files in its snapshot.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Entries of the snapshot.
    pub entries: u64,
    /// What it couldn't get.
    pub missed: Missed,
    /// How its way off-site went; none where there was none.
    pub push: Option<Outcome>,
}

impl Night {
    /// The line of a run that has ended, on a disk with this serial number that has now this room.
    pub fn of(report: &RunReport, disk: Option<Space>, serial: Option<String>) -> Self {
        let source = |source: &SourceReport| SourceNight {
            name: source.name.clone(),
            outcome: source.outcome,
            bytes: source.bytes,
            archive_bytes: source.archive_bytes,
            entries: source.entries,
            missed: source.missed,
            push: source.push.as_ref().map(|push| push.outcome),
        };
        Self {
            run: report.run.clone(),
            started: report.started,
            ended: report.ended,
            outcome: report.outcome,
            sources: report.sources.iter().map(source).collect(),
            disk,
            serial,
        }
    }

    /// The line of a run that began then and didn't get to its end.
    pub fn killed(started: Timestamp) -> Self {
        let run = list::name_of(started);
        Self { run, started, ended: None, outcome: Outcome::Failed, sources: Vec::new(), disk: None, serial: None }
    }
}

/// The runs that are known in the folder `state`, from the oldest to the newest; none when there is no history yet.
///
/// # Errors
/// It can't be read. Lines that make no sense are passed over.
pub fn load(state: &Path) -> Result<Vec<Night>> {
    let path = state.join(NAME);
    let reading = || format!("reading the history {}", path.display());
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(LARGEST).read_to_end(&mut text).with_context(reading)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(reading),
    };
    Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Adds `night`, synced, and lets the oldest go where there are too many.
///
/// # Errors
/// The file can't be written.
pub fn append(state: &Path, night: &Night) -> Result<()> {
    let path = state.join(NAME);
    let mut line = serde_json::to_vec(night).context("putting the run into JSON")?;
    line.push(b'\n');
    let writing = || format!("writing the history {}", path.display());
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).with_context(writing)?;
    if is_torn(&mut file).with_context(writing)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line).and_then(|()| file.sync_all()).with_context(writing)?;
    durable::sync_folder_of(&path)?;
    bound(state, &path)
}

/// Whether the last line has no end.
fn is_torn(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// Writes the newest anew when there are too many, or when the file is larger than what is ever read.
fn bound(state: &Path, path: &Path) -> Result<()> {
    let nights = load(state)?;
    let size = fs::metadata(path).with_context(|| format!("looking at the history {}", path.display()))?.len();
    if nights.len() <= MOST && size <= LARGEST {
        return Ok(());
    }
    let mut text = Vec::new();
    for night in &nights[nights.len().saturating_sub(MOST)..] {
        serde_json::to_writer(&mut text, night).context("putting the history into JSON")?;
        text.push(b'\n');
    }
    durable::write(path, &text, 0o600).context("shortening the history")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::{SignedDuration, Timestamp};

    use super::{MOST, NAME, Night, append, load};

    fn night(number: i64) -> Night {
        let first: Timestamp = "2026-01-01T02:30:00Z".parse().unwrap();
        Night::killed(first + SignedDuration::from_hours(24 * number))
    }

    #[test]
    fn a_torn_line_is_passed_over_and_spoils_no_other() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), []);
        append(state.path(), &night(1)).unwrap();
        let path = state.path().join(NAME);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{}", &whole[..whole.len() / 2])).unwrap();
        assert_eq!(load(state.path()).unwrap(), [night(1)]);
        append(state.path(), &night(2)).unwrap();
        assert_eq!(load(state.path()).unwrap(), [night(1), night(2)]);
    }

    #[test]
    fn only_the_newest_stay() {
        let state = tempfile::tempdir().unwrap();
        let many: Vec<String> = (0..402).map(|number| serde_json::to_string(&night(number)).unwrap() + "\n").collect();
        fs::write(state.path().join(NAME), many.concat()).unwrap();
        append(state.path(), &night(402)).unwrap();
        let nights = load(state.path()).unwrap();
        assert_eq!((nights.len(), &nights[0], &nights[MOST - 1]), (MOST, &night(3), &night(402)));
    }
}
