//! The databases of a source: each dumped by the server's own programs, as a file in the mirror.
//!
//! | what | file below `dumps/` | made by | proven by |
//! |---|---|---|---|
//! | PostgreSQL database | `postgresql/<name>.sql` or `.dump` | `pg_dump` | its two ends; `pg_restore` |
//! | PostgreSQL's roles and tablespaces | `globals/postgresql.sql` | `pg_dumpall --globals-only` | its two ends |
//! | MariaDB or MySQL database | `mariadb/<name>.sql` | `mariadb-dump` or `mysqldump` | its two ends |
//! | SQLite database | `sqlite/<path>` | `sqlite3 .backup` | `PRAGMA integrity_check` |
//! | a command's output | `command/<name>` | the command | `ends_with`, and that it isn't empty |
//!
//! A dump is written under a temporary name and takes the place of the last one only when it counts: the program and the
//! ssh that brought it ended well, the end is there ([`proof`]), what reads such files reads it ([`check`]), and it isn't
//! implausibly smaller than the last. Otherwise the last good dump stays, and with it what a restore can begin
//! with; the source is then `partial`, and the warning says how old that dump is. One dump never stops the others.

mod check;
pub mod grants;
pub mod make;
pub mod proof;
pub mod remedy;
pub mod servers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::Source;
use crate::log::printable;
use crate::source::child::{self, Limits};
use crate::source::request::Request;
use crate::source::ssh::Connection;
use crate::source::{Order, Pulled, mirror};
use crate::stop::Stop;

/// What is to be dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// What it is, for people: `the database wiki`.
    pub title: String,
    /// What is being done, for progress and log: `dumping wiki`.
    pub doing: String,
    /// The program that makes it, as errors name it.
    pub program: &'static str,
    /// Its file, relative to the mirror.
    pub place: PathBuf,
    /// What the server is asked for.
    pub command: Request,
    /// Another one, where the first may be more than the account is allowed.
    pub fallback: Option<Request>,
    /// What tells whether it could be made, without making it.
    pub trial: Option<Request>,
    /// How it is known to be whole.
    pub proof: Proof,
    /// What the account isn't shown, which a dump lacks without a word.
    pub hidden: Vec<&'static str>,
}

impl Dump {
    /// What it lacks, if there is such a thing.
    fn lacks(&self) -> Option<String> {
        let hint = "grant it TRIGGER on the database; for routines SHOW CREATE ROUTINE, before MariaDB 11.3 SELECT on mysql.proc, \
                    with MySQL SHOW_ROUTINE";
        let hidden = self.hidden.join(" and ");
        (!hidden.is_empty())
            .then(|| format!("{} is dumped without its {hidden}, which the account isn't shown; hint: {hint}", self.title))
    }
}

/// How a dump is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The two ends of a text that `pg_dump` writes.
    Database,
    /// The two ends of a text that `pg_dumpall` writes.
    Cluster,
    /// `pg_restore` reads it to its end.
    Custom,
    /// The two ends of a text that `mariadb-dump` or `mysqldump` writes.
    MariaDb,
    /// SQLite finds it whole.
    Sqlite,
    /// It isn't empty, and ends with this.
    Ends(String),
}

/// All dumps of a source, and the folders of which it is known that nothing else belongs there.
#[derive(Debug, Default)]
struct Plan {
    dumps: Vec<Dump>,
    /// Kinds that a server couldn't be asked about, with the reason.
    unknown: Vec<(&'static str, String)>,
}

/// How much of it is shown, in bytes.
const NOISE: usize = 80;

/// Whether anything of `source` is dumped.
pub fn is_wanted(source: &Source) -> bool {
    let dumps = &source.dumps;
    let lists = [&source.postgresql, &dumps.mariadb];
    lists.iter().any(|list| !list.is_empty()) || !dumps.sqlite.is_empty() || !dumps.commands.is_empty()
}

/// Makes every dump of the source, and gives how many of them are new; roles and tablespaces, which are worth nothing by themselves,
/// don't count. What isn't new is told in `pulled`.
///
/// # Errors
/// A stop was asked for, or the mirror can't be written.
pub async fn pull(order: &Order<'_>, connection: &mut Connection<'_>, pulled: &mut Pulled) -> Result<usize> {
    let plan = plan(order.source, connection, order.stop).await?;
    for (kind, why) in &plan.unknown {
        pulled.spoil(format!("which {kind} databases there are couldn't be found out, and none of them was dumped: {why}"));
    }
    tidy(&plan, order, pulled)?;
    let mut new = 0;
    let noise = noise(connection, order.stop).await?;
    for dump in &plan.dumps {
        // Without one, making it says why.
        let _ = connection.ensure(order.stop).await;
        if make::make(dump, order, connection, noise.as_deref(), pulled).await? {
            new += usize::from(dump.proof != Proof::Cluster);
            dump.lacks().into_iter().for_each(|lacks| pulled.spoil(lacks));
        }
    }
    Ok(new)
}

/// What the account's shell prints before any command's output, printable: it would stand in each dump.
async fn noise(connection: &Connection<'_>, stop: &Stop) -> Result<Option<String>> {
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(&block[..block.len().min(NOISE - said.len())]);
        Ok(())
    };
    // Where nothing can be run, the dumps say why.
    let _ = child::run(connection.command(&Request::quiet()), Limits::default(), stop, &mut take).await;
    stop.check()?;
    Ok((!said.is_empty()).then(|| printable(&said)))
}

/// What a pull would dump: for each dump its title, and what it would lack, or why it couldn't be made.
///
/// # Errors
/// A stop was asked for.
pub async fn rehearse(
    source: &Source,
    connection: &Connection<'_>,
    stop: &Stop,
) -> Result<Vec<(String, Result<Option<String>, String>)>> {
    let plan = plan(source, connection, stop).await?;
    let unknown = plan.unknown.into_iter().map(|(kind, why)| (format!("all {kind} databases"), Err(why)));
    let mut rehearsed: Vec<_> = unknown.collect();
    for dump in plan.dumps {
        if let Some(trial) = &dump.trial {
            let tried = make::run(&dump, trial, connection, Limits::default(), stop, &mut |_| Ok(())).await;
            stop.check()?;
            let lacks = dump.lacks();
            rehearsed.push((dump.title, tried.map(|()| lacks).map_err(|error| make::one_line(&error))));
        }
    }
    Ok(rehearsed)
}

async fn plan(source: &Source, connection: &Connection<'_>, stop: &Stop) -> Result<Plan> {
    let mut plan = Plan::default();
    servers::postgresql(source, connection, stop, &mut plan).await?;
    servers::mariadb(source, connection, stop, &mut plan).await?;
    plan.dumps.extend((1..).zip(&source.dumps.sqlite).map(|(number, path)| servers::sqlite(number, path)));
    plan.dumps.extend((1..).zip(&source.dumps.commands).map(|(number, command)| servers::command(number, command)));
    Ok(plan)
}

/// Removes the dumps of what the source has no more: they would be in each of its snapshots for ever.
fn tidy(plan: &Plan, order: &Order<'_>, pulled: &mut Pulled) -> Result<()> {
    if !mirror::is_folder(order.mirror, Path::new(mirror::DUMPS)) {
        return Ok(());
    }
    for kind in ["postgresql", "globals", "mariadb", "sqlite", "command"] {
        let asked = plan.unknown.iter().all(|(unknown, _)| !unknown.eq_ignore_ascii_case(kind));
        let folder = Path::new(mirror::DUMPS).join(kind);
        if asked && mirror::is_folder(order.mirror, &folder) {
            remove_others(order, &folder, &plan.dumps, pulled)?;
        }
    }
    Ok(())
}

/// Where the server says which databases there are (`*`), one that it names no longer may be gone, or only hidden from the
/// account: its dump stays until the owner says that it is right.
fn remove_others(order: &Order<'_>, folder: &Path, dumps: &[Dump], pulled: &mut Pulled) -> Result<()> {
    let all = [("postgresql", &order.source.postgresql), ("mariadb", &order.source.dumps.mariadb)];
    let listed = all.iter().any(|(kind, wanted)| folder.ends_with(kind) && **wanted == [servers::ALL]);
    let place = order.mirror.join(folder);
    let doing = || format!("removing old dumps from {}", place.display());
    for entry in fs::read_dir(&place).with_context(doing)? {
        let name = entry.with_context(doing)?.file_name();
        let relative = folder.join(&name);
        if dumps.iter().any(|dump| dump.place == relative) {
            continue;
        }
        let shown = printable(relative.as_os_str().as_encoded_bytes());
        if listed && !order.accept_deletions && !name.as_encoded_bytes().ends_with(b".part") {
            let title = format!("the database of {shown}");
            let hint = format!("if it was dropped, run `vaultberry backup run --accept-deletions {}` once", order.source.name);
            pulled.spoil(format!("{title} isn't among those that the server names, and its last dump stays; hint: {hint}"));
            let made = fs::symlink_metadata(order.mirror.join(&relative)).and_then(|found| found.modified()).ok();
            let made = made.and_then(|time| jiff::Timestamp::try_from(time).ok());
            pulled.stale.push(make::Stale { dump: title, made });
        } else {
            fs::remove_file(order.mirror.join(&relative)).with_context(doing)?;
            tracing::info!(source = order.source.name, "removed {shown}");
        }
    }
    Ok(())
}
