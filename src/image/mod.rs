//! Making the image and proving that it can boot.

pub mod cpio;
pub mod devicetree;
pub mod suppliers;
pub mod unpack;
