//! What commands print that only look: at snapshots on the disk, and at copies in the store.

pub mod disk;
pub mod kernel;
pub mod key;
pub mod offsite;
pub mod snapshot;

use std::io::Write;

use anyhow::{Context as _, Result};

use crate::outcome::Outcome;

/// Writes what a person or a program asked for.
fn say(out: &mut impl Write, text: &str) -> Result<Outcome> {
    out.write_all(text.as_bytes()).context("writing to standard output")?;
    Ok(Outcome::Complete)
}
