//! The script that sets a server up for a source with a gate: account, key, gate, and the rights to read what is configured.

use anyhow::{Context, Result, bail};

use crate::config::{Config, Source};
use crate::source::dump::servers::ALL;
use crate::source::ssh::word;
use crate::source::{gate, key};

/// The script, with marks like `@USER@` in it.
const SCRIPT: &str = include_str!("setup.sh");

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
    Ok(script(source, &key::ensure(&source.identity, &config.appliance.hostname)?))
}

fn script(source: &Source, key: &str) -> String {
    let gate = gate::script(source);
    let filled = SCRIPT.replace("@USER@", &source.user).replace("@NAME@", &source.name).replace("'@KEY@'", &word(key));
    filled.replace("@NEEDS@", &needs(source)).replace("@RIGHTS@", &rights(source)).replace("@GATE@", &gate)
}

/// The programs that the requests need, each with Debian's package of it.
fn needs(source: &Source) -> String {
    let (files, dumps) = (!source.paths.is_empty() || !source.dumps.sqlite.is_empty(), &source.dumps);
    let wanted = [
        ("rsync", "rsync", !source.paths.is_empty()),
        ("setfacl", "acl", files),
        ("pg_dump", "postgresql-client", !source.postgresql.is_empty()),
        ("sqlite3", "sqlite3", !dumps.sqlite.is_empty()),
    ];
    let wanted = wanted.into_iter().filter(|(.., wanted)| *wanted);
    wanted.map(|(program, package, _)| format!("need {program} {package}\n")).collect()
}

/// The calls that let the account read what is configured.
fn rights(source: &Source) -> String {
    let (postgresql, mariadb) = (&source.postgresql, &source.dumps.mariadb);
    let mut calls = Vec::new();
    let paths = source.paths.iter().chain(&source.dumps.sqlite);
    calls.extend(paths.map(|path| format!("readable {}", word(&path.to_string_lossy()))));
    calls.extend((!postgresql.is_empty()).then(|| "role".to_owned()));
    calls.extend(
        postgresql.iter().map(|name| if name == ALL { "every_large".to_owned() } else { format!("large {}", word(name)) }),
    );
    calls.extend((!mariadb.is_empty()).then(|| "mariadb_user".to_owned()));
    for name in mariadb {
        // In GRANT a name is a pattern, in which an underscore is any letter.
        let on = if name == ALL {
            "*.*".to_owned()
        } else {
            format!("`{}`.*", name.replace('`', "``").replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"))
        };
        calls.push(format!("grant {}", word(&on)));
    }
    calls.iter().map(|call| format!("{call}\n")).collect()
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
        assert_eq!(rights(&source), "readable '/srv/it'\\''s'\nrole\nlarge 'wiki'\nmariadb_user\ngrant '`my\\_shop`.*'\n");
        assert_eq!(needs(&source), "need rsync rsync\nneed setfacl acl\nneed pg_dump postgresql-client\n");
    }

    #[test]
    fn a_source_without_a_gate_is_not_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name| setup(&sample::config(folder.path()), name).unwrap_err().to_string();
        assert_eq!(error("web"), "setting up web: the source has no gate\nhint: write gate = true into its section");
        assert_eq!(error("db"), "setting up db: there is no such source\nhint: there are web");
    }
}
