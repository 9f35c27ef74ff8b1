//! The image builder: from a checked config to a flashable image, without root, loop devices or device-mapper.
//!
//! [`build`] goes one way, and each step is a file here: the Debian tree ([`base`], cached), the files laid over it
//! ([`overlay`]), its initramfs ([`boot`], cached), the root file system ([`root`]), what the firmware partition holds
//! ([`crate::kernel`]), encryption ([`payload`]), partitions ([`disk`]), and what is put out ([`outputs`]). [`emulate`] boots the
//! result.

pub mod base;
pub mod bill;
pub mod binaries;
pub mod bmap;
pub mod boot;
pub mod build;
pub mod cache;
pub mod credentials;
pub mod disk;
pub mod emulate;
pub mod lock;
pub mod namespace;
pub mod network;
pub mod outputs;
pub mod overlay;
pub mod packages;
pub mod payload;
pub mod plan;
pub mod region;
pub mod repack;
pub mod root;
pub mod tools;
pub mod wifi;
pub mod workshop;
