//! `vaultberry snapshot` and `vaultberry restore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::backup::OnAppliance;

/// What `vaultberry snapshot` can do.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// List the snapshots, the newest last
    ///
    /// One whose index is missing or damaged is listed as `unknown`, with the reason.
    List(List),
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

/// What `vaultberry restore` takes.
#[derive(Args, Debug)]
pub struct Restore {
    /// SOURCE/NAME, SOURCE/latest for the newest complete one, or the path of a .tar.gz
    pub snapshot: PathBuf,
    /// A file or folder to restore, by its path on the server; without any, everything
    pub path: Vec<PathBuf>,
    /// Where to; made when it isn't there, refused when it isn't empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
}
