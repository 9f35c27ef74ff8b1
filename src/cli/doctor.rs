//! `vaultberry doctor`.

use clap::Args;

use super::backup::OnAppliance;

/// What `vaultberry doctor` takes.
#[derive(Args, Debug)]
pub struct Doctor {
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}
