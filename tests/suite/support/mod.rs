//! Real servers, images and guests, and a whole appliance in temporary folders.

pub mod appliance;
pub mod card;
pub mod gnupg;
pub mod guest;
pub mod mailbox;
pub mod mariadb;
pub mod peer;
pub mod postfix;
pub mod postgresql;
pub mod servers;
pub mod small_disk;
pub mod store;
pub mod way;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

static HEAVY: Mutex<()> = Mutex::new(());

/// Held by whoever emulates a guest or builds images: one at a time, there are few cores.
pub fn alone() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That two trees have the same names, content and link targets.
pub fn assert_same(left: &Path, right: &Path) {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([left, right]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}
