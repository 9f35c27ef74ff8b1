//! `vaultberry status`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::backup::OnAppliance;

/// What `vaultberry status` takes.
#[derive(Debug, Args)]
pub struct Status {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// Print the facts as JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with charts to this file, instead of printing
    ///
    /// It is one file that needs neither network nor scripts. Only its owner may read it: it names servers and files.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
}
