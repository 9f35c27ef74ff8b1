//! `vaultberry report`.

use clap::Subcommand;

use crate::cli::backup::OnAppliance;

/// What `vaultberry report` can do.
#[derive(Debug, Subcommand)]
pub enum Report {
    /// Send a sealed test mail now, and what waits in the queue
    ///
    /// To try the settings of [report]: who gets it sees that it arrives and that the private key opens it.
    Test(OnAppliance),
}
