//! `disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::AGENT_CONFIG;

/// The arguments of `disk`.
#[derive(Args, Debug)]
pub struct Disk {
    /// What to do with it.
    #[command(subcommand)]
    pub command: DiskCommand,
    /// The appliance's configuration
    #[arg(long, global = true, value_name = "FILE", default_value = AGENT_CONFIG)]
    pub config: PathBuf,
}

/// The commands of `disk`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Format the backup disk for its first use; only a blank one, unless --erase repeats its serial number
    Init {
        /// Erase what is on the disk with this serial number
        #[arg(long, value_name = "SERIAL")]
        erase: Option<String>,
    },
    /// Open the backup disk and mount it
    Open,
    /// Unmount and close the backup disk
    Close,
    /// Take over the disk of a dead appliance with that one's recovery passphrase, read from standard input
    Attach,
}
