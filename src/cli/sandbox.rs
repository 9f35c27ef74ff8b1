//! `vaultberry sandbox` and `vaultberry apart`, which vaultberry itself starts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// What `vaultberry sandbox` takes; [`crate::sandbox`] says what it means.
#[derive(Clone, Debug, Args)]
pub struct Sandbox {
    /// May be read.
    #[arg(long, value_name = "PATH")]
    pub read: Vec<PathBuf>,
    /// May be written.
    #[arg(long, value_name = "PATH")]
    pub write: Vec<PathBuf>,
    /// May be connected to.
    #[arg(long, value_name = "PORT")]
    pub connect: Vec<u16>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub program: Vec<OsString>,
}

/// What `vaultberry apart` takes; [`crate::source::apart`] says what it means.
#[derive(Clone, Debug, Args)]
pub struct Apart {
    /// The number of the user and of the group to become.
    #[arg(long, value_name = "UID")]
    pub account: Option<u32>,
    /// The mirror of that user.
    #[arg(long, value_name = "PATH", requires = "account")]
    pub mirror: Option<PathBuf>,
}
