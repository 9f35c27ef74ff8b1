//! `vaultberry snapshot`: looking at what there is, keeping some of it, removing some. From a parsed command to what is printed.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::Serialize;

use crate::browse::say;
use crate::cli::snapshot::{Diff, Find, List, One, Pin, Prune, Snapshot, Verify};
use crate::config::{self, Config, Keep};
use crate::log::printable;
use crate::outcome::Outcome;
use crate::run::lock::{self, Attempt};
use crate::run::screen::Screen;
use crate::snapshot::find::{Hit, Pattern};
use crate::snapshot::index::read::Reader;
use crate::snapshot::retention::{Rules, Verdict};
use crate::snapshot::{self, catalog, diff, index_of, json, pin, show, table, verify};
use crate::stop::Stop;

/// Does what `command` says, and writes what comes of it to `out`.
pub fn run(command: &Snapshot, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Snapshot::List(args) => list(args, out),
        Snapshot::Show(args) => show_one(args, out),
        Snapshot::Find(args) => find(args, out),
        Snapshot::Diff(args) => differences(args, out),
        Snapshot::Verify(args) => verify_all(args, verbosity, out),
        Snapshot::Pin(args) => pin_one(args, out),
        Snapshot::Unpin(args) => unpin(args, out),
        Snapshot::Prune(args) => prune(args, out),
    }
}

fn list(args: &List, out: &mut impl Write) -> Result<Outcome> {
    let listed = catalog::list(&config::load(&args.on.config)?, args.source.as_deref())?;
    say(out, &if args.json { table::json(&listed)? } else { table::text(&listed, Timestamp::now()) })
}

fn show_one(args: &One, out: &mut impl Write) -> Result<Outcome> {
    let shown = show::show(&catalog::archive(&args.snapshot, || load(&args.on.config))?)?;
    say(out, &if args.json { json::line(&shown)? } else { shown.text() })
}

fn find(args: &Find, out: &mut impl Write) -> Result<Outcome> {
    let pattern = Pattern::new(&args.pattern);
    let stop = Stop::on_signals()?;
    let mut found = 0_u64;
    for archive in catalog::archives(args.within.as_deref(), || load(&args.on.config))? {
        let mut reader = match Reader::open(&index_of(&archive)) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::warn!("{error:#}");
                continue;
            }
        };
        let (source, name) = (reader.header().source.clone(), reader.header().snapshot.clone());
        while let Some(indexed) = reader.entry()? {
            stop.check()?;
            if pattern.matches(indexed.entry.path.as_os_str().as_encoded_bytes()) {
                let hit = Hit::new(&source, &name, &indexed.entry);
                say(out, &if args.json { hit.json()? } else { hit.text() })?;
                found += 1;
            }
        }
    }
    if found == 0 {
        bail!("finding {:?}: no snapshot has such a file", printable(args.pattern.as_encoded_bytes()));
    }
    Ok(Outcome::Complete)
}

fn differences(args: &Diff, out: &mut impl Write) -> Result<Outcome> {
    let [old, new] = [&args.old, &args.new].map(|snapshot| catalog::archive(snapshot, || load(&args.on.config)));
    diff::diff(&old?, &new?, &Stop::on_signals()?, &mut |difference| {
        say(out, &if args.json { difference.json()? } else { difference.text() }).map(drop)
    })?;
    Ok(Outcome::Complete)
}

fn verify_all(args: &Verify, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let mut outcome = Outcome::Complete;
    for archive in catalog::archives(args.what.as_deref(), || load(&args.on.config))? {
        let screen = Screen::new(verbosity);
        let verified = verify::verify(&archive, args.sample, &screen.progress("verify"), &stop);
        drop(screen);
        stop.check()?;
        match verified {
            Ok(verified) => {
                outcome = outcome.max(verified.outcome);
                say(out, &if args.json { json::line(&verified)? } else { verified.text() })?;
            }
            Err(error) => {
                tracing::error!("{error:#}");
                outcome = Outcome::Failed;
            }
        }
    }
    Ok(outcome)
}

fn pin_one(args: &Pin, out: &mut impl Write) -> Result<Outcome> {
    let archive = catalog::archive(&args.snapshot, || load(&args.on.config))?;
    pin::pin(&archive, &args.reason)?;
    pinned(&archive, Some(&args.reason), args.json, out)
}

/// Tells a program what a snapshot is pinned for now.
fn pinned(archive: &Path, pin: Option<&str>, json: bool, out: &mut impl Write) -> Result<Outcome> {
    if json {
        say(out, &json::line(&serde_json::json!({ "archive": archive, "pin": pin }))?)?;
    }
    Ok(Outcome::Complete)
}

fn unpin(args: &One, out: &mut impl Write) -> Result<Outcome> {
    let archive = catalog::archive(&args.snapshot, || load(&args.on.config))?;
    if !pin::unpin(&archive)? {
        tracing::warn!("{} wasn't pinned", archive.display());
    }
    pinned(&archive, None, args.json, out)
}

/// One line of `prune`, for programs.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    snapshot: &'a str,
    remove: bool,
    reasons: &'a [String],
}

fn prune(args: &Prune, out: &mut impl Write) -> Result<Outcome> {
    let config = config::load(&args.on.config)?;
    // A run that is at work may be about to use what goes.
    let _lock = if args.dry_run { None } else { Some(lock(&config)?) };
    let zone = config.zone()?;
    let mut rows = Vec::new();
    for source in catalog::list(&config, args.source.as_deref())? {
        let rules = Rules { keep: keep(&config, &source.source), protect: &[], zone: &zone, now: Timestamp::now() };
        let folder = config.backup.folder.join("snapshots").join(&source.source);
        let verdicts = snapshot::plan(&folder, &rules)?;
        if !args.dry_run {
            snapshot::prune(&folder, &rules)?;
        }
        for verdict in verdicts {
            if args.json {
                say(out, &line(&source.source, &verdict)?)?;
            } else {
                rows.push(row(&source.source, &verdict, args.dry_run));
            }
        }
    }
    say(out, &table::columns(&["SNAPSHOT", "", "WHY"], &[], &rows))
}

fn lock(config: &Config) -> Result<lock::Lock> {
    match lock::acquire(&config.backup.lock, Timestamp::now())? {
        Attempt::Taken(lock) => Ok(lock),
        Attempt::Held(holder) => bail!("removing old snapshots: a run is at work ({holder})\nhint: wait until it is over"),
    }
}

/// What stays of a source; of one that isn't in the configuration any more, what `[backup]` says.
fn keep(config: &Config, source: &str) -> Keep {
    config.sources.iter().find(|known| known.name == source).map_or(config.backup.keep, |known| known.keep)
}

fn line(source: &str, verdict: &Verdict) -> Result<String> {
    let Verdict { name, reasons } = verdict;
    json::line(&Line { source, snapshot: name, remove: reasons.is_empty(), reasons })
}

fn row(source: &str, verdict: &Verdict, dry_run: bool) -> Vec<String> {
    let Verdict { name, reasons } = verdict;
    let name = printable(format!("{source}/{name}").as_bytes());
    match (reasons.is_empty(), dry_run) {
        (false, _) => vec![name, "stays".into(), reasons.join(", ")],
        (true, true) => vec![name, "would go".into(), "no rule wants it".into()],
        (true, false) => vec![name, "removed".into(), "no rule wants it".into()],
    }
}

fn load(path: &Path) -> Result<Config> {
    Ok(config::load(path)?)
}
