//! `vaultberry source`.

use clap::Subcommand;

use crate::cli::backup::OnAppliance;

/// What `vaultberry source` can do.
#[derive(Debug, Subcommand)]
pub enum Source {
    /// Show the appliance's public ssh key, and make the key first if there is none
    ///
    /// The line belongs into `~/.ssh/authorized_keys` of the unprivileged user on each server.
    Key(OnAppliance),
}
