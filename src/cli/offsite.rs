//! `vaultberry offsite` and `vaultberry fetch`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::backup::OnAppliance;

/// What `vaultberry offsite` can do.
#[derive(Debug, Subcommand)]
pub enum Offsite {
    /// List the copies in the store
    ///
    /// Source, snapshot, outcome, and bytes of the sealed copy. A copy without its commit object is unproven: it
    /// doesn't count. `_appliance` is the appliance's own configuration.
    List(List),
    /// Read copies from the store and compare them with what was proven
    ///
    /// Needs no private key; with one they are opened too, and compared with their indexes. Exit code 1 when one isn't
    /// what it was. On the appliance, the last proven copy of each source must be there.
    Verify(Verify),
    /// Get a snapshot back from the store, on any machine
    ///
    /// The same as `vaultberry fetch`.
    Fetch(Fetch),
    /// Remove old copies from the store, on another machine than the appliance
    ///
    /// By the rules of `keep`. Only tells what would go, unless it is told --yes. Wants an access key that may delete, which
    /// must never come onto the appliance.
    Prune(Prune),
    /// Show whom copies and reports are sealed for, and until when that is possible
    ///
    /// Exit code 3 when one can't be sealed for today.
    Recipients(Recipients),
    /// Print what the bucket and its access key should be allowed
    ///
    /// Policies, retention and lifecycle, each with the command that sets it; and what a store can't do.
    Policy(Policy),
}

/// What `vaultberry offsite list` takes.
#[derive(Args, Debug)]
pub struct List {
    /// Only those of this source
    pub source: Option<String>,
    /// Which store
    #[command(flatten)]
    pub store: Store,
    /// Print a JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What `vaultberry offsite verify` takes.
#[derive(Args, Debug)]
pub struct Verify {
    /// SOURCE/NAME or SOURCE/latest; without any, all copies
    pub snapshot: Vec<String>,
    /// Only so many of them, drawn at random
    #[arg(long, value_name = "COUNT")]
    pub sample: Option<NonZeroUsize>,
    /// The private OpenPGP key to open them with, as `gpg --export-secret-keys` writes it
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Which store
    #[command(flatten)]
    pub store: Store,
}

/// What `vaultberry offsite prune` takes.
#[derive(Args, Debug)]
pub struct Prune {
    /// Remove them, and don't only tell
    #[arg(long)]
    pub yes: bool,
    /// The file with an access key that may delete
    #[arg(long, value_name = "FILE")]
    pub credentials: PathBuf,
    /// The appliance's configuration
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry offsite recipients` takes.
#[derive(Args, Debug)]
pub struct Recipients {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry offsite policy` takes.
#[derive(Args, Debug)]
pub struct Policy {
    /// For which kind of store
    #[arg(long = "for", value_enum, default_value_t = Kind::Aws)]
    pub kind: Kind,
    /// After how many days the store removes copies
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
    pub expire: u16,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Amazon's
    Aws,
    /// Ceph's object gateway
    Ceph,
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

/// A store, as an appliance knows it, or by its address.
#[derive(Args, Debug)]
pub struct Store {
    /// The appliance's configuration
    #[command(flatten)]
    pub on: OnAppliance,
    /// The place in the store, where no configuration is at hand
    #[arg(long, value_name = "s3://BUCKET/PREFIX")]
    pub store: Option<String>,
    /// How it is reached
    #[command(flatten)]
    pub reach: Reach,
}

/// How a store is reached.
#[derive(Args, Debug)]
pub struct Reach {
    /// The file with the access key, unless it is the one that the configuration names
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// The store's address, unless it is AWS or stands in the configuration
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Its region, unless it stands in the configuration
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Whether the bucket stands in the address's path, unless the configuration says so
    #[arg(long, value_name = "BOOL")]
    pub path_style: Option<bool>,
    /// Certificate authorities to trust beside the system's, in PEM, unless the configuration has them
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}
