//! One server to pull from: its key, its connection, and the mirror of its databases and files.
//!
//! The appliance logs in as an unprivileged user over one master connection and fetches; nothing on the server ever
//! connects back. What comes is kept in the source's mirror, `current/<source>/`: each configured path at its own place
//! below `files` (`current/web/files/srv/www`), and the dumps of databases in `dumps`. Databases come first: a file that
//! belongs to a row is then there, while a row may lack its file. The mirror's content is the server's choice, so nothing
//! here or later follows a symbolic link inside it.

pub mod apart;
pub mod child;
pub mod dump;
pub mod ends;
pub mod files;
pub mod gate;
pub mod guard;
pub mod key;
pub mod mirror;
pub mod owners;
pub mod rehearsal;
pub mod request;
pub mod retries;
pub mod room;
pub mod rsync;
pub mod ssh;
pub mod transfer;
pub mod trust;
pub mod unreadable;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::Source;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::sandbox::{self, Cell};
use crate::secret::Secret;
use crate::stop::Stop;
use crate::warnings::Warnings;

pub use crate::source::dump::make::Stale;
use crate::source::guard::Unread;
use crate::source::owners::Owners;
use crate::source::room::Room;
use crate::source::ssh::Connection;

pub use mirror::Root;
pub use rehearsal::Rehearsal;

/// What to pull, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The source.
    pub source: &'a Source,
    /// Its own folder.
    pub mirror: &'a Path,
    /// The room in it.
    pub room: &'a Room<'a>,
    /// Whether its owner says that as much was deleted as seems too much.
    pub accept_deletions: bool,
    /// Whether its owner says that dumps have become as small as seems wrong.
    pub accept_smaller_dumps: bool,
    /// Ends it early.
    pub stop: &'a Stop,
    /// Hears how far it is.
    pub progress: &'a Progress,
}

/// A mirror that was brought up to date, wholly or in part.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pulled {
    /// [`Outcome::Complete`] or [`Outcome::Partial`].
    pub outcome: Outcome,
    /// What wasn't pulled, and why.
    pub warnings: Warnings,
    /// How many entries the account on the server can't read.
    pub unreadable: u64,
    /// Of the regular files, how many couldn't be read.
    pub unread: Unread,
    /// How many files vanished before they could be pulled.
    pub vanished: u64,
    /// Dumps that aren't new.
    pub stale: Vec<Stale>,
    /// The names of the server's users and groups.
    pub owners: Owners,
}

impl Pulled {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            outcome: Outcome::Complete,
            warnings: Warnings::default(),
            unreadable: 0,
            unread: Unread::default(),
            vanished: 0,
            stale: Vec::new(),
            owners: Owners::default(),
        }
    }

    /// Adds what became of another part.
    pub fn absorb(&mut self, other: Self) {
        self.outcome = self.outcome.max(other.outcome);
        self.warnings.append(other.warnings);
        self.unreadable += other.unreadable;
        self.unread.add(other.unread);
        self.vanished += other.vanished;
        self.stale.extend(other.stale);
    }

    /// Something didn't come, or not whole.
    pub fn spoil(&mut self, why: String) {
        self.warnings.cause(why);
        self.outcome = Outcome::Partial;
    }
}

impl Default for Pulled {
    fn default() -> Self {
        Self::new()
    }
}

/// Brings the mirror of a source up to date.
///
/// # Errors
/// Nothing usable came: no connection, or none of the databases and paths. The mirror is then not to be taken for the state of
/// the server.
pub fn pull(order: &Order<'_>, key: &Secret<Vec<u8>>) -> Result<Pulled> {
    runtime()?.block_on(async {
        // Above its quota already: nothing more is taken.
        order.room.check_quota()?;
        let cell = Cell::new()?;
        let mut connection = Connection::open(order.source, key, &cell, order.stop).await?;
        let mut pulled = Pulled::new();
        if !sandbox::enter::is_enforced() {
            pulled
                .warnings
                .push("this kernel has no Landlock (landlock(7)), so ssh and rsync may read what everybody may".to_owned());
        }
        let ended = pull_over(&mut connection, order, &mut pulled).await;
        connection.close().await;
        if let Err(error) = ended {
            // No snapshot will carry them.
            for line in &pulled.warnings.lines {
                tracing::warn!(source = order.source.name, "{}", without_snapshot(line));
            }
            return Err(error);
        }
        Ok(pulled)
    })
}

/// What of `mirror` goes into a snapshot: the dumps, where there are databases, and each path's place.
pub fn roots(source: &Source, mirror: &Path) -> Result<Vec<Root>> {
    let dumps = Root { base: mirror.to_owned(), path: PathBuf::from(mirror::DUMPS) };
    let dumps = if dump::is_wanted(source) { Some(Ok(dumps)) } else { None };
    let file = |path: &PathBuf| Ok(Root { base: mirror.join(mirror::FILES), path: mirror::relative(path)? });
    dumps.into_iter().chain(source.paths.iter().map(file)).collect()
}

async fn pull_over(connection: &mut Connection<'_>, order: &Order<'_>, pulled: &mut Pulled) -> Result<()> {
    let Order { source, mirror, stop, .. } = *order;
    pulled.owners = owners::fetch(connection, mirror, stop).await?;
    let dumped = dump::pull(order, connection, pulled).await?;
    let came = files::pull(order, connection, pulled).await?;
    if dumped + came == 0 {
        let told: Vec<String> = pulled.warnings.lines.iter().map(|line| without_snapshot(line)).collect();
        bail!("pulling {}: nothing of it could be had: {}", source.name, told.join("; "));
    }
    order.room.check_quota()?;
    Ok(())
}

/// What is said of a path or a dump that didn't come, where no snapshot is made: what that would have says nothing then.
fn without_snapshot(line: &str) -> String {
    [
        ("the snapshot has it as it was last pulled", "the mirror keeps it as it was last pulled"),
        (", the snapshot has nothing of it", ""),
        ("the snapshot has the dump of", "the mirror keeps the dump of"),
        (", and the snapshot has no dump of it", ""),
    ]
    .into_iter()
    .fold(line.to_owned(), |line, (claim, instead)| line.replacen(claim, instead, 1))
}

/// The runtime that drives one connection and its children.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime for ssh")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{files, roots, without_snapshot};
    use crate::config::{Source, sample};

    #[test]
    fn where_there_is_no_snapshot_nothing_is_said_of_one() {
        let mirror = tempfile::tempdir().unwrap();
        let told = || without_snapshot(&files::not_pulled(Path::new("/srv"), mirror.path(), "gone"));
        assert_eq!(told(), "/srv was not pulled: gone");
        std::fs::create_dir(mirror.path().join("srv")).unwrap();
        assert_eq!(told(), "/srv was not pulled, the mirror keeps it as it was last pulled: gone");
        for (dump, expected) in [
            ("wiki was not dumped, and the snapshot has no dump of it: no", "wiki was not dumped: no"),
            (
                "wiki was not dumped, and the snapshot has the dump of X",
                "wiki was not dumped, and the mirror keeps the dump of X",
            ),
        ] {
            assert_eq!(without_snapshot(dump), expected);
        }
    }

    #[test]
    fn dumps_are_a_root_only_where_there_are_databases() {
        let source = |postgresql: &[&str], paths: &[&str]| Source {
            postgresql: postgresql.iter().map(ToString::to_string).collect(),
            paths: paths.iter().map(PathBuf::from).collect(),
            ..sample::source("web")
        };
        let of = |source: &Source| {
            let roots = roots(source, Path::new("/m")).unwrap();
            roots.iter().map(|root| format!("{} {}", root.base.display(), root.path.display())).collect::<Vec<_>>()
        };
        assert_eq!(of(&source(&["wiki", "shop"], &["/srv/www", "/etc"])), ["/m dumps", "/m/files srv/www", "/m/files etc"]);
        assert_eq!(of(&source(&["wiki"], &[])), ["/m dumps"]);
        assert_eq!(of(&source(&[], &["/srv"])), ["/m/files srv"]);
    }
}
