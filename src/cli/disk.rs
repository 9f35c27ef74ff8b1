//! `vaultberry disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::backup::OnAppliance;

/// What `vaultberry disk` can do.
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// Format a backup disk for its first use
    ///
    /// Only disks that the configuration names by their serial numbers. A blank one is formatted, one of this appliance is
    /// left alone. For any other, it is shown on a terminal what will be lost, and asked.
    Init {
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
        /// Format the disk with this serial number without a question, whatever it holds
        #[arg(long, value_name = "SERIAL")]
        yes_really: Option<String>,
    },
    /// List the disks that are there
    List {
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Open a backup disk and mount it
    ///
    /// The appliance does this by itself when one is plugged in. Of several, the one that the configuration names first.
    Open {
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
        /// Which
        #[command(flatten)]
        plugged: Plugged,
    },
    /// Unmount and close the backup disk, so that it can be pulled out
    ///
    /// Not while a run is at work.
    Detach(OnAppliance),
    /// Unmount and close a disk that is gone, or at the end.
    #[command(hide = true)]
    Close {
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
        /// Which
        #[command(flatten)]
        plugged: Plugged,
    },
    /// Take over the disk of a dead appliance, and open it
    ///
    /// The recovery passphrase of that appliance is read from standard input.
    Attach(OnAppliance),
    /// Let the backup disk's file system have the whole disk
    ///
    /// For a larger disk to which a smaller one was copied as it is.
    Grow(OnAppliance),
}

/// A disk that was plugged in.
#[derive(Args, Debug)]
pub struct Plugged {
    /// Only the disk with this node; a blank one is formatted first. Nothing is done when the configuration doesn't name it
    #[arg(long, value_name = "NODE", hide = true)]
    pub device: Option<PathBuf>,
}
