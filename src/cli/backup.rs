//! `vaultberry backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where the configuration lies on an appliance.
pub const DEFAULT_CONFIG: &str = "/etc/vaultberry/appliance.toml";

/// What `vaultberry backup` can do.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Pull every source and make its snapshot
    ///
    /// One dead source doesn't stop the others. The exit code is the worst of the sources': 0 complete, 1 failed, 3
    /// partial; 4 when another run is at work and nothing was done.
    Run(OnAppliance),
}

/// What every command that runs on the appliance takes.
#[derive(Debug, Args)]
pub struct OnAppliance {
    /// The appliance's configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}
