//! `vaultberry disk`.

use clap::Subcommand;

use super::backup::OnAppliance;

/// What `vaultberry disk` can do.
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// Format the backup disk for its first use
    ///
    /// Only the disk that the configuration names by its serial number, and only while it is blank.
    Init {
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
        /// Erase what is on the disk with this serial number
        #[arg(long, value_name = "SERIAL")]
        erase: Option<String>,
    },
    /// Open the backup disk and mount it
    Open(OnAppliance),
    /// Unmount and close the backup disk
    Close(OnAppliance),
    /// Take over the disk of a dead appliance
    ///
    /// The recovery passphrase of that appliance is read from standard input.
    Attach(OnAppliance),
}
