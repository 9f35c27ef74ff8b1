//! `vaultberry update`.

use clap::Args;

use super::backup::OnAppliance;

/// What `vaultberry update` takes.
#[derive(Args, Debug)]
pub struct Update {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// Only tell what waits: the exit code is 0 when nothing does, and 3 when something does
    #[arg(long, conflicts_with = "yes")]
    pub check: bool,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
    /// What the window is for: security updates, and the restart that the configuration allows.
    #[arg(long, hide = true, conflicts_with_all = ["check", "yes"])]
    pub unattended: bool,
}
