//! Kernels: how they get to the firmware partition, and the proof that they can open root from there.
//!
//! A kernel and its initramfs boot together or not at all. So a [`pair`] has a folder of its own on the firmware partition, with
//! [`boot_loader`], device trees and command line, and one line of `config.txt` names the folder that boots: the [`switch`]. A new pair is made
//! beside the old one, shown to hold what a boot needs ([`proof`]), read back from the card, and then put on [`trial`]: the old
//! one comes back by itself unless the system has come up with the new one. What is on the partition then is its [`baseline`]. [`install()`] does all of it, for the builder, which
//! fills an empty partition, and on the appliance, after each change of kernel or initramfs.
//!
//! What a kernel can drive and what an initramfs holds is looked up without running either: [`modules`], [`drivers`],
//! [`devicetree`], [`suppliers`] and [`boards`] on the one side; [`inspect`], [`cpio`], [`unpack`] and [`elf`] on the other.

pub mod appliance;
pub mod baseline;
pub mod boards;
pub mod boot_loader;
pub mod cpio;
pub mod devicetree;
pub mod drivers;
pub mod elf;
pub mod firmware;
pub mod inspect;
pub mod install;
pub mod modules;
pub mod note;
pub mod pair;
pub mod proof;
pub mod suppliers;
pub mod switch;
pub mod tree;
pub mod trial;
pub mod unpack;

pub use install::install;
