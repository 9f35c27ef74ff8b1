//! What each kind of server is asked for, as lines for the shell of the account there.
//!
//! `env` sets the language in every shell. No password is in any of them: the account gets in by the server's socket, or by its
//! own `~/.pgpass` or `~/.my.cnf`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::config::{DumpCommand, PostgresqlFormat, Source};
use crate::source::child::{self, Limits};
use crate::source::dump::make::shown;
use crate::source::dump::{Dump, Plan, Proof, grants, remedy};
use crate::source::mirror;
use crate::source::request::{Named, Request};
use crate::source::ssh::{Connection, word};
use crate::stop::Stop;

/// What stands in a list of databases for all of them.
pub const ALL: &str = "*";

/// How long `pg_dump` waits for each table that somebody has locked, in milliseconds.
const LOCK_WAIT: u32 = 600_000;

/// How long it may take for that.
const PATIENCE: Duration = Duration::from_mins(5);

/// The most that a server may say of which databases it has, or who may see them, in bytes.
const MOST: usize = 1 << 20;

const ALL_POSTGRESQL: &str = "env LC_ALL=C psql -XAtq -0 --no-password --dbname=postgres -c 'SELECT datname FROM pg_database WHERE \
                              datallowconn AND NOT datistemplate ORDER BY datname'";

/// `mysqldump` is MariaDB's older name, and MySQL's own.
const MARIADB_DUMP: &str = "env LC_ALL=C sh -c 'if command -v mariadb-dump >/dev/null; then exec mariadb-dump \"$@\"; else exec \
                            mysqldump \"$@\"; fi' sh";

const MARIADB: &str =
    "env LC_ALL=C sh -c 'if command -v mariadb >/dev/null; then exec mariadb \"$@\"; else exec mysql \"$@\"; fi' sh";

/// What it prints is a line for each row.
const MARIADB_LINES: &str = "--default-character-set=utf8mb4 --batch --skip-column-names --raw";

/// MariaDB's own views on what is stored elsewhere.
const MARIADB_VIEWS: [&str; 3] = ["information_schema", "performance_schema", "sys"];

/// The verbs of dumps, and of trying whether they could be made.
const POSTGRESQL: &str = "postgresql";
const TRY_POSTGRESQL: &str = "try-postgresql";
const MARIADB_VERB: &str = "mariadb";
const TRY_MARIADB: &str = "try-mariadb";

/// A copy that SQLite makes page by page while others write, in a folder of its own that goes afterwards.
const SQLITE: &str = "umask 077; folder=$(mktemp -d) || exit 1; trap \"rm -rf \\\"$folder\\\"\" EXIT HUP INT TERM; sqlite3 -batch \
                      -readonly \"$1\" \".timeout 60000\" \".backup \\\"$folder/copy\\\"\" >&2 && cat \"$folder/copy\"";

/// Adds the dumps of PostgreSQL.
pub(super) async fn postgresql(source: &Source, connection: &Connection<'_>, stop: &Stop, plan: &mut Plan) -> Result<()> {
    if source.postgresql.is_empty() {
        return Ok(());
    }
    match databases(&source.postgresql, &all_postgresql(), "psql", 0, source, connection, stop).await? {
        Ok(names) => {
            let format = source.dumps.postgresql_format;
            plan.dumps.extend(
                (1..).zip(&names).map(|(number, name)| postgresql_dump(&object(&source.postgresql, number, name), name, format)),
            );
        }
        Err(why) => plan.unknown.push(("PostgreSQL", why)),
    }
    if source.dumps.postgresql_globals {
        plan.dumps.push(globals());
    }
    Ok(())
}

/// How a gate is told of a database: by its number in the list of those that are wanted, or by its name where the server lists them.
fn object(wanted: &[String], number: usize, name: &str) -> String {
    if wanted == [ALL] { name.to_owned() } else { number.to_string() }
}

/// The lines for a dump, and for trying whether it could be made, of the database that `argument` is for the shell.
fn postgresql_lines(argument: &str, format: PostgresqlFormat) -> (String, String) {
    let line = |option: &str| {
        format!("env LC_ALL=C pg_dump --format={option} --no-password --lock-wait-timeout={LOCK_WAIT} --dbname={argument}")
    };
    let option = match format {
        PostgresqlFormat::Plain => "plain",
        PostgresqlFormat::Custom => "custom",
    };
    // A dump of the schema locks the tables as a whole one does.
    (line(option), format!("{} --schema-only", line("plain")))
}

fn postgresql_dump(object: &str, name: &str, format: PostgresqlFormat) -> Dump {
    let (end, proof) = match format {
        PostgresqlFormat::Plain => ("sql", Proof::Database),
        PostgresqlFormat::Custom => ("dump", Proof::Custom),
    };
    let (line, trial) = postgresql_lines(&word(name), format);
    Dump {
        title: format!("the database {}", shown(name)),
        doing: format!("dumping {}", shown(name)),
        program: "pg_dump",
        place: place("postgresql", &format!("{name}.{end}")),
        command: Request::new(format!("{POSTGRESQL} {object}"), line),
        fallback: None,
        trial: Some(Request::new(format!("{TRY_POSTGRESQL} {object}"), trial)),
        proof,
        hidden: Vec::new(),
    }
}

/// Roles and tablespaces. Their passwords are only for a superuser to read.
fn globals() -> Dump {
    let line = "env LC_ALL=C pg_dumpall --globals-only --no-password";
    Dump {
        title: "the roles and tablespaces of PostgreSQL".to_owned(),
        doing: "dumping roles and tablespaces".to_owned(),
        program: "pg_dumpall",
        place: place("globals", "postgresql.sql"),
        command: Request::new("globals", line),
        fallback: Some(Request::new("globals-less", format!("{line} --no-role-passwords"))),
        trial: None,
        proof: Proof::Cluster,
        hidden: Vec::new(),
    }
}

/// Adds the dumps of MariaDB or MySQL.
pub(super) async fn mariadb(source: &Source, connection: &Connection<'_>, stop: &Stop, plan: &mut Plan) -> Result<()> {
    let wanted = &source.dumps.mariadb;
    if wanted.is_empty() {
        return Ok(());
    }
    match databases(wanted, &all_mariadb(), "mariadb", b'\n', source, connection, stop).await? {
        Ok(names) => {
            let is_view = |name: &str| *wanted == [ALL] && MARIADB_VIEWS.contains(&name);
            let names = (1..).zip(&names).filter(|(_, name)| !is_view(name));
            let grants = ask(&mariadb_grants(), "mariadb", source, connection, stop).await?;
            if let Err(why) = &grants {
                tracing::warn!(source = source.name, "which rights the account has in MariaDB couldn't be found out: {why:#}");
            }
            let hidden = |name: &str| {
                grants.as_deref().map_or_else(|_| Vec::new(), |text| grants::hidden(&String::from_utf8_lossy(text), name))
            };
            plan.dumps.extend(
                names.map(|(number, name)| Dump { hidden: hidden(name), ..mariadb_dump(&object(wanted, number, name), name) }),
            );
        }
        Err(why) => plan.unknown.push(("MariaDB", why)),
    }
    Ok(())
}

fn all_postgresql() -> Request {
    Request::new("all-postgresql", ALL_POSTGRESQL)
}

fn all_mariadb() -> Request {
    Request::new("all-mariadb", format!("{MARIADB} {MARIADB_LINES} --execute 'SHOW DATABASES'"))
}

fn mariadb_grants() -> Request {
    Request::new("mariadb-grants", format!("{MARIADB} {MARIADB_LINES} --execute 'SHOW GRANTS'"))
}

/// As [`postgresql_lines`].
fn mariadb_lines(argument: &str) -> (String, String) {
    // One state of all tables without locking any, for InnoDB; and all that isn't a table.
    let options = "--single-transaction --quick --routines --events --triggers --hex-blob --no-tablespaces \
                   --default-character-set=utf8mb4";
    let line = format!("{MARIADB_DUMP} {options} -- {argument}");
    let trial = line.replacen("--quick", "--quick --no-data", 1);
    (line, trial)
}

fn mariadb_dump(object: &str, name: &str) -> Dump {
    let (line, trial) = mariadb_lines(&word(name));
    Dump {
        title: format!("the database {}", shown(name)),
        doing: format!("dumping {}", shown(name)),
        program: "mariadb-dump",
        place: place("mariadb", &format!("{name}.sql")),
        command: Request::new(format!("{MARIADB_VERB} {object}"), line),
        trial: Some(Request::new(format!("{TRY_MARIADB} {object}"), trial)),
        fallback: None,
        proof: Proof::MariaDb,
        hidden: Vec::new(),
    }
}

/// The dump of the SQLite database `path`. Its name is the path with `%2F` for each slash behind the first, and `%25` for `%`.
pub(super) fn sqlite(number: usize, path: &Path) -> Dump {
    let text = path.to_string_lossy();
    let name = text.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    let line = |script: &str| format!("env LC_ALL=C sh -c {} sh {}", word(script), word(&text));
    Dump {
        title: format!("the SQLite database {}", shown(&text)),
        doing: format!("dumping {}", shown(&text)),
        program: "sqlite3",
        place: place("sqlite", &name),
        command: Request::new(format!("sqlite {number}"), line(SQLITE)),
        fallback: None,
        trial: Some(Request::new(
            format!("try-sqlite {number}"),
            line("sqlite3 -batch -readonly \"$1\" \"PRAGMA schema_version\" >&2"),
        )),
        proof: Proof::Sqlite,
        hidden: Vec::new(),
    }
}

/// What a command prints. It isn't tried out: who knows what else it does.
pub(super) fn command(number: usize, command: &DumpCommand) -> Dump {
    Dump {
        title: format!("the output of {}", command.name),
        doing: format!("running {}", command.name),
        program: "the command",
        place: place("command", &command.name),
        command: Request::new(format!("command {number}"), &command.run),
        fallback: None,
        trial: None,
        proof: Proof::Ends(command.ends_with.clone().unwrap_or_default()),
        hidden: Vec::new(),
    }
}

/// All that a pull of `source` and its rehearsal can ask of databases, but for those that the server itself names.
pub fn requests(source: &Source) -> Vec<Request> {
    let (postgresql, dumps) = (&source.postgresql, &source.dumps);
    let mut every: Vec<Dump> = Vec::new();
    let mut requests = Vec::new();
    if *postgresql == [ALL] {
        requests.push(all_postgresql());
    } else {
        let format = dumps.postgresql_format;
        every
            .extend((1..).zip(postgresql).map(|(number, name)| postgresql_dump(&object(postgresql, number, name), name, format)));
    }
    if !postgresql.is_empty() && dumps.postgresql_globals {
        every.push(globals());
    }
    if !dumps.mariadb.is_empty() {
        requests.push(mariadb_grants());
    }
    if dumps.mariadb == [ALL] {
        requests.push(all_mariadb());
    } else {
        every.extend((1..).zip(&dumps.mariadb).map(|(number, name)| mariadb_dump(&object(&dumps.mariadb, number, name), name)));
    }
    every.extend((1..).zip(&dumps.sqlite).map(|(number, path)| sqlite(number, path)));
    every.extend((1..).zip(&dumps.commands).map(|(number, of)| command(number, of)));
    requests.extend(every.into_iter().flat_map(|dump| [Some(dump.command), dump.fallback, dump.trial]).flatten());
    requests
}

/// What can be asked of databases that the server itself names.
pub fn named(source: &Source) -> Vec<Named> {
    let mut named = Vec::new();
    if source.postgresql == [ALL] {
        let (line, trial) = postgresql_lines("\"$1\"", source.dumps.postgresql_format);
        // A name with a line's end in it is none that is dumped.
        let list = format!("{ALL_POSTGRESQL} | tr '\\n\\0' '\\001\\n'");
        named.push(Named { verb: POSTGRESQL, line, list: list.clone() });
        named.push(Named { verb: TRY_POSTGRESQL, line: trial, list });
    }
    if source.dumps.mariadb == [ALL] {
        let ((line, trial), list) = (mariadb_lines("\"$1\""), all_mariadb().line().to_owned());
        named.push(Named { verb: MARIADB_VERB, line, list: list.clone() });
        named.push(Named { verb: TRY_MARIADB, line: trial, list });
    }
    named
}

fn place(kind: &str, name: &str) -> PathBuf {
    Path::new(mirror::DUMPS).join(kind).join(name)
}

/// The databases that `wanted` comes to: `all` is asked which there are, with `end` behind each. The inner error is why that
/// can't be told.
async fn databases(
    wanted: &[String],
    all: &Request,
    program: &'static str,
    end: u8,
    source: &Source,
    connection: &Connection<'_>,
    stop: &Stop,
) -> Result<Result<Vec<String>, String>> {
    if wanted != [ALL] {
        return Ok(Ok(wanted.to_vec()));
    }
    let said = ask(all, program, source, connection, stop).await?;
    Ok(said.and_then(|said| names(&said, end)).map_err(|error| super::make::one_line(&error)))
}

/// What `program` says to a small request. The inner error is why it says nothing.
async fn ask(
    request: &Request,
    program: &'static str,
    source: &Source,
    connection: &Connection<'_>,
    stop: &Stop,
) -> Result<Result<Vec<u8>>> {
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(block);
        if said.len() > MOST {
            bail!("the server says more than {MOST} bytes of its databases");
        }
        Ok(())
    };
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let ended = child::run(connection.command(request), limits, stop, &mut take).await;
    stop.check()?;
    Ok(ended.and_then(|ended| match ended.code {
        Some(0) => Ok(said),
        _ => Err(anyhow!("{}", remedy::failure(&ended, program, &source.user))),
    }))
}

/// The names in what a server said.
fn names(said: &[u8], end: u8) -> Result<Vec<String>> {
    let text = std::str::from_utf8(said).context("the server names a database in bytes that aren't UTF-8")?;
    let names: Vec<&str> =
        text.split(char::from(end)).map(|name| name.trim_end_matches('\n')).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        bail!("the server names none");
    }
    // A server chooses these names, and they become words of commands and names of files.
    let odd = names.iter().find(|name| !crate::config::is_database(name));
    if let Some(odd) = odd {
        bail!("the server has a database {:?}, which can't be dumped to a file of that name", shown(odd));
    }
    Ok(names.into_iter().map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{PostgresqlFormat, names, postgresql_dump, sqlite};

    #[test]
    fn a_name_is_one_word_of_the_command() {
        let dump = postgresql_dump("1", "o'neil's $(db)", PostgresqlFormat::Plain);
        assert_eq!(
            dump.trial.unwrap().line(),
            "env LC_ALL=C pg_dump --format=plain --no-password --lock-wait-timeout=600000 --dbname='o'\\''neil'\\''s $(db)' \
             --schema-only"
        );
        assert_eq!(dump.place, Path::new("dumps/postgresql/o'neil's $(db).sql"));
        assert_eq!(sqlite(1, Path::new("/srv/100%/app.db")).place, Path::new("dumps/sqlite/srv%2F100%25%2Fapp.db"));
    }

    #[test]
    fn names_from_a_server_are_checked() {
        assert_eq!(names(b"shop\0wiki\0", 0).unwrap(), ["shop", "wiki"]);
        assert_eq!(names(b"shop\nwiki\n", b'\n').unwrap(), ["shop", "wiki"]);
        for (said, why) in [
            (&b""[..], "the server names none"),
            (b"a\0../x\0", "the server has a database \"../x\", which can't be dumped to a file of that name"),
            (b"\xff\0", "the server names a database in bytes that aren't UTF-8"),
        ] {
            assert_eq!(names(said, 0).unwrap_err().to_string(), why);
        }
    }
}
