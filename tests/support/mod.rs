//! Real servers and a whole appliance in temporary folders, for tests of the device side.

pub mod appliance;
pub mod peer;
