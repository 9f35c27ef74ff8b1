//! `image` and `boot`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::image::emulate::Machine;

/// The arguments of `image`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Image {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The appliance.toml; without it the embedded demonstration is built
    pub config: Option<PathBuf>,
    /// Where the image goes; holds at most an earlier build
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Where the keys go, never inside the output folder; or in there the folder of one build, to build with its keys again
    #[arg(long, value_name = "DIR", default_value = "secrets")]
    pub secrets: PathBuf,
    /// Where vaultberry and vaultberry-unlock for aarch64 are
    #[arg(long, value_name = "DIR", default_value = "target/aarch64-unknown-linux-gnu/release")]
    pub binaries: PathBuf,
    /// Where packages and trees are cached; the default is vaultberry/ in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Take today's packages, not those of the last time
    #[arg(long, conflicts_with_all = ["locked", "offline"])]
    pub refresh: bool,
    /// Take the packages that packages.lock beside the config names, and no others
    #[arg(long)]
    pub locked: bool,
    /// Ask no mirror: build from what the cache holds
    #[arg(long)]
    pub offline: bool,
    /// Make the base tree for the cache, which takes longest, and no image
    #[arg(long)]
    pub only_base: bool,
}

/// The commands of `image`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write packages.lock beside the config: today's packages, each with its version and SHA-256
    ///
    /// A lock whose packages are still those of today stays as it is. `image --locked` builds of these packages and no others.
    Lock(Lock),
}

/// The arguments of `image lock`.
#[derive(Args, Debug)]
pub struct Lock {
    /// The appliance.toml; without it the lock of the embedded demonstration is written, here
    pub config: Option<PathBuf>,
    /// Where packages are cached; the default is vaultberry/ in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// The arguments of `boot`.
#[derive(Args, Debug)]
pub struct Boot {
    /// The image (.img)
    pub image: PathBuf,
    /// The board to emulate
    #[arg(long, value_enum, default_value = "virt")]
    pub machine: Machine,
    /// Boot without a stick
    #[arg(long, conflicts_with = "stick")]
    pub no_stick: bool,
    /// The stick's image; the default is the one that the image's build left in the secrets folder
    #[arg(long, value_name = "FILE")]
    pub stick: Option<PathBuf>,
    /// Where the build left its keys
    #[arg(long, value_name = "DIR", default_value = "secrets")]
    pub secrets: PathBuf,
    /// An image to plug in as the backup disk (virt only)
    #[arg(long, value_name = "FILE", requires = "serial")]
    pub disk: Option<PathBuf>,
    /// The backup disk's serial number, as the config names it
    #[arg(long, value_name = "SERIAL", requires = "disk")]
    pub serial: Option<String>,
    /// A port of 127.0.0.1 that leads to the guest's ssh (virt only)
    #[arg(long, value_name = "PORT")]
    pub ssh_port: Option<u16>,
    /// Let the guest change the image
    #[arg(long)]
    pub write: bool,
    /// Further arguments for QEMU
    #[arg(last = true)]
    pub extra: Vec<String>,
}
