//! `vaultberry report`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::backup::OnAppliance;

/// What `vaultberry report` can do.
#[derive(Debug, Subcommand)]
pub enum Report {
    /// Send a sealed test mail now, and what waits in the queue
    ///
    /// To try the settings of [report]: who gets it sees that it arrives and that the private key opens it.
    Test(OnAppliance),
    /// Send what waits in the queue
    ///
    /// A timer does this each hour. If the last run was cut short and nobody was told, its mail is made first. Mails that a
    /// server has refused for good wait for the next run.
    Send(OnAppliance),
    /// Show what the mail of the last run says
    ///
    /// Nothing is sealed and nothing sent. Secrets are masked as in the mail.
    Preview(Preview),
}

/// What `vaultberry report preview` takes.
#[derive(Debug, Args)]
pub struct Preview {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// Write the mail's page to this file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
