//! The keys of an appliance: what opens root, who holds it, and where the builder keeps it.
//!
//! Root has two keyslots: a random key on the stick ([`keyfile`]) and the recovery passphrase ([`recovery`]). Both are made
//! once for each build and kept in the builder's `secrets/` folder ([`secrets`]), never in the image.

pub mod change;
pub mod keyfile;
pub mod plugged;
pub mod recovery;
pub mod secrets;
mod settle;
pub mod stick;
pub mod volume;
