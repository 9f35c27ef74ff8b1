//! What a run would do, found out without writing anything: `backup run --dry-run`.
//!
//! The guards look, each source is asked what there is to pull, and store and mail server are only named: whether a login
//! there works, `offsite list` and `report test` tell. The lock isn't taken, so a run may be at work meanwhile.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::config::{Config, Report, Source};
use crate::credentials;
use crate::offsite::Candidate;
use crate::openpgp::Recipients;
use crate::outcome::Outcome;
use crate::run::report::line;
use crate::run::{guard, pushes};
use crate::snapshot::list::name_of;
use crate::source::apart;
use crate::source::room::Room;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// How many warnings of a source are shown.
const SHOWN: usize = 5;

/// What a run would do.
#[derive(Debug, Serialize)]
pub struct RunRehearsal {
    /// How the run would end, as far as can be told.
    pub outcome: Outcome,
    /// Why it could do nothing.
    pub error: Option<String>,
    /// One for each source, in the order of the configuration; none when a guard would stop the run.
    pub sources: Vec<SourceRehearsal>,
    /// What would be done beside the sources.
    pub lines: Vec<String>,
}

/// What would be done for a source.
#[derive(Debug, Serialize)]
pub struct SourceRehearsal {
    /// Its name.
    pub name: String,
    /// How it would end.
    pub outcome: Outcome,
    /// What would be pulled, and pushed.
    pub lines: Vec<String>,
    /// What wouldn't be as it should.
    pub warnings: Warnings,
    /// Why nothing of it can be had.
    pub error: Option<String>,
}

/// Finds out what a run would do now.
pub fn rehearse(config: &Config, stop: &Stop) -> RunRehearsal {
    let now = Timestamp::now();
    if let Err(error) = guard::look(config, now) {
        let error = Some(format!("{error:#}"));
        return RunRehearsal { outcome: Outcome::Failed, error, sources: Vec::new(), lines: Vec::new() };
    }
    let run = name_of(now);
    let mut sources = Vec::new();
    let mut stopped = None;
    for source in &config.sources {
        if let Err(error) = stop.check() {
            stopped = Some(format!("{error:#}"));
            break;
        }
        sources.push(one(config, source, &run, stop));
    }
    let outcome = sources.iter().map(|source| source.outcome).max().unwrap_or(Outcome::Failed);
    let mut lines = around(config);
    let mut unusable: Vec<String> = Recipients::at(&config.recipients, SystemTime::now())
        .unusable()
        .iter()
        .map(|problem| format!("nothing can be sealed for {problem}"))
        .collect();
    unusable.extend(unreadable_credentials(config));
    let outcome = match (stopped.is_some(), unusable.is_empty()) {
        (true, _) => Outcome::Failed,
        (false, true) => outcome,
        (false, false) => outcome.max(Outcome::Partial),
    };
    lines.append(&mut unusable);
    RunRehearsal { outcome, error: stopped, sources, lines }
}

fn one(config: &Config, source: &Source, run: &str, stop: &Stop) -> SourceRehearsal {
    let mirror = config.backup.folder.join("current").join(&source.name);
    let name = source.name.clone();
    let fits = if mirror.exists() { Room::new(&name, &mirror, source.quota).and_then(|room| room.check_quota()) } else { Ok(()) };
    match fits.and_then(|()| apart::rehearse(source, &mirror, stop)) {
        Ok(rehearsed) => {
            let mut lines = rehearsed.lines;
            if rehearsed.outcome != Outcome::Failed {
                lines.extend(pushing(config, &source.name, run, rehearsed.outcome));
            }
            SourceRehearsal { name, outcome: rehearsed.outcome, lines, warnings: rehearsed.warnings, error: None }
        }
        Err(error) => SourceRehearsal {
            name,
            outcome: Outcome::Failed,
            lines: Vec::new(),
            warnings: Warnings::default(),
            error: Some(format!("{error:#}")),
        },
    }
}

/// What would become of the snapshot off-site.
fn pushing(config: &Config, source: &str, run: &str, outcome: Outcome) -> Option<String> {
    config.offsite.as_ref()?;
    let nowhere = Path::new("");
    let candidate = Candidate { source, name: run, archive: nowhere, index: nowhere, outcome };
    Some(pushes::not_due(config, &candidate).map_or_else(|| "off-site: due, would be pushed".into(), |push| push.summary(run)))
}

/// What is wrong with the files that the run would log in with.
pub fn unreadable_credentials(config: &Config) -> impl Iterator<Item = String> {
    let store = config.offsite.as_ref().map(|offsite| &offsite.credentials);
    let servers = config.report.iter().flat_map(|report| &report.servers);
    let mail = servers.filter_map(|server| server.credentials.as_ref());
    let watcher = config.ping.as_ref().map(|ping| &ping.credentials);
    // Which lines there must be is the business of who uses them; none is kept here.
    let read = |path: &PathBuf| credentials::read::<IgnoredAny>(path).err();
    store.into_iter().chain(mail).chain(watcher).filter_map(read).map(|error| format!("{error:#}"))
}

fn around(config: &Config) -> Vec<String> {
    let servers = |report: &Report| report.servers.iter().map(|server| server.host.as_str()).collect::<Vec<_>>().join(" or ");
    let told = |report: &Report| format!("the report would go to {} through {}", report.to.join(", "), servers(report));
    config.report.iter().map(told).collect()
}

impl RunRehearsal {
    /// What a person wants to know, in a few lines.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        line(&mut text, 0, &format!("backup, if it were made now: {}", self.outcome));
        if let Some(error) = &self.error {
            line(&mut text, 2, error);
        }
        let width = self.sources.iter().map(|source| source.name.len()).max().unwrap_or(0);
        for source in &self.sources {
            let error = source.error.as_deref().unwrap_or_default();
            line(&mut text, 2, &format!("{:width$}  {:8}  {error}", source.name, source.outcome.to_string()));
            for told in source.lines.iter().chain(source.warnings.lines.iter().take(SHOWN)) {
                line(&mut text, 6, told);
            }
            let rest = source.warnings.total().saturating_sub(SHOWN as u64);
            if rest > 0 {
                line(&mut text, 6, &format!("… and {rest} warnings more"));
            }
        }
        for told in &self.lines {
            line(&mut text, 2, told);
        }
        line(&mut text, 2, "nothing was written");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{RunRehearsal, SourceRehearsal, unreadable_credentials};
    use crate::config::{EXAMPLE, Ping, parse};
    use crate::outcome::Outcome;
    use crate::warnings::Warnings;

    #[test]
    fn the_summary_says_what_would_be_done_and_that_nothing_was() {
        let source = |name: &str, outcome, error| SourceRehearsal {
            name: String::from(name),
            outcome,
            lines: vec![String::from("the database wiki can be dumped")],
            warnings: Warnings::default(),
            error,
        };
        let rehearsal = RunRehearsal {
            outcome: Outcome::Failed,
            error: None,
            sources: vec![
                source("web", Outcome::Complete, None),
                source("db-1", Outcome::Failed, Some(String::from("no\nhint: look"))),
            ],
            lines: vec![String::from("the report would go to me@example.org through mail")],
        };
        assert_eq!(
            rehearsal.summary(),
            "backup, if it were made now: failed\n  web   complete\n      the database wiki can be dumped\n  \
             db-1  failed    no\n      hint: look\n      the database wiki can be dumped\n  \
             the report would go to me@example.org through mail\n  nothing was written\n"
        );
    }

    #[test]
    fn the_address_of_the_watcher_is_looked_at_too() {
        let mut config = parse(EXAMPLE).unwrap();
        config.ping = Some(Ping { credentials: PathBuf::from("/nowhere/ping"), partial: Outcome::Failed });
        let told: Vec<String> = unreadable_credentials(&config).collect();
        assert!(told.iter().any(|told| told.contains("/nowhere/ping")), "{told:?}");
    }
}
