//! The files of a source: each configured path brought into the mirror by rsync.
//!
//! What the account on the server can't read is found before, named, and left out (`unreadable`). What rsync's exit code
//! then makes of a path:
//!
//! | code | meaning | outcome |
//! |---|---|---|
//! | 0 | all there | complete |
//! | 24 | files vanished while it ran: a server at work | complete, each file a warning |
//! | 23 | some files couldn't be read or written | partial, each a warning |
//! | any other | the connection, the disk or rsync itself | the source failed |
//!
//! rsync deletes nothing after a reading error on the server (`IO error encountered -- skipping file deletion`), so a
//! disk that fails over there doesn't empty the mirror here.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, bail};

use crate::config::Source;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::source::rsync::{Ended, PARTIAL, VANISHED};
use crate::source::ssh::Connection;
use crate::source::transfer::Transfer;
use crate::source::unreadable;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// What is said, once, of a server on which `find` is of no use, when rsync met what it would have found.
pub const NOT_LOOKED_FOR: &str = "what is unreadable couldn't be left out beforehand: the server lets this key run no \
                                  `find`, or has none that knows `-readable`";

/// Brings every path of `source` into `mirror`, the source's own folder, and gives how many came. What didn't, or not
/// whole, is among `warnings`, and makes `outcome` partial.
///
/// # Errors
/// The connection broke, the disk is full, or a stop was asked for.
pub async fn pull(
    source: &Source,
    connection: &Connection,
    mirror: &Path,
    stop: &Stop,
    progress: &Progress,
    outcome: &mut Outcome,
    warnings: &mut Warnings,
) -> Result<usize> {
    let look = !source.paths.is_empty() && unreadable::can_be_found(connection, stop).await?;
    if !look && !source.paths.is_empty() {
        tracing::info!(source = source.name, "{NOT_LOOKED_FOR}");
    }
    let mut pulled = 0;
    let mut unread = false;
    for path in &source.paths {
        let shown = printable(path.as_os_str().as_bytes());
        let doing = format!("pulling {shown}");
        progress.say(&doing, 0, None);
        let transfer = match Transfer::ask(connection, path, look, stop, warnings).await? {
            Ok(transfer) => transfer,
            Err(why) => {
                warnings.cause(not_pulled(path, mirror, &why));
                *outcome = Outcome::Partial;
                continue;
            }
        };
        tracing::info!(source = source.name, "{doing}");
        let target = transfer.make_place(mirror)?;
        let ended = transfer.run(&[], &target, stop).await?;
        unread |= ended.code == Some(PARTIAL);
        *outcome = (*outcome).max(judge(&ended, &doing, warnings)?);
        if !transfer.arrived(mirror) {
            warnings.cause(format!("{shown} isn't in the mirror as what the server said it was"));
            *outcome = Outcome::Partial;
        }
        let bytes = ended.statistic("Total transferred file size");
        progress.say(&doing, bytes, Some(bytes));
        pulled += 1;
    }
    if unread && !look {
        warnings.push(NOT_LOOKED_FOR.to_owned());
    }
    Ok(pulled)
}

/// That a path didn't come, what the snapshot has instead, and what to do about it.
fn not_pulled(path: &Path, mirror: &Path, why: &str) -> String {
    let there = super::mirror::relative(path).is_ok_and(|place| mirror.join(place).symlink_metadata().is_ok());
    let instead = if there { "the snapshot has it as it was last pulled" } else { "the snapshot has nothing of it" };
    let shown = printable(path.as_os_str().as_bytes());
    format!("{shown} was not pulled, {instead}: {why}")
}

/// What the end of an rsync makes of its path.
///
/// # Errors
/// It didn't get to its end.
pub fn judge(ended: &Ended, doing: &str, warnings: &mut Warnings) -> Result<Outcome> {
    // Sockets, pipes and devices are named on stdout.
    for line in ended.stdout.iter().filter(|line| line.starts_with("skipping non-regular file")) {
        warnings.push(line.clone());
    }
    let outcome = match ended.code {
        // What is on stderr after a good end is a login script's noise.
        Some(0) => return Ok(Outcome::Complete),
        Some(VANISHED) => Outcome::Complete,
        Some(PARTIAL) => Outcome::Partial,
        _ => bail!("{doing}: {}", ended.failure()),
    };
    for line in ended.said() {
        if outcome == Outcome::Complete {
            warnings.push(line.clone());
        } else {
            warnings.cause(line.clone());
        }
    }
    Ok(outcome)
}
