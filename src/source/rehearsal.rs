//! What a pull would do, found out without writing anything: neither on the server nor in the mirror.
//!
//! It goes the same way as a pull, over the same connection, with `pg_dump` for the schema only and rsync's `--dry-run`, so
//! that keys, rights and programs are proven as far as they can be without the work.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::config::Source;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::sandbox::Cell;
use crate::secret::Secret;
use crate::source::guard::{Deletions, Unread};
use crate::source::mirror::FILES;
use crate::source::ssh::Connection;
use crate::source::transfer::{Deleting, Pass, Transfer};
use crate::source::{Pulled, dump, files, runtime, unreadable};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// What a pull would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rehearsal {
    /// One for each database and each path, in the order of a pull; printable, each one line.
    pub lines: Vec<String>,
    /// What wouldn't be pulled as it stands there: unreadable files, pipes, what rsync complains of.
    pub warnings: Warnings,
    /// How the pull would end: [`Outcome::Failed`] when nothing of the source can be had.
    pub outcome: Outcome,
}

/// Finds out what [`super::pull`] would do to `mirror`, which needn't be there.
///
/// # Errors
/// No connection, one that broke, or a stop was asked for.
pub fn rehearse(source: &Source, key: &Secret<Vec<u8>>, mirror: &Path, stop: &Stop) -> Result<Rehearsal> {
    runtime()?.block_on(async {
        let cell = Cell::new()?;
        let connection = Connection::open(source, key, &cell, stop).await?;
        let rehearsal = rehearse_over(&connection, source, mirror, stop).await;
        connection.close().await;
        rehearsal
    })
}

/// Logs in at the server of `source`, and out again.
///
/// # Errors
/// It isn't there, isn't the one that it should be, or doesn't let us in.
pub fn log_in(source: &Source, key: &Secret<Vec<u8>>, stop: &Stop) -> Result<()> {
    runtime()?.block_on(async {
        let cell = Cell::new()?;
        Connection::open(source, key, &cell, stop).await?.close().await;
        Ok(())
    })
}

async fn rehearse_over(connection: &Connection<'_>, source: &Source, mirror: &Path, stop: &Stop) -> Result<Rehearsal> {
    let mut rehearsal = Rehearsal { lines: Vec::new(), warnings: Warnings::default(), outcome: Outcome::Complete };
    let mut usable = 0;
    for (title, tried) in dump::rehearse(source, connection, stop).await? {
        match tried {
            Ok(lacks) => {
                usable += 1;
                rehearsal.lines.push(format!("{title} can be dumped"));
                if let Some(lacks) = lacks {
                    rehearsal.outcome = Outcome::Partial;
                    rehearsal.warnings.cause(lacks);
                }
            }
            Err(why) => {
                rehearsal.outcome = Outcome::Partial;
                rehearsal.lines.push(format!("{title} can't be dumped: {why}"));
            }
        }
    }
    for command in &source.dumps.commands {
        usable += 1;
        rehearsal.lines.push(format!("{} would be run", command.name));
    }
    let look = !source.paths.is_empty() && unreadable::can_be_found(connection, stop).await?;
    if !look && !source.paths.is_empty() {
        rehearsal.warnings.push(files::NOT_LOOKED_FOR.to_owned());
    }
    let mut unread = Unread::default();
    for path in &source.paths {
        if let Some(of_path) = rehearsal.path(connection, source, path, look, &mirror.join(FILES), stop).await? {
            usable += 1;
            unread.add(of_path);
        }
    }
    if let Err(why) = unread.judge() {
        rehearsal.outcome = Outcome::Partial;
        rehearsal.lines.push(why);
    }
    if usable == 0 {
        rehearsal.outcome = Outcome::Failed;
    }
    Ok(rehearsal)
}

impl Rehearsal {
    /// Rehearses one path, and says how much of it can't be read; none when it can't be pulled.
    async fn path(
        &mut self,
        connection: &Connection<'_>,
        source: &Source,
        path: &Path,
        look: bool,
        mirror: &Path,
        stop: &Stop,
    ) -> Result<Option<Unread>> {
        let shown = printable(path.as_os_str().as_bytes());
        let transfer = match Transfer::ask(connection, path, look, stop, &mut self.warnings).await? {
            Ok(transfer) => transfer,
            Err(why) => {
                self.outcome = Outcome::Partial;
                self.lines.push(format!("{shown} can't be pulled: {why}"));
                return Ok(None);
            }
        };
        // Where a pull would first make a folder, all would be new: an empty one stands for it.
        let empty = connection.cell().inner("empty")?;
        let files = if transfer.has_place(mirror) { mirror } else { &empty };
        if files == empty {
            transfer.make_place(&empty)?;
        }
        let deletions = Deleting::AtMost(u64::from(u32::MAX) / 2);
        let pass = Pass { files, partial: &empty, deletions, rehearsal: true, room: None };
        let ended = transfer.run(&pass, stop).await?;
        let mut pulled = Pulled::new();
        files::judge(&ended, &format!("rehearsing the pull of {shown}"), &mut pulled)?;
        let unread = transfer.unread(&ended, pulled.unreadable, None);
        self.outcome = self.outcome.max(pulled.outcome);
        self.warnings.append(pulled.warnings);
        self.lines.push(format!(
            "{shown}: {} files and {} bytes would be transferred, {} entries deleted",
            ended.statistic("Number of regular files transferred"),
            ended.statistic("Total transferred file size"),
            ended.statistic("Number of deleted files"),
        ));
        let (gone, there, new) =
            (ended.files("Number of deleted files"), ended.files("Number of files"), ended.files("Number of created files"));
        let empty = ended.statistic("Number of files") <= 1 && !transfer.is_file();
        let would = Deletions { gone, there, new, empty };
        if let Err(why) =
            would.judge(source.files.max_deletions).and_then(|()| transfer.replaces(mirror, source.files.max_deletions))
        {
            self.outcome = self.outcome.max(Outcome::Partial);
            self.lines.push(format!("{shown}: nothing would be deleted: {why}"));
        }
        Ok(Some(unread))
    }
}
