//! Installing updates: those of security by themselves, and all of them when somebody is there.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::HELD;
use crate::process;

/// Fetches the package lists.
///
/// # Errors
/// They can't be had.
pub fn fetch_lists() -> Result<()> {
    run(apt_get().args(["--quiet", "--error-on=any", "update"]).stdout(Stdio::null()), "fetching the package lists").context(
        "looking for updates\nhint: is the mirror reachable? `getent hosts deb.debian.org`, and look at /etc/apt/sources.list.d",
    )
}

/// Lets unattended-upgrades install what is allowed to it.
///
/// # Errors
/// Not all of it could be.
pub fn security() -> Result<()> {
    let mut command = process::tool("unattended-upgrade");
    command.arg("--verbose").stdout(Stdio::inherit());
    run(&mut command, "installing security updates")
        .context("upgrading\nhint: look at /var/log/unattended-upgrades/unattended-upgrades.log, then `sudo vaultberry update`")
}

/// Installs everything that waits, what is held too, and holds that again. Settings that were changed here stay.
///
/// # Errors
/// Not all of it could be installed, or be held again.
pub fn everything() -> Result<()> {
    let holds = process::output(process::tool("apt-mark").arg("showhold"), "asking which packages are held")?;
    let holds = String::from_utf8_lossy(&holds).into_owned();
    let mut command = apt_get();
    command.args(["--yes", "--ignore-hold", "--allow-change-held-packages", "dist-upgrade"]).stdout(Stdio::inherit());
    let upgraded = run(&mut command, "installing updates")
        .context("upgrading\nhint: `sudo dpkg --configure -a` ends what was begun; then `sudo vaultberry update` again");
    // Also after a failure: what boots mustn't change unseen.
    let held = hold(holds.lines());
    upgraded.and(held)
}

/// Holds what boots, and these packages.
///
/// # Errors
/// dpkg refuses it.
pub fn hold<'a>(more: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut command = process::tool("apt-mark");
    process::run(command.arg("hold").args(HELD).args(more), "holding the packages that boot")
}

/// Restarts the system. This returns at once; systemd then ends this program, too.
///
/// # Errors
/// systemd refuses it.
pub fn restart() -> Result<()> {
    process::run(process::tool("systemctl").arg("reboot"), "restarting")
}

fn apt_get() -> Command {
    let mut command = process::tool("apt-get");
    // Another apt may be at work.
    command.args([
        "-o",
        "DPkg::Lock::Timeout=600",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
    ]);
    command
}

/// In a process group of its own: a lost ssh session or Ctrl-C mustn't end dpkg half way.
fn run(command: &mut Command, doing: &str) -> Result<()> {
    process::run(command.env("DEBIAN_FRONTEND", "noninteractive").process_group(0), doing)
}
