//! The list of snapshots: columns for a person, JSON lines for a program.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use crate::amount::amount;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::catalog::Listed;
use crate::snapshot::list::Found;

/// The titles of the columns.
const TITLES: [&str; 6] = ["SNAPSHOT", "TIME (UTC)", "OUTCOME", "ENTRIES", "FILES", "ARCHIVE"];

/// Columns, the newest of each source last. What is wrong with a snapshot stands behind its line.
pub fn text(listed: &[Listed], now: Timestamp) -> String {
    let rows = listed.iter().flat_map(|source| source.snapshots.iter().map(|found| row(&source.source, found, now)));
    let rows: Vec<Vec<String>> = rows.map(|(cells, note)| cells.into_iter().chain([note]).collect()).collect();
    let mut text = columns(&TITLES, &[3, 4, 5], &rows);
    for source in listed.iter().filter(|source| source.snapshots.is_empty()) {
        push(&mut text, &format!("{}: no snapshot yet", source.source));
    }
    text
}

/// Aligned columns with `titles` above them; those with the numbers `right` are aligned to the right. Nothing without rows.
/// Cells are printable.
pub fn columns(titles: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles: Vec<String> = titles.iter().map(ToString::to_string).collect();
    let lines = || std::iter::once(&titles).chain(rows);
    let width =
        |column| lines().filter_map(|cells| cells.get(column)).map(|cell: &String| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    for cells in lines() {
        let cell = |(column, cell): (usize, &String)| match widths.get(column) {
            Some(width) if right.contains(&column) => format!("{cell:>width$}"),
            Some(width) => format!("{cell:<width$}"),
            None => cell.clone(),
        };
        push(&mut text, cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn row(source: &str, found: &Found, now: Timestamp) -> ([String; 6], String) {
    let name = printable(format!("{source}/{}", found.name).as_bytes());
    let time = found.time.map_or("-".into(), |time| time.strftime("%Y-%m-%d %H:%M").to_string());
    let archive = amount(found.archive_size);
    let mut notes = Vec::new();
    if found.time.is_some_and(|time| time > now) {
        notes.push("its time hasn't come yet".to_owned());
    }
    match found.pin.as_deref() {
        Some("") => notes.push("pinned".to_owned()),
        Some(reason) => notes.push(printable(format!("pinned: {reason}").as_bytes())),
        None => {}
    }
    let cells = match &found.index {
        Ok(trailer) => {
            let warnings = trailer.warnings.total();
            if warnings > 0 {
                notes.push(format!("{warnings} {}", if warnings == 1 { "warning" } else { "warnings" }));
            }
            [name, time, trailer.outcome.to_string(), trailer.entries.to_string(), amount(trailer.bytes), archive]
        }
        Err(trouble) => {
            notes.push(trouble.replace('\n', "; "));
            [name, time, "unknown".into(), "-".into(), "-".into(), archive]
        }
    };
    (cells, notes.join("; "))
}

#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    snapshot: &'a str,
    time: Option<Timestamp>,
    outcome: Option<Outcome>,
    entries: Option<u64>,
    bytes: Option<u64>,
    archive_bytes: u64,
    warnings: Option<u64>,
    pin: Option<&'a str>,
    trouble: Option<&'a str>,
}

/// One JSON object a line for each snapshot, in the order of [`text`].
pub fn json(listed: &[Listed]) -> Result<String> {
    let mut text = String::new();
    for source in listed {
        for found in &source.snapshots {
            let trailer = found.index.as_ref().ok();
            let line = Line {
                source: &source.source,
                snapshot: &found.name,
                time: found.time,
                outcome: trailer.map(|trailer| trailer.outcome),
                entries: trailer.map(|trailer| trailer.entries),
                bytes: trailer.map(|trailer| trailer.bytes),
                archive_bytes: found.archive_size,
                warnings: trailer.map(|trailer| trailer.warnings.total()),
                pin: found.pin.as_deref(),
                trouble: found.index.as_ref().err().map(String::as_str),
            };
            push(&mut text, &serde_json::to_string(&line).context("putting the list into JSON")?);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{json, text};
    use crate::digest::Sum;
    use crate::outcome::Outcome;
    use crate::snapshot::catalog::Listed;
    use crate::snapshot::index::read::Trailer;
    use crate::snapshot::list::{Found, time_of};
    use crate::warnings::Warnings;

    fn listed() -> Vec<Listed> {
        let trailer = |outcome, warnings: &[&str]| Trailer {
            outcome,
            entries: 12_345,
            bytes: 3 << 20,
            archive: Sum { size: 1536, sha256: [0; 32] },
            warnings: Warnings::of(warnings.iter().map(|&line| line.into()).collect(), 0),
        };
        let found = |name: &str, index| Found { name: name.into(), time: time_of(name), archive_size: 1536, index, pin: None };
        let web = vec![
            found("20261122T023000Z", Err("it has no index".into())),
            found("20261123T023000Z", Ok(trailer(Outcome::Partial, &["one", "two"]))),
            found("30000101T000000Z", Ok(trailer(Outcome::Complete, &[]))),
            found("odd\x1b", Err("two\nlines".into())),
        ];
        vec![Listed { source: "db".into(), snapshots: Vec::new() }, Listed { source: "web".into(), snapshots: web }]
    }

    #[test]
    fn the_columns_are_aligned_and_what_is_wrong_stands_behind() {
        let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let expected = "\
SNAPSHOT              TIME (UTC)        OUTCOME   ENTRIES    FILES  ARCHIVE
web/20261122T023000Z  2026-11-22 02:30  unknown         -        -  1.5 KiB  it has no index
web/20261123T023000Z  2026-11-23 02:30  partial     12345  3.0 MiB  1.5 KiB  2 warnings
web/30000101T000000Z  3000-01-01 00:00  complete    12345  3.0 MiB  1.5 KiB  its time hasn't come yet
web/odd\\u{1b}         -                 unknown         -        -  1.5 KiB  two; lines
db: no snapshot yet
";
        assert_eq!(text(&listed(), now), expected);
        assert_eq!(text(&[], now), "");
    }

    #[test]
    fn a_program_gets_one_object_a_line() {
        let lines = json(&listed()).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[..2],
            [
                r#"{"source":"web","snapshot":"20261122T023000Z","time":"2026-11-22T02:30:00Z","outcome":null,"entries":null,"bytes":null,"archive_bytes":1536,"warnings":null,"pin":null,"trouble":"it has no index"}"#,
                r#"{"source":"web","snapshot":"20261123T023000Z","time":"2026-11-23T02:30:00Z","outcome":"partial","entries":12345,"bytes":3145728,"archive_bytes":1536,"warnings":2,"pin":null,"trouble":null}"#,
            ]
        );
    }
}
