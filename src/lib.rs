//! vaultberry: a Raspberry Pi, a USB disk and a USB key stick become a backup appliance.
//!
//! Two sides share this library. The *builder* runs on a workstation and goes one way: `config` is read and
//! checked, `image` makes a bootable image of it, `keys` holds the secrets of that build. The *agent* runs on the
//! appliance: `unlock` opens root before there is a system, `disk` opens the backup disk, and `run` drives the
//! nightly pipeline over `source` and `snapshot`; `report` mails the owner. Both use `kernel`, which puts kernels on
//! the firmware partition.
//!
//! `config` knows no other subject and `cli` is known by none; no stage of a run knows `run`.

pub mod amount;
pub mod ask;
pub mod browse;
pub mod cli;
pub mod complaint;
pub mod config;
pub mod credentials;
pub mod devices;
pub mod digest;
pub mod disk;
pub mod doctor;
pub mod durable;
pub mod faults;
pub mod flash;
pub mod harden;
pub mod image;
pub mod kernel;
pub mod keys;
pub mod log;
pub mod luks;
pub mod markup;
pub mod mounts;
pub mod offsite;
pub mod openpgp;
pub mod outcome;
pub mod page;
pub mod ping;
pub mod pipe;
pub mod process;
pub mod progress;
pub mod redact;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod secret;
pub mod snapshot;
pub mod source;
pub mod space;
pub mod sparse;
pub mod status;
pub mod stop;
pub mod terminal;
pub mod unlock;
pub mod updates;
pub mod warnings;
