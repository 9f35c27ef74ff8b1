//! One server to pull from: its key, its connection, and the mirror of its databases and files.
//!
//! The appliance logs in as an unprivileged user over one master connection and fetches; nothing on the server ever
//! connects back. What comes is kept in the source's mirror, `current/<source>/`: each configured path at its own place
//! below `files` (`current/web/files/srv/www`), and the dumps of databases in `dumps`. Databases come first: a file that
//! belongs to a row is then there, while a row may lack its file. The mirror's content is the server's choice, so nothing
//! here or later follows a symbolic link inside it.

pub mod child;
pub mod ends;
pub mod files;
pub mod key;
pub mod mirror;
pub mod owners;
pub mod postgresql;
pub mod proof;
pub mod rehearsal;
pub mod remedy;
pub mod rsync;
pub mod ssh;
pub mod transfer;
pub mod unreadable;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::Source;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::stop::Stop;
use crate::warnings::Warnings;

pub use mirror::Root;
pub use rehearsal::{Rehearsal, rehearse};

/// A mirror that was brought up to date, wholly or in part.
#[derive(Debug)]
pub struct Pulled {
    /// [`Outcome::Complete`] or [`Outcome::Partial`].
    pub outcome: Outcome,
    /// What wasn't pulled, and why.
    pub warnings: Warnings,
}

/// Brings `mirror`, the source's own folder, up to date.
///
/// # Errors
/// Nothing usable came: no connection, a connection that broke, or none of the databases and paths. The mirror is then not
/// to be taken for the state of the server.
pub fn pull(source: &Source, mirror: &Path, stop: &Stop, progress: &Progress) -> Result<Pulled> {
    runtime()?.block_on(async {
        let connection = ssh::Connection::open(source).await?;
        let mut warnings = Warnings::default();
        let pulled = pull_over(&connection, source, mirror, stop, progress, &mut warnings).await;
        connection.close().await;
        match pulled {
            Ok(outcome) => Ok(Pulled { outcome, warnings }),
            Err(error) => {
                // No snapshot will carry them.
                for line in &warnings.lines {
                    tracing::warn!(source = source.name, "{line}");
                }
                Err(error)
            }
        }
    })
}

/// What of `mirror` goes into a snapshot: the dumps, where there are databases, and each path's place.
pub fn roots(source: &Source, mirror: &Path) -> Result<Vec<Root>> {
    let dumps = Root { base: mirror.to_owned(), path: PathBuf::from(mirror::DUMPS) };
    let dumps = if source.postgresql.is_empty() { None } else { Some(Ok(dumps)) };
    let file = |path: &PathBuf| Ok(Root { base: mirror.join(mirror::FILES), path: mirror::relative(path)? });
    dumps.into_iter().chain(source.paths.iter().map(file)).collect()
}

async fn pull_over(
    connection: &ssh::Connection,
    source: &Source,
    mirror: &Path,
    stop: &Stop,
    progress: &Progress,
    warnings: &mut Warnings,
) -> Result<Outcome> {
    // Connecting isn't cut short by a stop, since ssh's own time limit is near; look before the long work.
    stop.check()?;
    postgresql::tidy(source, mirror)?;
    let dumped = postgresql::pull(source, connection, mirror, stop, progress, warnings).await?;
    let mut outcome = if dumped == source.postgresql.len() { Outcome::Complete } else { Outcome::Partial };
    let pulled = files::pull(source, connection, &mirror.join(mirror::FILES), stop, progress, &mut outcome, warnings).await?;
    if dumped + pulled == 0 {
        bail!("pulling {}: nothing of it could be had: {}", source.name, warnings.lines.join("; "));
    }
    Ok(outcome)
}

/// The runtime that drives one connection and its children.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime for ssh")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::roots;
    use crate::config::{Source, sample};

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
