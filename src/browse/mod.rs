//! From a parsed command to what is printed, for commands that look at something or do one thing to it.

pub mod disk;
pub mod flash;
pub mod harden;
pub mod kernel;
pub mod key;
pub mod offsite;
pub mod snapshot;
pub mod update;

use std::io::Write;

use anyhow::{Context as _, Result};

use crate::outcome::Outcome;

/// Writes what a person or a program asked for.
fn say(out: &mut impl Write, text: &str) -> Result<Outcome> {
    out.write_all(text.as_bytes()).context("writing to standard output")?;
    Ok(Outcome::Complete)
}
