//! The databases of a source: each dumped by the server's own `pg_dump`, as a file in the mirror.
//!
//! `dumps/postgresql/<name>.sql` is a plain dump, schema and data, which `psql` loads. It is written under a temporary name and
//! takes the place of the last one only when it is proven whole: `pg_dump` and the ssh that brought it ended well, and
//! the text has both its ends (`proof`). Otherwise the last good dump stays, and with it what a restore can begin
//! with; the source is then `partial`, and the warning says how old that dump is. One database never stops the others.

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;

use crate::config::Source;
use crate::durable::Durable;
use crate::log::printable;
use crate::progress::Progress;
use crate::source::child;
use crate::source::ssh::{self, Connection};
use crate::source::{mirror, proof, remedy};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// Where the dumps stand, below the folder of all dumps.
const FOLDER: &str = "postgresql";

/// How long `pg_dump` may write nothing. It waits for locks first, and large indexes of the server's own take their time.
const PATIENCE: Duration = Duration::from_mins(30);

/// How long `pg_dump` waits for each table that somebody has locked, in milliseconds.
const LOCK_WAIT: u32 = 600_000;

/// Dumps every database of `source` into `mirror`, and gives how many of the dumps are new. Each of the others is among
/// `warnings`.
///
/// # Errors
/// A stop was asked for.
pub async fn pull(
    source: &Source,
    connection: &Connection,
    mirror: &Path,
    stop: &Stop,
    progress: &Progress,
    warnings: &mut Warnings,
) -> Result<usize> {
    let mut dumped = 0;
    for name in &source.postgresql {
        let place = place(mirror, name);
        let last = fs::symlink_metadata(&place);
        let made = match mirror::make_folder(mirror, &folder()) {
            Ok(()) => dump(source, connection, name, &place, stop, progress).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(bytes) => {
                tracing::info!(source = source.name, "dumped {}: {bytes} bytes", printable(name.as_bytes()));
                dumped += 1;
            }
            Err(error) => {
                stop.check()?;
                warnings.cause(not_dumped(name, last.ok().as_ref(), &error));
            }
        }
    }
    Ok(dumped)
}

/// Removes the dumps in `mirror` of databases that `source` has no more: they would be in each of its snapshots for ever.
pub fn tidy(source: &Source, mirror: &Path) -> Result<()> {
    if !mirror::is_folder(mirror, &folder()) {
        return Ok(());
    }
    let folder = mirror.join(folder());
    let doing = || format!("removing old dumps from {}", folder.display());
    let wanted: Vec<PathBuf> = source.postgresql.iter().map(|name| place(mirror, name)).collect();
    for entry in fs::read_dir(&folder).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if !wanted.contains(&path) {
            fs::remove_file(&path).with_context(doing)?;
            tracing::info!(source = source.name, "removed {}", printable(path.as_os_str().as_bytes()));
        }
    }
    Ok(())
}

/// Whether `name` can be dumped, as far as a dump of its schema tells: it locks the tables as a whole one does. Nothing is kept.
///
/// # Errors
/// Why not.
pub async fn try_out(source: &Source, connection: &Connection, name: &str, stop: &Stop) -> Result<()> {
    let mut ends = proof::ends();
    let mut take = |block: &[u8]| {
        ends.take(block);
        Ok(())
    };
    run(source, connection, &["--schema-only"], name, stop, &mut take).await?;
    proof::whole(&ends).map_err(|what| anyhow!("{what}"))
}

/// The folder of the dumps, relative to a mirror.
fn folder() -> PathBuf {
    Path::new(mirror::DUMPS).join(FOLDER)
}

fn place(mirror: &Path, name: &str) -> PathBuf {
    mirror.join(folder()).join(format!("{name}.sql"))
}

/// Dumps one database to `place`, and gives its size.
async fn dump(
    source: &Source,
    connection: &Connection,
    name: &str,
    place: &Path,
    stop: &Stop,
    progress: &Progress,
) -> Result<u64> {
    let doing = format!("dumping {}", printable(name.as_bytes()));
    tracing::info!(source = source.name, "{doing}");
    progress.say(&doing, 0, None);
    let mut file = Durable::create(place, 0o600)?;
    let mut ends = proof::ends();
    let mut bytes = 0;
    let mut take = |block: &[u8]| {
        file.file().write_all(block).with_context(|| format!("writing {}", file.part().display()))?;
        ends.take(block);
        bytes += block.len() as u64;
        progress.say(&doing, bytes, None);
        Ok(())
    };
    run(source, connection, &[], name, stop, &mut take).await?;
    proof::whole(&ends).map_err(|what| anyhow!("{what}"))?;
    file.publish()?;
    Ok(bytes)
}

/// Runs `pg_dump` on the server; that it ended well is all that `Ok` says.
async fn run(
    source: &Source,
    connection: &Connection,
    options: &[&str],
    name: &str,
    stop: &Stop,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut ssh = child::program("ssh");
    ssh.args(connection.arguments(&command(options, name)));
    let ended = child::run(ssh, Some(PATIENCE), stop, take).await?;
    if ended.code == Some(0) {
        return Ok(());
    }
    bail!("{}", remedy::failure(&ended, &source.user))
}

/// The line for the server's shell. `env` sets the language in every shell; a database's own encoding stays.
fn command(options: &[&str], name: &str) -> String {
    let mut words = vec![
        "env LC_ALL=C pg_dump --format=plain --no-password".to_owned(),
        format!("--lock-wait-timeout={LOCK_WAIT}"),
        format!("--dbname={}", ssh::word(name)),
    ];
    words.extend(options.iter().map(ToString::to_string));
    words.join(" ")
}

/// The warning of a database of which there is no new dump; `last` is the file of the last good one.
fn not_dumped(name: &str, last: Option<&Metadata>, error: &anyhow::Error) -> String {
    let time =
        last.filter(|last| last.is_file()).and_then(|last| last.modified().ok()).and_then(|time| Timestamp::try_from(time).ok());
    let instead = match time {
        Some(time) => format!("the snapshot has the dump of {time:.0} instead"),
        None => "the snapshot has no dump of it".to_owned(),
    };
    format!("the database {} was not dumped, and {instead}: {}", printable(name.as_bytes()), one_line(error))
}

/// An error with its causes and hints on one line.
pub fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use anyhow::anyhow;

    use super::{command, not_dumped, tidy};
    use crate::config::{Source, sample};
    use crate::source::mirror::make_folder;

    #[test]
    fn a_name_is_one_word_of_the_command() {
        assert_eq!(
            command(&["--schema-only"], "o'neil's $(db)"),
            "env LC_ALL=C pg_dump --format=plain --no-password --lock-wait-timeout=600000 --dbname='o'\\''neil'\\''s $(db)' \
             --schema-only"
        );
    }

    #[test]
    fn the_warning_says_what_the_snapshot_has_instead() {
        let folder = tempfile::tempdir().unwrap();
        let dump = fs::File::create(folder.path().join("wiki.sql")).unwrap();
        dump.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500)).unwrap();
        let error = anyhow!("why\nhint: what helps").context("doing");
        assert_eq!(
            not_dumped("wiki", Some(&dump.metadata().unwrap()), &error),
            "the database wiki was not dumped, and the snapshot has the dump of 2027-01-15T08:00:00Z instead: doing: why; \
             hint: what helps"
        );
        let none = "the database wiki was not dumped, and the snapshot has no dump of it: why";
        assert_eq!(not_dumped("wiki", None, &anyhow!("why")), none);
        assert_eq!(not_dumped("wiki", Some(&folder.path().metadata().unwrap()), &anyhow!("why")), none);
    }

    #[test]
    fn dumps_that_nobody_wants_any_more_are_removed_and_nothing_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source { postgresql: vec!["wiki".into()], paths: Vec::new(), ..sample::source("web") };
        let mirror = folder.path().join("web");
        tidy(&source, &mirror).unwrap();
        make_folder(&mirror, Path::new("dumps/postgresql")).unwrap();
        let dumps = mirror.join("dumps/postgresql");
        for name in ["wiki.sql", "wiki.sql.part", "old.sql", "wiki"] {
            fs::write(dumps.join(name), name).unwrap();
        }
        tidy(&source, &mirror).unwrap();
        assert_eq!(fs::read_dir(&dumps).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["wiki.sql"]);

        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("old.sql"), "").unwrap();
        fs::remove_dir_all(&dumps).unwrap();
        symlink(&precious, &dumps).unwrap();
        tidy(&source, &mirror).unwrap();
        assert!(precious.join("old.sql").exists());
    }
}
