//! Real servers, images and guests, and a whole appliance in temporary folders.

pub mod appliance;
pub mod card;
pub mod guest;
pub mod peer;
