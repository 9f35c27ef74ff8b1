//! The files of a source: each configured path brought into the mirror by rsync.
//!
//! What the account on the server can't read is found before, named, and left out (`unreadable`); a source of which it can't
//! read half is partial. Deletions are held back until the mirror guard has seen how many there are (`guard`). What rsync's exit code then makes of a path:
//!
//! | code | meaning | outcome |
//! |---|---|---|
//! | 0, 25 | all there; deletions were held back | complete |
//! | 24 | files vanished while it ran: a server at work | complete, each file a warning |
//! | 23 | some files couldn't be read or written | complete where the account may not read them over there, else partial; each a warning |
//! | 10, 12, 30, 35, 255 | the connection broke | partial: the mirror is a mix of old and new |
//! | any other | the disk or rsync itself | the source failed |
//!
//! rsync deletes nothing after a reading error on the server (`IO error encountered -- skipping file deletion`), so a
//! disk that fails over there doesn't empty the mirror here.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::durable;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::source::guard::Deletions;
use crate::source::mirror::{FILES, PARTIAL};
use crate::source::retries::Retries;
use crate::source::rsync::{self, Ended, HELD_BACK, VANISHED};
use crate::source::ssh::Connection;
use crate::source::transfer::{self, Deleting, Pass, Transfer};
use crate::source::{Order, Pulled, unreadable};
use crate::stop::Stop;

/// What is said, once, of a server on which `find` is of no use, when rsync met what it would have found.
pub const NOT_LOOKED_FOR: &str = "what is unreadable couldn't be left out beforehand: the server lets this key run no \
                                  `find`, or has none that knows `-readable`";

/// Brings every path of the source into its mirror, and gives how many came, whole or not. What didn't, or not whole, is
/// told in `pulled`, and makes that partial.
///
/// # Errors
/// The disk is full, or a stop was asked for.
pub async fn pull(order: &Order<'_>, connection: &mut Connection<'_>, pulled: &mut Pulled) -> Result<usize> {
    let Order { source, mirror, stop, .. } = *order;
    if source.paths.is_empty() {
        return Ok(0);
    }
    let look = unreadable::can_be_found(connection, stop).await?;
    if !look {
        tracing::info!(source = source.name, "{NOT_LOOKED_FOR}");
    }
    if let Err(error) = connection.ensure(stop).await {
        stop.check()?;
        tracing::warn!(source = source.name, "{error:#}");
    }
    let missing = missing_sentinel(connection, &source.files.sentinels, stop).await?;
    let partial = mirror.join(PARTIAL);
    durable::private_folder(&partial)?;
    let before = pulled.unreadable;
    let mut came = 0;
    for path in &source.paths {
        let mut retries = Retries::new(source.retries);
        loop {
            if let Err(error) = connection.ensure(stop).await {
                stop.check()?;
                pulled.spoil(not_pulled(path, &mirror.join(FILES), &format!("{error:#}").replace('\n', "; ")));
                break;
            }
            let mut one = Pulled::new();
            let work = Pulling { order, connection, path, look, missing: missing.as_deref(), partial: &partial };
            let end = work.pull(&mut one).await;
            if end.is_err() && !stop.requested() {
                // What doesn't fit isn't gone on with either.
                let _ = fs::remove_dir_all(&partial);
            }
            let end = end?;
            let broke = end == End::Broke || !connection.is_up();
            if broke && retries.wait(&|| one.warnings.lines.join("; "), stop).await? {
                continue;
            }
            pulled.absorb(one);
            came += usize::from(end != End::Nothing);
            break;
        }
    }
    if pulled.unreadable > before && !look {
        pulled.warnings.push(NOT_LOOKED_FOR.to_owned());
    }
    if let Err(why) = pulled.unread.judge() {
        pulled.spoil(format!(
            "{why}: the snapshot has them as they were last pulled, or not at all; hint: let the account {} read them there, or \
             name in `paths` only what it may read",
            source.user
        ));
    }
    if pulled.outcome == Outcome::Complete {
        let places = source.paths.iter().map(|path| super::mirror::relative(path)).collect::<Result<Vec<_>>>()?;
        for gone in super::mirror::remove_others(&mirror.join(FILES), &places)? {
            let gone = printable(gone.as_os_str().as_bytes());
            tracing::info!(source = source.name, "removed {gone} from the mirror: the configuration no longer names it");
        }
        // What is left there is of files that are gone.
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    Ok(came)
}

/// The first of the sentinels that isn't on the server, printable.
async fn missing_sentinel(connection: &Connection<'_>, sentinels: &[std::path::PathBuf], stop: &Stop) -> Result<Option<String>> {
    for sentinel in sentinels {
        if !transfer::is_there(connection, sentinel, stop).await? {
            return Ok(Some(printable(sentinel.as_os_str().as_bytes())));
        }
    }
    Ok(None)
}

/// How the pull of a path ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing of it came.
    Nothing,
    /// The connection broke before its end.
    Broke,
    /// It came to its end.
    Came,
}

/// One path on its way.
struct Pulling<'a> {
    order: &'a Order<'a>,
    connection: &'a Connection<'a>,
    path: &'a Path,
    look: bool,
    missing: Option<&'a str>,
    partial: &'a Path,
}

impl Pulling<'_> {
    /// Pulls it, and says how that ended. `pulled` has what to say of it.
    async fn pull(&self, pulled: &mut Pulled) -> Result<End> {
        let Order { source, stop, progress, .. } = *self.order;
        let files = self.order.mirror.join(FILES);
        let shown = printable(self.path.as_os_str().as_bytes());
        let doing = format!("pulling {shown}");
        progress.say(&doing, 0, None);
        let asked = Transfer::ask(self.connection, self.path, self.look, stop, &mut pulled.warnings).await?;
        let transfer = match asked {
            Ok(transfer) => transfer,
            Err(why) => {
                pulled.spoil(not_pulled(self.path, &files, &why));
                return Ok(End::Nothing);
            }
        };
        tracing::info!(source = source.name, "{doing}");
        pulled.unreadable += transfer.unreadable();
        let replaced = match self.missing {
            Some(_) if transfer.replaces(&files, 0).is_err() => {
                Err("a sentinel is not on the server: is its disk mounted?".to_owned())
            }
            _ if self.order.accept_deletions => Ok(()),
            _ => transfer.replaces(&files, source.files.max_deletions),
        };
        if let Err(why) = replaced {
            let hint = format!("if that is right, run `vaultberry backup run --accept-deletions {}` once", source.name);
            pulled.spoil(format!(
                "{shown} is a file on the server and was a folder, which stays in the mirror: {why}; hint: {hint}"
            ));
            return Ok(End::Came);
        }
        transfer.make_place(&files)?;
        let (deletions, room) = (Deleting::HeldBack, Some(self.order.room));
        let pass = Pass { files: &files, partial: self.partial, deletions, rehearsal: false, room };
        let mut ended = transfer.run(&pass, stop).await?;
        if ended.held_back() > 0 {
            match self.refusal(&ended) {
                None => {
                    // rsync doesn't count folders that it would have to empty first, so somewhat more than it said.
                    let deletions = Deleting::AtMost(2 * ended.held_back() + 1000);
                    ended = transfer.run(&Pass { deletions, ..pass }, stop).await?;
                    if ended.held_back() > 0 {
                        pulled.spoil(format!("{shown}: not all deletions were made: many more came while it was pulled"));
                    }
                }
                Some(why) => pulled.spoil(why),
            }
        }
        if ended.broke() {
            let failure = ended.failure().replace('\n', "; ");
            pulled.spoil(format!("{doing}: the transfer broke, and the snapshot has a mix of old and new: {failure}"));
        } else {
            let named = pulled.unreadable;
            judge(&ended, &doing, pulled)?;
            pulled.unread.add(transfer.unread(&ended, pulled.unreadable - named, Some(&files)));
        }
        if !transfer.arrived(&files) {
            pulled.spoil(format!("{shown} isn't in the mirror as what the server said it was"));
        }
        let bytes = ended.statistic("Total transferred file size");
        progress.say(&doing, bytes, Some(bytes));
        Ok(if ended.broke() { End::Broke } else { End::Came })
    }

    /// Why nothing may be deleted; none when it may.
    fn refusal(&self, ended: &Ended) -> Option<String> {
        let name = &self.order.source.name;
        let shown = printable(self.path.as_os_str().as_bytes());
        let why = match self.missing {
            Some(sentinel) => format!("the sentinel {sentinel} is not on the server: is its disk mounted?"),
            None if self.order.accept_deletions => return None,
            None => match deletions(ended).judge(self.order.source.files.max_deletions) {
                Ok(()) => return None,
                Err(why) => {
                    let hint = format!("if that is right, run `vaultberry backup run --accept-deletions {name}` once");
                    format!("{why}; hint: {hint}")
                }
            },
        };
        Some(format!("{shown}: nothing was deleted in the mirror: {why}"))
    }
}

/// What a pass held back.
fn deletions(ended: &Ended) -> Deletions {
    let (there, new) = (ended.files("Number of files"), ended.files("Number of created files"));
    Deletions { gone: ended.held_back(), there, new, empty: ended.statistic("Number of files") <= 1 }
}

/// That a path didn't come, what the snapshot has instead, and what to do about it.
pub fn not_pulled(path: &Path, mirror: &Path, why: &str) -> String {
    let there = super::mirror::relative(path).is_ok_and(|place| mirror.join(place).symlink_metadata().is_ok());
    let instead = if there { "the snapshot has it as it was last pulled" } else { "the snapshot has nothing of it" };
    let shown = printable(path.as_os_str().as_bytes());
    format!("{shown} was not pulled, {instead}: {why}")
}

/// What the end of an rsync makes of its path.
///
/// # Errors
/// It didn't get to its end.
pub fn judge(ended: &Ended, doing: &str, pulled: &mut Pulled) -> Result<()> {
    // Sockets and what is too large are named on stdout.
    let skipped = |line: &&String| line.starts_with("skipping non-regular file") || line.ends_with(" is over max-size");
    for line in ended.stdout.iter().filter(skipped) {
        pulled.warnings.push(line.clone());
    }
    if !matches!(ended.code, Some(0 | HELD_BACK | VANISHED | rsync::PARTIAL)) {
        bail!("{doing}: {}", ended.failure());
    }
    if ended.code == Some(0) {
        // What is on stderr after a good end is a login script's noise.
        return Ok(());
    }
    for line in ended.said() {
        match Said::of(line) {
            Said::Vanished => {
                pulled.vanished += 1;
                pulled.warnings.push(line.clone());
            }
            Said::Unreadable => {
                pulled.unreadable += 1;
                pulled.warnings.push(line.clone());
            }
            Said::Other if ended.code == Some(rsync::PARTIAL) => pulled.spoil(line.clone()),
            Said::NothingDeleted | Said::Other => pulled.warnings.push(line.clone()),
        }
    }
    Ok(())
}

/// What a line of rsync's is about.
enum Said {
    /// A file that was gone before it could be pulled.
    Vanished,
    /// A file that the account on the server may not read.
    Unreadable,
    /// That deletions are left for another night.
    NothingDeleted,
    /// Anything else, and what was left out of a long complaint.
    Other,
}

impl Said {
    fn of(line: &str) -> Self {
        if line.starts_with("file has vanished: ") || line.starts_with("directory has vanished: ") {
            Self::Vanished
        } else if line.starts_with("rsync: [sender] ") && line.ends_with(": Permission denied (13)") {
            Self::Unreadable
        } else if line.starts_with("IO error encountered -- skipping file deletion") {
            Self::NothingDeleted
        } else {
            Self::Other
        }
    }
}
