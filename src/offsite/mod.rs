//! Off-site copies: snapshots sealed for the owner and brought to an S3 store, or it didn't happen.
//!
//! Three objects make a copy: the sealed archive, the sealed index, and the commit object, which comes last and says what
//! the other two must be. Only a copy with a commit object counts. [`push`] makes one: it seals into the `outbox` on the
//! backup disk (`seal`), writes down what it has begun (`pending`), uploads in `pieces`, several at a time (`upload`,
//! `multipart`), asks the store what it has now and compares (`proof`), writes the commit object, reads it back, and only
//! then sets the [`clock`], by which it is decided whether a push is [`due`]. [`resume`] goes on with one that was cut short.
//!
//! [`list`], [`verify`], [`fetch`] and [`retrieve`] are for the way back, and need nothing of an appliance. [`prune`] is for
//! another machine with another access key, [`policy`] says what that of the appliance should be allowed, and [`probe`] tries
//! what it is.
//!
//! The store isn't trusted: it can lose copies or refuse to give them, and can't read or change them unnoticed. What it
//! says goes through `log::printable`.

mod body;
mod bounded;
pub mod clock;
pub mod commit;
mod conflict;
mod content;
mod credentials;
pub mod fetch;
pub mod list;
mod lock;
mod multipart;
mod outbox;
mod pending;
mod pieces;
pub mod policy;
pub mod probe;
mod proof;
pub mod prune;
mod push;
pub mod recipients;
pub mod retrieve;
mod seal;
mod store;
mod trouble;
pub(crate) mod unseal;
mod upload;
pub mod verify;

use std::path::Path;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

pub use outbox::clean;
pub use push::{Pushed, give_up_others, push, resume};
pub use store::target;

use crate::config::Config;
use crate::offsite::clock::Clock;
use crate::outcome::Outcome;

/// A snapshot that may be pushed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its source's name.
    pub source: &'a str,
    /// Its own name, as `20261123T023000Z`.
    pub name: &'a str,
    /// Its archive.
    pub archive: &'a Path,
    /// Its index.
    pub index: &'a Path,
    /// What its index says of it: [`Outcome::Complete`] or [`Outcome::Partial`].
    pub outcome: Outcome,
}

/// Whether it is time to push this snapshot; never without an `[offsite]`. A clock that can't be read is named in the log
/// and taken for one that was never set.
pub fn due(config: &Config, snapshot: &Candidate<'_>) -> bool {
    let Some(offsite) = &config.offsite else { return false };
    let clock = Clock::load(&config.backup.state);
    if let Some(damage) = &clock.damage {
        tracing::warn!("{damage}; it counts as if nothing was ever pushed");
    }
    clock.is_due(snapshot, &store::target(offsite), offsite.every)
}

/// What drives the requests: one thread, as for ssh.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime for the store")
}
