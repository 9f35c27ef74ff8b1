//! Shell stages that see themselves as root, run by an ordinary user.
//!
//! A stage runs in a mount and process namespace of its own; for an ordinary user also in a user namespace, in which the
//! files of a Debian tree keep their owners (mapped to the user's subordinate ids, subuid(5)). What a stage mounts is gone
//! when it ends.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use crate::process;

/// Runs a shell script with arguments. `doing` completes the sentence "while …".
pub fn run<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>, doing: &str) -> Result<()> {
    // A stage ends with the build that started it: otherwise a killed build would go on working behind the next one's back.
    let mut command = process::tool("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.args(["sh", "-c", script, "stage"]).args(arguments);
    process::run(&mut command, doing)
        .with_context(|| if geteuid().is_root() { String::from("running a stage of the build") } else { user_hint() })
}

/// Removes a folder whose files belong to subordinate ids. Does nothing when it isn't there.
pub fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    if fs::remove_dir_all(folder).is_ok() {
        return Ok(());
    }
    run("rm -rf --one-file-system -- \"$1\"", [folder], &format!("removing {}", folder.display()))
}

fn user_hint() -> String {
    String::from(
        "running a stage of the build in a user namespace, which needs `newuidmap` (package uidmap) and an entry for this user in /etc/subuid and /etc/subgid",
    )
}
