//! The image builder: from a checked config to a flashable image, without root, loop devices or device-mapper.
//!
//! [`build`] goes one way, and each step is a file here: the Debian tree ([`base`], cached), the files laid over it
//! ([`overlay`]), its initramfs ([`boot`], cached), the root file system ([`root`]), what the firmware partition holds
//! ([`crate::kernel`]), encryption ([`payload`]), partitions ([`disk`]), and what is put out ([`outputs`]). [`emulate`] boots the
//! result.

pub mod base;
pub mod binaries;
pub mod boot;
pub mod build;
pub mod cache;
pub mod disk;
pub mod emulate;
pub mod namespace;
pub mod outputs;
pub mod overlay;
pub mod payload;
pub mod root;
pub mod workshop;
