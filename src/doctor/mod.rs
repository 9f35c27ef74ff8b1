//! What is wrong with an appliance, found by trying.
//!
//! Each check does something real and harmless: it reads a login, asks a server for its keys, writes and tries to destroy an
//! object of its own in the store. Nothing of a run is touched, and no lock is taken.

pub mod mail;
pub mod store;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::config::{Config, Source};
use crate::disk;
use crate::openpgp::{Recipients, remedy};
use crate::outcome::Outcome;
use crate::run::rehearsal;
use crate::source::apart;
use crate::source::trust::Server;
use crate::stop::Stop;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not broken, but the owner should know.
    Warning,
    /// Broken: runs will fail.
    Failed,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about: `store`, `source web`.
    pub about: String,
    /// How it is.
    pub state: State,
    /// What was found, for a person, with what helps.
    pub told: String,
}

impl Check {
    /// One that is fine.
    pub fn ok(about: &str, told: impl Into<String>) -> Self {
        Self { about: about.to_owned(), state: State::Ok, told: told.into() }
    }

    /// One that the owner should know of, and what helps.
    pub fn warning(about: &str, told: &str, hint: &str) -> Self {
        Self { about: about.to_owned(), state: State::Warning, told: format!("{told}\nhint: {hint}") }
    }

    /// One that is broken.
    pub fn failed(about: &str, error: &anyhow::Error) -> Self {
        Self { about: about.to_owned(), state: State::Failed, told: format!("{error:#}") }
    }
}

/// Tries everything that `config` speaks of, and gives each check to `told` when it is done.
///
/// # Errors
/// A stop was asked for, or `told` failed.
pub fn examine(config: &Config, stop: &Stop, told: &mut dyn FnMut(&Check) -> Result<()>) -> Result<Outcome> {
    let mut worst = State::Ok;
    let mut tell = |check: Check| {
        worst = worst.max(check.state);
        told(&check)
    };
    if config.disk.is_some() {
        let mounted = disk::mounted(&config.backup.folder);
        tell(mounted.map_or_else(|error| Check::failed("disk", &error), |()| Check::ok("disk", "the backup disk is mounted")))?;
    }
    let metrics = config.metrics.as_ref().map(|metrics| ("metrics", metrics.folder.as_path()));
    for (about, folder) in [("state", config.backup.state.as_path())].into_iter().chain(metrics) {
        tell(of_folder(about, folder))?;
    }
    for problem in rehearsal::unreadable_credentials(config) {
        tell(Check::failed("credentials", &anyhow!(problem)))?;
    }
    recipients(config).into_iter().try_for_each(&mut tell)?;
    for source in &config.sources {
        stop.check()?;
        tell(of_source(config, source, stop))?;
    }
    if let Some(offsite) = &config.offsite {
        stop.check()?;
        store::examine(offsite, stop)?.into_iter().try_for_each(&mut tell)?;
    }
    if let Some(report) = &config.report {
        for server in &report.servers {
            stop.check()?;
            tell(mail::examine(report, server, &config.appliance.hostname))?;
        }
    }
    Ok(match worst {
        State::Ok => Outcome::Complete,
        State::Warning => Outcome::Partial,
        State::Failed => Outcome::Failed,
    })
}

fn recipients(config: &Config) -> Vec<Check> {
    if config.recipients.is_empty() {
        return Vec::new();
    }
    let all = Recipients::at(&config.recipients, SystemTime::now());
    let unusable =
        all.unusable().iter().map(|problem| Check::failed("certificate", &anyhow!("{problem}\nhint: {}", remedy(problem))));
    let expiring =
        all.expiring().iter().map(|told| Check { about: "certificate".to_owned(), state: State::Warning, told: told.clone() });
    let mut checks: Vec<Check> = unusable.chain(expiring).collect();
    if checks.is_empty() {
        checks.push(Check::ok("certificate", format!("all {} can be sealed for", config.recipients.len())));
    }
    checks
}

/// Whether a folder takes a file. The first run makes one that isn't there.
fn of_folder(about: &str, folder: &Path) -> Check {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let written = NamedTempFile::new_in(there).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.as_file().sync_all()
    });
    match written {
        Ok(()) => Check::ok(about, format!("{} takes files", folder.display())),
        Err(error) => Check::failed(
            about,
            &anyhow!(
                "writing to {}: {error}\nhint: make room there, or look whose it is: what runs say of themselves goes there",
                there.display()
            ),
        ),
    }
}

/// Whether the server is there, is the one whose keys are pinned, and lets the appliance in.
fn of_source(config: &Config, source: &Source, stop: &Stop) -> Check {
    let name = &source.name;
    let about = format!("source {name}");
    let asked = Server::of(config, name).and_then(|server| apart::host_keys(&server, stop));
    match asked {
        Ok(offered) if offered.is_pinned() => match apart::log_in(source, &config.backup.folder.join("current").join(name), stop)
        {
            Ok(()) => Check::ok(&about, "it answers, with a key that is pinned, and lets the appliance in"),
            Err(error) => Check::failed(&about, &error),
        },
        Ok(_) => Check::failed(
            &about,
            &anyhow!("it answers with none of the keys that are pinned\nhint: `vaultberry source trust {name}` shows them"),
        ),
        Err(error) => Check::failed(&about, &error),
    }
}

/// A check as lines for a person.
pub fn text(check: &Check) -> String {
    let word = match check.state {
        State::Ok => "ok",
        State::Warning => "WARNING",
        State::Failed => "FAILED",
    };
    let mut lines = check.told.lines();
    let mut text = format!("{word:8} {}: {}\n", check.about, lines.next().unwrap_or_default());
    for line in lines {
        writeln!(text, "         {line}").expect("writing to a string doesn't fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{State, of_folder};

    #[test]
    fn a_folder_that_takes_no_files_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder("state", folder.path()).state, State::Ok);
        assert_eq!(of_folder("state", &folder.path().join("not/yet")).state, State::Ok);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let refused = of_folder("state", "/proc/self".as_ref());
        assert!(refused.state == State::Failed && refused.told.contains("\nhint: make room there"), "{refused:?}");
    }
}
