//! Making the image and proving that it can boot.

pub mod boards;
pub mod cpio;
pub mod devicetree;
pub mod drivers;
pub mod elf;
pub mod inspect;
pub mod modules;
pub mod suppliers;
pub mod unpack;
