//! The script that sets a server up for a source with a gate: account, key, gate, and the rights to read what is configured.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::{Config, Source};
use crate::source::dump::servers::ALL;
use crate::source::gate;
use crate::source::key;
use crate::source::ssh::word;

/// The script, with blanks like `{{USER}}` in it.
const SCRIPT: &str = include_str!("setup.sh");

/// Where the gates and the records of the setups stand on a server, a folder for each account.
const FOLDER: &str = "/usr/local/lib/vaultberry";

/// The script for the source `name`, for root on its server. Makes the appliance's key first if there is none.
///
/// # Errors
/// There is no such source, it has no gate, or its key can't be had.
pub fn setup(config: &Config, name: &str) -> Result<String> {
    let source = config.sources.iter().find(|source| source.name == name);
    let source = source.with_context(|| {
        let names: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
        format!("setting up {name}: there is no such source\nhint: there are {}", names.join(", "))
    })?;
    if !source.gate {
        bail!("setting up {name}: the source has no gate\nhint: write gate = true into its section");
    }
    let host = &config.appliance.hostname;
    Ok(script(source, host, &key::ensure(&source.identity, host)?))
}

fn script(source: &Source, host: &str, key: &str) -> String {
    gate::fill(
        SCRIPT,
        &[
            ("USER", &source.user),
            ("HOST", host),
            ("NAME", &source.name),
            ("KEY", &word(key)),
            ("FOLDER", &format!("{FOLDER}/{}", source.user)),
            ("NEEDS", &needs(source)),
            ("RIGHTS", &rights(source)),
            ("GATE", &gate::script(source, host)),
        ],
    )
}

/// The programs that the script and the requests need, each with Debian's package of it.
fn needs(source: &Source) -> String {
    let dumps = &source.dumps;
    let (postgresql, sqlite) = (!source.postgresql.is_empty(), !dumps.sqlite.is_empty());
    let wanted = [
        ("useradd", "passwd", true),
        ("runuser", "util-linux", true),
        ("logger", "bsdutils", true),
        ("rsync", "rsync", !source.paths.is_empty()),
        ("setfacl", "acl", !source.paths.is_empty() || sqlite),
        ("pg_dump", "postgresql-client", postgresql),
        ("sqlite3", "sqlite3", sqlite),
    ];
    let wanted = wanted.into_iter().filter(|(.., wanted)| *wanted);
    let lines = wanted.map(|(program, package, _)| format!("\tneed {program} {package}\n"));
    let mariadb = "\tcommand -v mysqldump >/dev/null || need mariadb-dump mariadb-client\n";
    lines.chain((!dumps.mariadb.is_empty()).then(|| mariadb.to_owned())).collect()
}

/// The calls that let the account read what is configured.
fn rights(source: &Source) -> String {
    let (postgresql, mariadb) = (&source.postgresql, &source.dumps.mariadb);
    let of_path = |call: &str, path: &Path| format!("{call} {}", word(&path.to_string_lossy()));
    let options = find_options(source);
    let mut calls: Vec<String> = source.paths.iter().map(|path| of_path("readable", path) + &options).collect();
    let above = source.files.sentinels.iter().filter_map(|path| path.parent());
    calls.extend(above.map(|folder| of_path("pass", folder)));
    calls.extend(source.dumps.sqlite.iter().map(|path| of_path("sqlite", path)));
    calls.extend((!postgresql.is_empty()).then(|| "role".to_owned()));
    let of_database = |name: &String| if name == ALL { "every_database".to_owned() } else { format!("database {}", word(name)) };
    calls.extend(postgresql.iter().map(of_database));
    calls.extend((!mariadb.is_empty()).then(|| "mariadb_user".to_owned()));
    calls.extend(mariadb.iter().map(|name| format!("grant {}", word(&granted(name)))));
    calls.iter().flat_map(|call| ["\t", call, "\n"]).collect()
}

/// What keeps `find` out of what the appliance leaves out.
fn find_options(source: &Source) -> String {
    let files = &source.files;
    let within = files.one_file_system.then(|| " -xdev".to_owned());
    // A pattern is rsync's own: `find` might take it for less.
    let plain = files.exclude.iter().filter(|pattern| pattern.starts_with('/') && !pattern.contains(['*', '?', '[', '\\']));
    let kept_out = plain.map(|path| format!(" -path {} -prune -o", word(path.trim_end_matches('/'))));
    within.into_iter().chain(kept_out).collect()
}

/// The tables of a database in `GRANT`, where its name is a pattern: an underscore is any letter in it.
fn granted(name: &str) -> String {
    if name == ALL {
        return "*.*".to_owned();
    }
    format!("`{}`.*", name.replace('`', "``").replace('_', "\\_").replace('%', "\\%"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{needs, rights, setup};
    use crate::config::{Source, sample};

    #[test]
    fn rights_are_given_on_what_is_configured_and_nothing_else() {
        let mut source =
            Source { paths: vec![PathBuf::from("/srv/it's")], postgresql: vec![String::from("wiki")], ..sample::source("web") };
        source.dumps.mariadb = vec![String::from("my_shop")];
        source.files.one_file_system = true;
        source.files.exclude = ["*.tmp", "/srv/it's/cache/", "/srv/it's/*.log"].map(String::from).to_vec();
        let expected = "\treadable '/srv/it'\\''s' -xdev -path '/srv/it'\\''s/cache' -prune -o\n\trole\n\tdatabase 'wiki'\n\tmariadb_user\n\tgrant '`my\\_shop`.*'\n";
        assert_eq!(rights(&source), expected);
        let programs =
            "\tneed useradd passwd\n\tneed runuser util-linux\n\tneed logger bsdutils\n\tneed rsync rsync\n\tneed setfacl acl\n";
        let clients = "\tneed pg_dump postgresql-client\n\tcommand -v mysqldump >/dev/null || need mariadb-dump mariadb-client\n";
        assert_eq!(needs(&source), format!("{programs}{clients}"));
    }

    #[test]
    fn a_source_without_a_gate_is_not_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name| setup(&sample::config(folder.path()), name).unwrap_err().to_string();
        assert_eq!(error("web"), "setting up web: the source has no gate\nhint: write gate = true into its section");
        assert_eq!(error("db"), "setting up db: there is no such source\nhint: there are web");
    }
}
