//! The image builder: from a checked config to a flashable image, without root, loop devices or device-mapper.
//!
//! [`build`] goes one way, and each step is a file here: the Debian tree ([`base`], cached), the files laid over it
//! ([`overlay`]), its initramfs and firmware files ([`boot`], cached), the root file system ([`root`]), its encryption
//! ([`payload`]), partitions and firmware partition ([`disk`]), and what is put out ([`outputs`]). Before that, [`proof`]
//! shows that each board can boot it. [`emulate`] boots the result.

pub mod base;
pub mod binaries;
pub mod boards;
pub mod boot;
pub mod build;
pub mod cache;
pub mod cpio;
pub mod devicetree;
pub mod disk;
pub mod drivers;
pub mod elf;
pub mod emulate;
pub mod inspect;
pub mod modules;
pub mod namespace;
pub mod outputs;
pub mod overlay;
pub mod payload;
pub mod proof;
pub mod root;
pub mod suppliers;
pub mod unpack;
pub mod workshop;
