//! `vaultberry offsite` and `vaultberry fetch`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::backup::OnAppliance;

/// What `vaultberry offsite` can do.
#[derive(Debug, Subcommand)]
pub enum Offsite {
    /// List the copies in the store
    ///
    /// Source, snapshot, outcome, and bytes of the sealed copy. A copy without its commit object is unproven: it
    /// doesn't count.
    List {
        /// Which store
        #[command(flatten)]
        store: Store,
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// The arguments of `fetch`.
#[derive(Args, Debug)]
pub struct Fetch {
    /// SOURCE/NAME, as web/20261123T023000Z, or SOURCE/latest, the newest complete one
    pub snapshot: String,
    /// The folder to put archive and index in; nothing in it is ever replaced
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Which store
    #[command(flatten)]
    pub store: Store,
    /// The private OpenPGP key to open it with, as `gpg --export-secret-keys` writes it
    ///
    /// When the key is locked, its passphrase is asked for on the terminal, or read from standard input.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// A store, as an appliance knows it.
#[derive(Args, Debug)]
pub struct Store {
    /// The appliance's configuration
    #[command(flatten)]
    pub on: OnAppliance,
    /// The file with the access key; the default is the one that the configuration names
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
}
