//! The command line: clap types, one file a command group, and no logic. `main` dispatches what is parsed here.

pub mod backup;
pub mod config;
pub mod disk;
pub mod doctor;
pub mod flash;
pub mod harden;
pub mod image;
pub mod kernel;
pub mod key;
pub mod offsite;
pub mod report;
pub mod sandbox;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod update;

use clap::{ArgAction, Parser, Subcommand};

/// Builds, boots and is a backup appliance
///
/// On a workstation it makes the appliance's image from one appliance.toml; on the appliance it runs the nightly
/// backup.
#[derive(Debug, Parser)]
#[command(name = "vaultberry", version, max_term_width = 80)]
pub struct Cli {
    /// Say more: what is being done, and twice for how.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
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
    /// Build the flashable image of an appliance, its stick and its recovery sheet.
    Image(image::Image),
    /// Boot an image in QEMU, with its stick plugged in.
    Boot(image::Boot),
    /// Write an image to a card, or a stick's to a stick
    ///
    /// Only what isn't zeros is written, and read back; the rest is discarded. What boots comes last: a card whose flash was
    /// broken off doesn't boot. Refused is what is in use, read-only, too small, or can't be taken out.
    Flash(flash::Flash),
    /// Back up, on the appliance.
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Format, open and detach backup disks, on the appliance.
    #[command(subcommand)]
    Disk(disk::Disk),
    /// Deal with the keys that open root, on the appliance or in an image.
    #[command(subcommand)]
    Key(key::Key),
    /// Deal with the kernels on the appliance's firmware partition.
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Keep others out of the appliance, and see whether they are kept out.
    #[command(subcommand)]
    Harden(harden::Harden),
    /// Install the updates that wait, kernel and boot firmware too, on the appliance
    ///
    /// As root, with somebody at hand: what boots is changed by this alone. It fetches the package lists, shows what
    /// waits and asks. No backup runs meanwhile; one whose time comes waits. Afterwards it says whether to restart, and
    /// whether the key stick is in. The exit code is 4 when a run is at work, and nothing was done.
    Update(update::Update),
    /// See what snapshots there are, on the appliance.
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Restore a snapshot, or parts of it, to an empty folder
    ///
    /// Everything is checked against the index beside the archive. A file whose content isn't what it was gets `.damaged`
    /// behind its name, and the exit code is 1. The archive's path needs no configuration.
    Restore(snapshot::Restore),
    /// Deal with the servers that are backed up.
    #[command(subcommand)]
    Source(source::Source),
    /// Look at the off-site copies.
    #[command(subcommand)]
    Offsite(offsite::Offsite),
    /// Get a snapshot back from the off-site store, on any machine.
    Fetch(offsite::Fetch),
    /// Try whether all that a run needs works, and what an intruder could do
    ///
    /// Asks the servers for their keys, reads the logins, and writes an object of its own into the store, which it tries to
    /// overwrite and to delete. Exit code 1 when something is broken, 3 when something should be better.
    Doctor(doctor::Doctor),
    /// Deal with the mail that tells of each run.
    #[command(subcommand)]
    Report(report::Report),
    /// Tell how the appliance is: the last run, snapshots, disk, what to do
    ///
    /// The same that the report's mail tells. The exit code is 0 when all is well, 3 when the last run was partial or
    /// something is to do, and 1 when the last run failed, is more than two nights ago, or something can't be told.
    Status(status::Status),
    /// Start a program that deals with a server, so that it can touch next to nothing.
    #[command(hide = true)]
    Sandbox(sandbox::Sandbox),
    /// Deal with a server, as a user of its own, as stdin says.
    #[command(hide = true)]
    Apart(sandbox::Apart),
}
