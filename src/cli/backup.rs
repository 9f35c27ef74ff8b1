//! `vaultberry backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::DEFAULT_CONFIG;

/// What `vaultberry backup` can do.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Pull every source and make its snapshot
    ///
    /// One dead source doesn't stop the others. The exit code is the worst of the sources': 0 complete, 1 failed, 3
    /// partial; 4 when another run is at work and nothing was done.
    Run(Run),
}

/// What `vaultberry backup run` takes.
#[derive(Debug, Args)]
pub struct Run {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// Tell what a run would do, and write nothing
    ///
    /// The servers are asked what there is to pull. Whether the logins at store and mail server work, `offsite list`
    /// and `report test` tell.
    #[arg(long, conflicts_with = "if_due")]
    pub dry_run: bool,
    /// Run only if a night was missed
    ///
    /// That is when no run has begun and ended since the last time that one should have, by `[backup] at`. For a start
    /// after downtime.
    #[arg(long)]
    pub if_due: bool,
    /// Once, let this source's mirror lose as much as the server did
    ///
    /// The mirror guard deletes nothing where more has gone than is plausible. For when it was meant to go.
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["dry_run", "if_due"])]
    pub accept_deletions: Vec<String>,
    /// Once, let this source's dumps be as small as they are
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["dry_run", "if_due"])]
    pub accept_smaller_dumps: Vec<String>,
    /// Tell what happens as JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// What every command that runs on the appliance takes.
#[derive(Debug, Args)]
pub struct OnAppliance {
    /// The appliance's configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}
