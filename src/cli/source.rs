//! `vaultberry source`.

use clap::{Args, Subcommand};

use crate::cli::backup::OnAppliance;

/// What `vaultberry source` can do.
#[derive(Debug, Subcommand)]
pub enum Source {
    /// Show the appliance's public ssh key, and make the key first if there is none
    ///
    /// The line belongs into `~/.ssh/authorized_keys` of the unprivileged user on each server.
    Key(OnAppliance),
    /// Ask a server for its host keys, and show them with their fingerprints
    ///
    /// Whoever stands between here and the server could answer in its place. So compare the fingerprints with what
    /// `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the server itself; then put the line into the
    /// configuration. The exit code is 1 when none of the keys is pinned there.
    Trust(Trust),
    /// Print a script that sets a server up for a source, for its root to read and run
    ///
    /// It makes the account, binds the appliance's key to a gate that allows only what the configuration names, and lets
    /// the account read that. Run again it brings all of it up to date; with --remove it takes it away. The source needs
    /// `gate = true`.
    Setup(Setup),
}

/// What `vaultberry source setup` takes.
#[derive(Debug, Args)]
pub struct Setup {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// The source's name in the configuration
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// What `vaultberry source trust` takes.
#[derive(Debug, Args)]
pub struct Trust {
    /// Where this is
    #[command(flatten)]
    pub on: OnAppliance,
    /// The source's name in the configuration.
    #[arg(value_name = "NAME", required_unless_present = "at")]
    pub name: Option<String>,
    /// A server that isn't in the configuration yet: HOST or HOST:PORT
    #[arg(long, value_name = "HOST", conflicts_with = "name")]
    pub at: Option<String>,
    /// Tell it as JSON
    #[arg(long)]
    pub json: bool,
}
