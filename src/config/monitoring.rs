//! `[ping]` and `[metrics]`: how others learn of runs.

use std::path::PathBuf;

use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Report, Section};
use super::{Metrics, Ping, place, schema};
use crate::outcome::Outcome;

/// Where the URL stands unless the file says otherwise.
const CREDENTIALS: &str = "/etc/vaultberry/credentials/ping";

/// Reads whom to tell of runs; none without the section.
pub(super) fn ping(report: &mut Report<'_>, root: &DeTable<'_>) -> Option<Ping> {
    let section = Section::once(report, root, &schema::PING);
    if !section.exists() {
        return None;
    }
    let credentials = section.text(report, "credentials", PathBuf::from(CREDENTIALS), place::credentials).value;
    let partial = section.text(report, "partial", Outcome::Failed, partial).value;
    Some(Ping { credentials, partial })
}

/// Reads where metrics go; none without the section.
pub(super) fn metrics(report: &mut Report<'_>, root: &DeTable<'_>) -> Option<Metrics> {
    let section = Section::once(report, root, &schema::METRICS);
    if !section.exists() {
        return None;
    }
    section.required(report, "folder", place::own).map(|folder| Metrics { folder })
}

fn partial(text: &str) -> Result<Outcome, Fault> {
    match text {
        "success" => Ok(Outcome::Complete),
        "fail" => Ok(Outcome::Failed),
        _ => Err(Fault::new(format!("{} is nothing to tell of a run", show(text)), "write \"success\" or \"fail\"")),
    }
}
