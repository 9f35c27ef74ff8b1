//! `vaultberry key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::backup::OnAppliance;

/// What `vaultberry key` can do.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Try whether a stick's key opens this appliance, without opening it
    Check {
        /// The stick
        #[command(flatten)]
        stick: Stick,
        /// Whose root
        #[command(flatten)]
        root: Root,
    },
    /// Replace the key on a stick by a new one
    ///
    /// The new key is on the stick, read back and tried before the old one opens nothing any more. When that is cut short,
    /// a key that opens is on the stick, and the same command finishes it. Copies of the LUKS header that this appliance
    /// keeps go, too, since the old key still opens root with one of them.
    Rotate {
        /// The stick
        #[command(flatten)]
        stick: Stick,
        /// Whose root
        #[command(flatten)]
        root: Root,
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
    },
    /// Deal with the sticks that open this appliance
    #[command(subcommand)]
    Stick(Sticks),
    /// Deal with the recovery passphrase
    #[command(subcommand)]
    Recovery(Recovery),
    /// Keep a copy of the LUKS header, which every key needs
    #[command(subcommand)]
    Header(Header),
}

/// What can be done with sticks.
#[derive(Debug, Subcommand)]
pub enum Sticks {
    /// Put an image's key on a stick, on the machine that built it
    ///
    /// A file that isn't there becomes the image of a stick, if its name ends in .img.
    Make {
        /// The stick
        #[command(flatten)]
        stick: Stick,
        /// The image (.img)
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        /// Where the build left its keys
        #[arg(long, value_name = "DIR", default_value = "secrets")]
        secrets: PathBuf,
    },
    /// Let one more stick open this appliance, by a key of its own
    Add {
        /// The stick
        #[command(flatten)]
        stick: Stick,
        /// What the key is called in lists
        #[arg(long)]
        name: Option<String>,
        /// Who lets it
        #[command(flatten)]
        with: With,
        /// Whose root
        #[command(flatten)]
        root: Root,
    },
    /// List the keys that open this appliance
    List {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// Whose root
        #[command(flatten)]
        root: Root,
    },
    /// Let a key open this appliance no more, also when its stick is lost
    ///
    /// Copies of the LUKS header that this appliance keeps go, too, since the key still opens root with one of them.
    Revoke {
        /// Its id or name, as the list shows it
        key: String,
        /// Also when it is the last one on a stick, so that only the recovery passphrase opens
        #[arg(long)]
        last: bool,
        /// Whose root
        #[command(flatten)]
        root: Root,
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
    },
}

/// What can be done with the recovery passphrase.
#[derive(Debug, Subcommand)]
pub enum Recovery {
    /// Replace the recovery passphrase by a new one, for root and for the backup disk
    Rotate {
        /// Where the new recovery sheet goes; nothing may be there
        #[arg(long, value_name = "FILE")]
        sheet: PathBuf,
        /// Who lets it
        #[command(flatten)]
        with: With,
        /// Whose root
        #[command(flatten)]
        root: Root,
        /// Where this is
        #[command(flatten)]
        on: OnAppliance,
    },
}

/// What can be done with the LUKS header.
#[derive(Debug, Subcommand)]
pub enum Header {
    /// Copy the header to a file
    Backup {
        /// Where to; nothing may be there
        file: PathBuf,
        /// Whose root
        #[command(flatten)]
        root: Root,
    },
    /// Put a copied header back
    ///
    /// Keys that were added since open nothing any more, and keys that were revoked since open again.
    Restore {
        /// The copy
        file: PathBuf,
        /// Do it, though keys may be lost
        #[arg(long)]
        yes: bool,
        /// The encrypted root: a device, or an image (.img)
        #[arg(long, value_name = "PATH")]
        root: PathBuf,
    },
}

/// A stick at hand.
#[derive(Args, Debug)]
pub struct Stick {
    /// The stick: its device, the folder where it is mounted, or an image of one
    pub stick: PathBuf,
}

/// A key that opens already.
#[derive(Args, Debug)]
pub struct With {
    /// A stick that opens this appliance; without one the recovery passphrase is asked for, or read from standard input
    #[arg(long, value_name = "STICK")]
    pub with: Option<PathBuf>,
}

/// An encrypted root.
#[derive(Args, Debug)]
pub struct Root {
    /// The encrypted root: a device, or an image (.img); the default is this machine's own
    #[arg(long, value_name = "PATH")]
    pub root: Option<PathBuf>,
}
