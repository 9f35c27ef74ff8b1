//! `init`, `check` and `plan`: the commands about `appliance.toml`.

use std::path::PathBuf;

use clap::Args;

/// What `vaultberry init` takes.
#[derive(Args, Debug)]
pub struct Init {
    /// The file to write; one that exists is never overwritten.
    #[arg(default_value = "appliance.toml")]
    pub file: PathBuf,
}

/// What `vaultberry check` takes.
#[derive(Args, Debug)]
pub struct Check {
    /// The appliance.toml to check.
    pub file: PathBuf,
}

/// What `vaultberry plan` takes.
#[derive(Args, Debug)]
pub struct Plan {
    /// The appliance.toml to show.
    pub file: PathBuf,
    /// Where packages and trees are cached; the default is vaultberry/ in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}
