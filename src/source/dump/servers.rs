//! What each kind of server is asked for, as lines for the shell of the account there.
//!
//! `env` sets the language in every shell. No password is in any of them: the account gets in by the server's socket, or by its
//! own `~/.pgpass` or `~/.my.cnf`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::{DumpCommand, PostgresqlFormat, Source};
use crate::source::child::{self, Limits};
use crate::source::dump::make::shown;
use crate::source::dump::{Dump, Plan, Proof, remedy};
use crate::source::mirror;
use crate::source::ssh::{Connection, word};
use crate::stop::Stop;

/// What stands in a list of databases for all of them.
pub const ALL: &str = "*";

/// How long `pg_dump` waits for each table that somebody has locked, in milliseconds.
const LOCK_WAIT: u32 = 600_000;

/// How long it may take for that.
const PATIENCE: Duration = Duration::from_mins(5);

/// The most that a server may say of which databases it has, in bytes.
const MOST: usize = 1 << 20;

const ALL_POSTGRESQL: &str = "env LC_ALL=C psql -XAtq -0 --no-password --dbname=postgres -c 'SELECT datname FROM pg_database WHERE \
                              datallowconn AND NOT datistemplate ORDER BY datname'";

/// `mysqldump` is MariaDB's older name, and MySQL's own.
const MARIADB_DUMP: &str = "env LC_ALL=C sh -c 'if command -v mariadb-dump >/dev/null; then exec mariadb-dump \"$@\"; else exec \
                            mysqldump \"$@\"; fi' sh";

const MARIADB: &str =
    "env LC_ALL=C sh -c 'if command -v mariadb >/dev/null; then exec mariadb \"$@\"; else exec mysql \"$@\"; fi' sh";

/// MariaDB's own views on what is stored elsewhere.
const MARIADB_VIEWS: [&str; 3] = ["information_schema", "performance_schema", "sys"];

/// A copy that SQLite makes page by page while others write, in a folder of its own that goes afterwards.
const SQLITE: &str = "umask 077; folder=$(mktemp -d) || exit 1; trap \"rm -rf \\\"$folder\\\"\" EXIT HUP INT TERM; sqlite3 -batch \
                      -readonly \"$1\" \".timeout 60000\" \".backup \\\"$folder/copy\\\"\" >&2 && cat \"$folder/copy\"";

/// Adds the dumps of PostgreSQL.
pub(super) async fn postgresql(source: &Source, connection: &Connection<'_>, stop: &Stop, plan: &mut Plan) -> Result<()> {
    if source.postgresql.is_empty() {
        return Ok(());
    }
    match databases(&source.postgresql, ALL_POSTGRESQL, "psql", 0, source, connection, stop).await? {
        Ok(names) => plan.dumps.extend(names.iter().map(|name| postgresql_dump(name, source.dumps.postgresql_format))),
        Err(why) => plan.unknown.push(("PostgreSQL", why)),
    }
    if source.dumps.postgresql_globals {
        plan.dumps.push(globals());
    }
    Ok(())
}

fn postgresql_dump(name: &str, format: PostgresqlFormat) -> Dump {
    let (option, end, proof) = match format {
        PostgresqlFormat::Plain => ("plain", "sql", Proof::Database),
        PostgresqlFormat::Custom => ("custom", "dump", Proof::Custom),
    };
    let line = |option: &str| {
        format!("env LC_ALL=C pg_dump --format={option} --no-password --lock-wait-timeout={LOCK_WAIT} --dbname={}", word(name))
    };
    Dump {
        title: format!("the database {}", shown(name)),
        doing: format!("dumping {}", shown(name)),
        program: "pg_dump",
        place: place("postgresql", &format!("{name}.{end}")),
        command: line(option),
        fallback: None,
        // A dump of the schema locks the tables as a whole one does.
        trial: Some(format!("{} --schema-only", line("plain"))),
        proof,
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
        command: line.to_owned(),
        fallback: Some(format!("{line} --no-role-passwords")),
        trial: None,
        proof: Proof::Cluster,
    }
}

/// Adds the dumps of MariaDB or MySQL.
pub(super) async fn mariadb(source: &Source, connection: &Connection<'_>, stop: &Stop, plan: &mut Plan) -> Result<()> {
    let wanted = &source.dumps.mariadb;
    if wanted.is_empty() {
        return Ok(());
    }
    let all = format!("{MARIADB} --default-character-set=utf8mb4 --batch --skip-column-names --raw --execute 'SHOW DATABASES'");
    match databases(wanted, &all, "mariadb", b'\n', source, connection, stop).await? {
        Ok(names) => {
            let is_view = |name: &str| *wanted == [ALL] && MARIADB_VIEWS.contains(&name);
            let names = names.iter().filter(|name| !is_view(name));
            plan.dumps.extend(names.map(|name| mariadb_dump(name)));
        }
        Err(why) => plan.unknown.push(("MariaDB", why)),
    }
    Ok(())
}

fn mariadb_dump(name: &str) -> Dump {
    // One state of all tables without locking any, for InnoDB; and all that isn't a table.
    let options = "--single-transaction --quick --routines --events --triggers --hex-blob --no-tablespaces \
                   --default-character-set=utf8mb4";
    let line = format!("{MARIADB_DUMP} {options} -- {}", word(name));
    Dump {
        title: format!("the database {}", shown(name)),
        doing: format!("dumping {}", shown(name)),
        program: "mariadb-dump",
        place: place("mariadb", &format!("{name}.sql")),
        trial: Some(line.replace("--quick", "--quick --no-data")),
        command: line,
        fallback: None,
        proof: Proof::MariaDb,
    }
}

/// The dump of the SQLite database `path`. Its name is the path with `%2F` for each slash behind the first, and `%25` for `%`.
pub(super) fn sqlite(path: &Path) -> Dump {
    let text = path.to_string_lossy();
    let name = text.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    let line = |script: &str| format!("env LC_ALL=C sh -c {} sh {}", word(script), word(&text));
    Dump {
        title: format!("the SQLite database {}", shown(&text)),
        doing: format!("dumping {}", shown(&text)),
        program: "sqlite3",
        place: place("sqlite", &name),
        command: line(SQLITE),
        fallback: None,
        trial: Some(line("sqlite3 -batch -readonly \"$1\" \"PRAGMA schema_version\" >&2")),
        proof: Proof::Sqlite,
    }
}

/// What a command prints. It isn't tried out: who knows what else it does.
pub(super) fn command(command: &DumpCommand) -> Dump {
    Dump {
        title: format!("the output of {}", command.name),
        doing: format!("running {}", command.name),
        program: "the command",
        place: place("command", &command.name),
        command: command.run.clone(),
        fallback: None,
        trial: None,
        proof: Proof::Ends(command.ends_with.clone().unwrap_or_default()),
    }
}

fn place(kind: &str, name: &str) -> PathBuf {
    Path::new(mirror::DUMPS).join(kind).join(name)
}

/// The databases that `wanted` comes to: `all` is asked which there are, with `end` behind each. The inner error is why that
/// can't be told.
async fn databases(
    wanted: &[String],
    all: &str,
    program: &'static str,
    end: u8,
    source: &Source,
    connection: &Connection<'_>,
    stop: &Stop,
) -> Result<Result<Vec<String>, String>> {
    if wanted != [ALL] {
        return Ok(Ok(wanted.to_vec()));
    }
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(block);
        if said.len() > MOST {
            bail!("the server names more than {MOST} bytes of databases");
        }
        Ok(())
    };
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let ended = child::run(connection.command(all), limits, stop, &mut take).await;
    stop.check()?;
    let names = ended.and_then(|ended| match ended.code {
        Some(0) => names(&said, end),
        _ => bail!("{}", remedy::failure(&ended, program, &source.user)),
    });
    Ok(names.map_err(|error| super::make::one_line(&error)))
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
        let dump = postgresql_dump("o'neil's $(db)", PostgresqlFormat::Plain);
        assert_eq!(
            dump.trial.unwrap(),
            "env LC_ALL=C pg_dump --format=plain --no-password --lock-wait-timeout=600000 --dbname='o'\\''neil'\\''s $(db)' \
             --schema-only"
        );
        assert_eq!(dump.place, Path::new("dumps/postgresql/o'neil's $(db).sql"));
        assert_eq!(sqlite(Path::new("/srv/100%/app.db")).place, Path::new("dumps/sqlite/srv%2F100%25%2Fapp.db"));
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
