//! Making the image and proving that it can boot.

pub mod cpio;
pub mod unpack;
