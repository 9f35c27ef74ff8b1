//! The command line: clap types, one file a command group, and no logic. `main` dispatches what is parsed here.

pub mod config;

use clap::{Parser, Subcommand};

/// Builds, boots and is a backup appliance
///
/// On a workstation it makes the appliance's image from one appliance.toml; on the appliance it runs the nightly
/// backup.
#[derive(Debug, Parser)]
#[command(name = "vaultberry", version, max_term_width = 80)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write an annotated appliance.toml to begin with.
    Init(config::Init),
    /// Check an appliance.toml and name everything that is wrong with it.
    Check(config::Check),
    /// Show what an appliance.toml comes to, defaults included.
    Plan(config::Plan),
}
