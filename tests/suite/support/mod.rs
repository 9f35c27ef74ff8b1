//! Real servers, images and guests, and a whole appliance in temporary folders.

pub mod appliance;
pub mod card;
pub mod gnupg;
pub mod guest;
pub mod mailbox;
pub mod peer;

use std::sync::{Mutex, MutexGuard, PoisonError};

static HEAVY: Mutex<()> = Mutex::new(());

/// Held by whoever emulates a guest or builds images: one at a time, there are few cores.
pub fn alone() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}
