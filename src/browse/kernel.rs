//! `vaultberry kernel`: from a parsed command to what is printed.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::{Result, bail};
use serde_json::json;

use super::say;
use crate::cli::kernel::{Accept, Card, Kernel};
use crate::kernel::appliance::{Appliance, CHANGED_HINT};
use crate::kernel::install::Installed;
use crate::kernel::switch::Switch;
use crate::kernel::trial::Settled;
use crate::kernel::{firmware, pair};
use crate::outcome::Outcome;

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Kernel, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Kernel::Install { version, again, card } => {
            let installed = appliance(card)?.install(version.as_deref(), *again)?;
            say(out, &sentence(&installed))
        }
        Kernel::List { json, card } => list(&appliance(card)?, *json, out),
        Kernel::Check(args) => check(args, out),
        Kernel::Settle => match Appliance::here()?.settle()? {
            Settled::Nothing => Ok(Outcome::Complete),
            Settled::Proven(pair) => say(out, &format!("{pair} has come up, and boots from now on\n")),
            Settled::Again(pair) => say(out, &format!("no key came while {pair} was tried; the next start tries it again\n")),
            Settled::Failed(new, old) => bail!("{new} didn't come up, and {old} boots again"),
        },
    }
}

fn appliance(card: &Card) -> Result<Appliance> {
    match (&card.root, &card.firmware) {
        (Some(root), Some(firmware)) => Ok(Appliance::at(root, firmware)),
        _ => Appliance::here(),
    }
}

/// What came of an installation.
pub(super) fn sentence(installed: &Installed) -> String {
    match installed {
        Installed::Boots(pair) => format!("{pair} boots already\n"),
        Installed::Waits(pair) => format!("{pair} is there already, and tried at the next start\n"),
        Installed::First(pair) => format!("{pair} boots from now on\n"),
        Installed::Armed(trial) => {
            format!("{} is tried at the next start; unless it comes up, {} boots again\n", trial.new, trial.old)
        }
    }
}

fn check(args: &Accept, out: &mut impl Write) -> Result<Outcome> {
    let appliance = appliance(&args.card)?;
    let different = if args.accept { appliance.accept()? } else { appliance.tampered()? };
    for line in &different {
        say(out, &format!("{line}\n"))?;
    }
    if args.accept {
        say(out, "the firmware partition is right as it is, from now on\n")?;
    } else if different.is_empty() {
        say(out, "the firmware partition is as it was written\n")?;
    } else {
        say(out, &format!("hint: {CHANGED_HINT}\n"))?;
    }
    Ok(if args.accept || different.is_empty() { Outcome::Complete } else { Outcome::Failed })
}

fn list(appliance: &Appliance, as_json: bool, out: &mut impl Write) -> Result<Outcome> {
    let (firmware, note) = (appliance.firmware()?, appliance.note()?);
    let switch = Switch::read(&firmware)?;
    let boots = switch.as_ref().map(|switch| switch.boots.as_str());
    let trial = switch.as_ref().and_then(|switch| switch.trial.as_ref());
    let mut rows = Vec::new();
    for name in firmware::pairs(&firmware)? {
        let damage = pair::verify(&firmware.join(&name)).err().map(|error| format!("{error:#}"));
        let row = json!({
            "name": name,
            "boots_next": boots == Some(&name),
            "on_trial": trial.is_some_and(|trial| trial.new == name),
            "failed": note.failed.contains(&name),
            "damage": damage,
        });
        rows.push(row);
    }
    if as_json {
        return say(out, &format!("{}\n", json!({ "pairs": rows, "problem": note.problem })));
    }
    let mut text = String::new();
    if rows.is_empty() {
        writeln!(text, "{}: there is no kernel of an appliance", firmware.display()).expect("writing to a string doesn't fail");
    }
    for row in &rows {
        text.push_str(row["name"].as_str().unwrap_or_default());
        for (key, words) in [("boots_next", "boots next"), ("on_trial", "on trial"), ("failed", "didn't come up")] {
            if row[key] == true {
                write!(text, ", {words}").expect("writing to a string doesn't fail");
            }
        }
        if let Some(damage) = row["damage"].as_str() {
            write!(text, ", damaged: {damage}").expect("writing to a string doesn't fail");
        }
        text.push('\n');
    }
    if let Some(problem) = &note.problem {
        writeln!(text, "problem: {problem}").expect("writing to a string doesn't fail");
    }
    say(out, &text)
}
