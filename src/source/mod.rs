//! One server to pull from: its key, its connection, and the mirror of its files.
//!
//! The appliance logs in as an unprivileged user over one master connection and fetches; nothing on the server ever
//! connects back. What comes is kept in the source's mirror, `current/<source>/`, one folder for each configured path, at
//! the path's own place (`current/web/srv/www`). The mirror's content is the server's choice, so nothing here or
//! later follows a symbolic link inside it.

pub mod files;
pub mod key;
pub mod mirror;
pub mod rsync;
pub mod ssh;

use std::path::Path;

use anyhow::{Context, Result};

use crate::config::Source;
use crate::outcome::Outcome;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// A mirror that was brought up to date, wholly or in part.
#[derive(Debug)]
pub struct Pulled {
    /// [`Outcome::Complete`] or [`Outcome::Partial`].
    pub outcome: Outcome,
    /// What wasn't pulled, and why.
    pub warnings: Warnings,
}

/// Brings `mirror`, the source's own folder, up to date.
///
/// # Errors
/// Nothing usable came: no connection, a connection that broke, or none of the paths. The mirror is then not to be
/// taken for the state of the server.
pub fn pull(source: &Source, mirror: &Path, stop: &Stop) -> Result<Pulled> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime for ssh")?;
    runtime.block_on(async {
        let connection = ssh::Connection::open(source).await?;
        // Connecting isn't cut short by a stop, since ssh's own time limit is near; look before the long work.
        stop.check()?;
        let pulled = files::pull(source, &connection, mirror, stop).await;
        connection.close().await;
        pulled
    })
}
