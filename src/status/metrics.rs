//! The facts for a Prometheus: `vaultberry.prom` in the folder that the node exporter's textfile
//! collector reads.
//!
//! Names, units and the text format are Prometheus' own conventions: base units, times as seconds since 1970, one HELP and
//! one TYPE for each name, label values escaped. What isn't known has no line, rather than a zero that looks like a fact.
//! [`METRICS`] lists all of them, and docs/reference/metrics.md is held to it by a test.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::durable;
use crate::outcome::Outcome;
use crate::status::facts::{Facts, SourceFacts};
use crate::status::host::State;

/// The file's name.
const NAME: &str = "vaultberry.prom";

/// A metric's name and what it says. All of them are gauges.
pub const METRICS: [(&str, &str); 20] = [
    ("vaultberry_last_run_timestamp_seconds", "When the last run ended."),
    ("vaultberry_last_run_start_timestamp_seconds", "When the last run began."),
    ("vaultberry_last_run_outcome", "1 for the outcome of the last run, 0 for the others."),
    ("vaultberry_source_outcome", "1 for the outcome of a source in the last run, 0 for the others."),
    ("vaultberry_source_unreadable_entries", "Entries that could not be read in the last run."),
    ("vaultberry_source_vanished_entries", "Files that vanished in the last run before they could be pulled."),
    ("vaultberry_source_stale_dumps", "Dumps in the last run's snapshot that are not new."),
    ("vaultberry_snapshot_timestamp_seconds", "When the run of the last complete snapshot began."),
    ("vaultberry_snapshot_bytes", "Bytes of the files in the last complete snapshot."),
    ("vaultberry_snapshot_archive_bytes", "Bytes of the archive of the last complete snapshot."),
    ("vaultberry_snapshots", "Snapshots on the backup disk."),
    ("vaultberry_last_proven_push_timestamp_seconds", "When the last push of a complete snapshot was proven."),
    ("vaultberry_push_overdue", "1 when no complete snapshot got off-site for too long."),
    ("vaultberry_disk_free_bytes", "Free bytes of the backup disk."),
    ("vaultberry_disk_size_bytes", "All bytes of the backup disk."),
    ("vaultberry_disk_full_seconds", "In how many seconds the backup disk is full at the present rate."),
    ("vaultberry_certificate_usable", "1 when reports and copies can be sealed for this certificate."),
    ("vaultberry_certificate_expiry_timestamp_seconds", "When the certificate expires."),
    ("vaultberry_waiting_mails", "Reports that wait for the mail server."),
    ("vaultberry_hardening_failed", "Things that harden the appliance and are not as they should be."),
];

const OUTCOMES: [Outcome; 4] = [Outcome::Complete, Outcome::Skipped, Outcome::Partial, Outcome::Failed];

/// Publishes the facts in `folder`, readable for all: the node exporter runs under an account of its own.
///
/// # Errors
/// The file can't be written.
pub fn write(facts: &Facts, folder: &Path) -> Result<()> {
    durable::write(&folder.join(NAME), render(facts).as_bytes(), 0o644).context("writing the metrics").map_err(|error| {
        anyhow::anyhow!("{error:#}\nhint: [metrics] folder must be there, as the package prometheus-node-exporter makes it")
    })
}

/// The file's content.
pub fn render(facts: &Facts) -> String {
    let mut page = Page::default();
    of_run(facts, &mut page);
    facts.sources.iter().for_each(|source| of_source(source, &mut page));
    if let Some(disk) = &facts.disk {
        page.add("vaultberry_disk_free_bytes", &[], disk.space.free);
        page.add("vaultberry_disk_size_bytes", &[], disk.space.total);
        if let Some(days) = disk.days_left {
            page.add("vaultberry_disk_full_seconds", &[], days * 86_400);
        }
    }
    for certificate in &facts.certificates {
        let label = [("fingerprint", certificate.fingerprint.as_str())];
        page.add("vaultberry_certificate_usable", &label, u64::from(certificate.problem.is_none()));
        if let Some(expires) = certificate.expires {
            page.add("vaultberry_certificate_expiry_timestamp_seconds", &label, expires.as_second());
        }
    }
    page.add("vaultberry_waiting_mails", &[], facts.waiting_mails);
    if let Some(host) = &facts.host {
        let failed = host.checks.iter().filter(|check| check.state == State::Failed).count();
        page.add("vaultberry_hardening_failed", &[], failed);
    }
    page.text()
}

fn of_run(facts: &Facts, page: &mut Page) {
    let Some(last) = &facts.last else { return };
    page.add("vaultberry_last_run_start_timestamp_seconds", &[], last.started.as_second());
    if let Some(ended) = last.ended {
        page.add("vaultberry_last_run_timestamp_seconds", &[], ended.as_second());
    }
    for outcome in OUTCOMES {
        page.add("vaultberry_last_run_outcome", &[("outcome", &outcome.to_string())], u64::from(last.outcome == outcome));
    }
    for source in &last.sources {
        let label = ("source", source.name.as_str());
        for outcome in OUTCOMES {
            let value = u64::from(source.outcome == outcome);
            page.add("vaultberry_source_outcome", &[label, ("outcome", &outcome.to_string())], value);
        }
        if source.snapshot.is_some() {
            page.add("vaultberry_source_unreadable_entries", &[label], source.missed.unreadable);
            page.add("vaultberry_source_vanished_entries", &[label], source.missed.vanished);
            page.add("vaultberry_source_stale_dumps", &[label], source.stale_dumps.len());
        }
    }
}

fn of_source(source: &SourceFacts, page: &mut Page) {
    let label = [("source", source.name.as_str())];
    page.add("vaultberry_snapshots", &label, source.snapshots);
    if let Some(snapshot) = &source.snapshot {
        if let Some(time) = snapshot.time {
            page.add("vaultberry_snapshot_timestamp_seconds", &label, time.as_second());
        }
        page.add("vaultberry_snapshot_bytes", &label, snapshot.bytes);
        page.add("vaultberry_snapshot_archive_bytes", &label, snapshot.archive_bytes);
    }
    if let Some(push) = &source.push {
        page.add("vaultberry_last_proven_push_timestamp_seconds", &label, push.proven.as_second());
    }
    page.add("vaultberry_push_overdue", &label, u64::from(source.push_overdue));
}

/// Lines by the place of their metric in the list: those of one name must stand together.
#[derive(Default)]
struct Page([String; METRICS.len()]);

impl Page {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let place = METRICS.iter().position(|(known, _)| *known == name).expect("a metric that is written is in the list");
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0[place], "{name}{labels} {value}").expect("writing to a string doesn't fail");
    }

    fn text(self) -> String {
        let parts = METRICS.iter().zip(self.0).filter(|(_, lines)| !lines.is_empty());
        parts.fold(String::new(), |text, ((name, help), lines)| {
            text + &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{lines}")
        })
    }
}

/// A label's value, as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::{METRICS, NAME, render, write};
    use crate::status::sample;

    /// Reads the text format as strictly as it is specified, and gives the names with their number of lines.
    fn names(text: &str) -> Vec<(String, usize)> {
        let mut names: Vec<(String, usize)> = Vec::new();
        let (mut seen, mut series) = (BTreeSet::new(), BTreeSet::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && seen.insert(name.to_owned()), "{line}");
                assert_eq!(lines.next(), Some(format!("# TYPE {name} gauge").as_str()));
                names.push((name.to_owned(), 0));
                continue;
            }
            let (place, value) = line.rsplit_once(' ').unwrap();
            value.parse::<i64>().unwrap();
            assert!(series.insert(place.to_owned()), "twice: {line}");
            let (name, labels) = place.split_once('{').unwrap_or((place, "}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(labels.ends_with('}'), "{line}");
            let current = names.last_mut().unwrap();
            assert_eq!(current.0, name, "it stands below its own TYPE");
            current.1 += 1;
        }
        names
    }

    #[test]
    fn the_format_is_that_of_prometheus() {
        let mut facts = sample::facts();
        facts.sources[0].name = "a\"b\\c".into();
        let text = render(&facts);
        assert!(text.ends_with('\n'));
        let names = names(&text);
        assert!(names.iter().all(|(_, lines)| *lines > 0) && names.len() == 19, "{names:?}");
        for line in [
            "vaultberry_last_run_outcome{outcome=\"partial\"} 1",
            "vaultberry_last_run_outcome{outcome=\"complete\"} 0",
            "vaultberry_source_outcome{source=\"mail\",outcome=\"failed\"} 1",
            "vaultberry_snapshot_bytes{source=\"a\\\"b\\\\c\"} 5368709120",
            "vaultberry_push_overdue{source=\"mail\"} 1",
            "vaultberry_last_run_timestamp_seconds 1795401723",
            "vaultberry_disk_full_seconds 1728000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let mut facts = sample::facts();
        facts.last = None;
        facts.disk = None;
        facts.sources.clear();
        facts.certificates.clear();
        assert_eq!(names(&render(&facts)), [("vaultberry_waiting_mails".to_owned(), 1)]);
    }

    #[test]
    fn everybody_may_read_the_file() {
        let folder = tempfile::tempdir().unwrap();
        write(&sample::facts(), folder.path()).unwrap();
        let path = folder.path().join(NAME);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644);
        let error = write(&sample::facts(), &folder.path().join("none")).unwrap_err().to_string();
        assert!(
            error.starts_with("writing the metrics: ") && error.contains("\nhint: [metrics] folder must be there"),
            "{error}"
        );
    }

    #[test]
    fn the_reference_lists_all_of_them() {
        let page = include_str!("../../docs/reference/metrics.md");
        let listed: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `vaultberry_")).collect();
        let rows: Vec<String> = listed.iter().map(|row| format!("vaultberry_{row}")).collect();
        assert_eq!(rows.len(), METRICS.len());
        for ((name, help), row) in METRICS.iter().zip(&rows) {
            assert!(row.starts_with(&format!("{name}` |")) && row.ends_with(&format!("| {help} |")), "{name}: {row}");
        }
    }
}
