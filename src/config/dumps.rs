//! What is dumped on a source: databases, and the output of commands.

use super::error::{Fault, show};
use super::read::{Element, Report, Section, Setting};
use super::section::distinct;
use super::{DumpCommand, Dumps, PostgresqlFormat, name, place, schema};

/// Reads all but the list `postgresql` itself.
pub(super) fn dumps(report: &mut Report<'_>, section: &Section<'_>, postgresql: &Setting<Vec<Element<String>>>) -> Dumps {
    alone(report, &postgresql.value);
    let mariadb = section.list(report, "mariadb", name::databases);
    alone(report, &mariadb.value);
    let sqlite = section.list(report, "sqlite", |text| place::remote(text).map(|path| path.to_string_lossy().into_owned()));
    let format = section.text(report, "postgresql_format", PostgresqlFormat::Plain, |text| match text {
        "plain" => Ok(PostgresqlFormat::Plain),
        "custom" => Ok(PostgresqlFormat::Custom),
        _ => Err(Fault::new(format!("{} is no format", show(text)), "write \"plain\" or \"custom\"")),
    });
    Dumps {
        postgresql_format: format.value,
        postgresql_globals: section.flag(report, "postgresql_globals", true).value,
        mariadb: distinct(report, mariadb.value),
        sqlite: distinct(report, sqlite.value).into_iter().map(Into::into).collect(),
        commands: commands(report, section),
        least_percent: section.number(report, "least_dump_percent", 50, 0..=100).value,
    }
}

impl Dumps {
    /// Whether there is anything beside PostgreSQL's databases.
    pub(super) fn is_any(&self) -> bool {
        !self.mariadb.is_empty() || !self.sqlite.is_empty() || !self.commands.is_empty()
    }
}

/// `*` stands for all, so nothing may stand beside it.
fn alone(report: &mut Report<'_>, elements: &[Element<String>]) {
    if let Some(all) = elements.iter().find(|element| element.value == "*").filter(|_| elements.len() > 1) {
        report.add(&all.at, all.path.clone(), Fault::new("means all databases, so nothing can stand beside it", "write [\"*\"]"));
    }
}

fn commands(report: &mut Report<'_>, section: &Section<'_>) -> Vec<DumpCommand> {
    let mut commands: Vec<DumpCommand> = Vec::new();
    for inner in section.inner(report, "command", &schema::COMMAND) {
        let name = inner.required(report, "name", |text| {
            let name = name::source_name(text)?;
            if commands.iter().any(|known| known.name == name) {
                return Err(Fault::new(format!("{} is the name of another command", show(text)), "give each a name of its own"));
            }
            Ok(name)
        });
        let line = |text: &str| match text {
            text if text.trim().is_empty() || text.contains(['\0', '\n', '\r']) => {
                Err(Fault::new("must be one line for a shell", "write run = \"slapcat -n 1\""))
            }
            text => Ok(String::from(text)),
        };
        let run = inner.required(report, "run", line);
        let ends_with = inner.text(report, "ends_with", None, |text| Ok(Some(String::from(text)))).value;
        if let (Some(name), Some(run)) = (name, run) {
            commands.push(DumpCommand { name, run, ends_with });
        }
    }
    commands
}
