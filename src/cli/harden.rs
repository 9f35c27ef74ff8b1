//! `vaultberry harden`.

use clap::{Args, Subcommand};

use super::backup::OnAppliance;

/// What `vaultberry harden` can do.
#[derive(Debug, Subcommand)]
pub enum Harden {
    /// Hold sshd, fail2ban, the firewall and the appliance against what the configuration wants
    ///
    /// As root. The exit code is 0 when all is as wanted, 1 when something isn't, and 3 when something couldn't be found
    /// out. The appliance does this after each start and each day, and its reports tell what was found last.
    Check(Check),
    /// Make it so
    ///
    /// Writes the settings of sshd, fail2ban and the firewall anew from the configuration, keeps secrets for root alone, and
    /// lets the programs read them; then checks. Run it after a change of [access], or of what else has ports in it.
    Apply(Check),
}

/// What both take.
#[derive(Args, Debug)]
pub struct Check {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// Print the rules as JSON
    #[arg(long)]
    pub json: bool,
}
