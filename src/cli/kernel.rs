//! `vaultberry kernel`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What `vaultberry kernel` can do.
#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// Put a kernel and its initramfs on the firmware partition, and try them at the next start
    ///
    /// Updates do this by themselves. It is first looked whether they would open root. Unless the system comes up with
    /// them, the ones that boot now boot again.
    Install {
        /// The kernel's version, as in /boot; the newest when it isn't given
        version: Option<String>,
        /// Also when it was tried before and didn't come up
        #[arg(long)]
        again: bool,
        /// Whose
        #[command(flatten)]
        card: Card,
    },
    /// List what is on the firmware partition, and what of it boots
    List {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// Whose
        #[command(flatten)]
        card: Card,
    },
    /// Tell what on the firmware partition was changed by others than the appliance
    ///
    /// What the appliance writes there it remembers, on the encrypted root. The exit code is 1 when something is different.
    Check(Accept),
    /// Say that the system has come up with what it was started with
    #[command(hide = true)]
    Settle,
}

/// What `vaultberry kernel check` takes.
#[derive(Args, Debug)]
pub struct Accept {
    /// Take what is there for right from now on
    ///
    /// After a change of your own, or an update that was cut short.
    #[arg(long)]
    pub accept: bool,
    /// Whose
    #[command(flatten)]
    pub card: Card,
}

/// A card in another machine.
#[derive(Args, Debug)]
pub struct Card {
    /// Where the root of a card is mounted, on another machine
    #[arg(long, value_name = "DIR", requires = "firmware")]
    pub root: Option<PathBuf>,
    /// Where its firmware partition is mounted
    #[arg(long, value_name = "DIR", requires = "root")]
    pub firmware: Option<PathBuf>,
}
