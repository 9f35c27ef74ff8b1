//! `vaultberry snapshot` and `vaultberry restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::backup::OnAppliance;
use super::offsite::Reach;

/// What `vaultberry snapshot` can do.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// List the snapshots, the newest last
    ///
    /// One whose index is missing or damaged is listed as `unknown`, with the reason.
    List(List),
    /// Show all that is known of a snapshot
    Show(One),
    /// Find files by name in the snapshots, the newest first
    ///
    /// Only the indexes are read. `restore` then takes what is found.
    Find(Find),
    /// Tell what changed from one snapshot to another
    ///
    /// `+` is new, `-` is gone, `~` has changed, and in what. Only the indexes are read.
    Diff(Diff),
    /// Read snapshots and compare them with their indexes
    ///
    /// The exit code is 1 when anything is damaged.
    Verify(Verify),
    /// Keep a snapshot, whatever the rules of `keep` say
    Pin(Pin),
    /// Let the rules of `keep` decide on a snapshot again
    Unpin(One),
    /// Remove the snapshots that no rule of `keep` wants
    ///
    /// As each run does for a source of which it made a snapshot.
    Prune(Prune),
}

/// What `vaultberry snapshot list` takes.
#[derive(Args, Debug)]
pub struct List {
    /// Only those of this source
    pub source: Option<String>,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What commands on one snapshot take.
#[derive(Args, Debug)]
pub struct One {
    /// SOURCE/NAME, SOURCE/latest for the newest complete one, or the path of a .tar.gz
    pub snapshot: PathBuf,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry snapshot find` takes.
#[derive(Args, Debug)]
pub struct Find {
    /// A part of the path; with * or ? in it all of it, or all behind one of its slashes
    pub pattern: OsString,
    /// Only in this source, SOURCE/NAME, or .tar.gz
    pub within: Option<PathBuf>,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry snapshot diff` takes.
#[derive(Args, Debug)]
pub struct Diff {
    /// The older one: SOURCE/NAME, SOURCE/latest, or the path of a .tar.gz
    pub old: PathBuf,
    /// The newer one
    pub new: PathBuf,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry snapshot verify` takes.
#[derive(Args, Debug)]
pub struct Verify {
    /// SOURCE, SOURCE/NAME, SOURCE/latest, or the path of a .tar.gz; without, all
    pub what: Option<PathBuf>,
    /// Look at so many per cent of the files only, chosen at random
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub sample: Option<u8>,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry snapshot pin` takes.
#[derive(Args, Debug)]
pub struct Pin {
    /// SOURCE/NAME, SOURCE/latest for the newest complete one, or the path of a .tar.gz
    pub snapshot: PathBuf,
    /// Why, for whoever sees the list
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry snapshot prune` takes.
#[derive(Args, Debug)]
pub struct Prune {
    /// Only those of this source
    pub source: Option<String>,
    /// Only tell what would go, and why the others stay
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// What `vaultberry restore` takes.
#[derive(Args, Debug)]
pub struct Restore {
    /// SOURCE/NAME, SOURCE/latest for the newest complete one, the path of a .tar.gz, or of a copy in a store, as
    /// `s3://my-backups/vaultberry/web/latest`
    pub snapshot: PathBuf,
    /// A file or folder to restore, by its path on the server; without any, everything
    pub path: Vec<PathBuf>,
    /// Where to; made when it isn't there, refused when it isn't empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The private OpenPGP key, for a copy in a store
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How the store is reached
    #[command(flatten)]
    pub reach: Reach,
    /// What came of it as JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}

/// `5` or `5%`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok().filter(|number| (1..=100).contains(number));
    number.ok_or_else(|| "write a whole number from 1 to 100, as in 5%".to_owned())
}
