//! Making it so: the files are written, and the programs read them.

use std::fs::{self, Permissions};
use std::iter;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Error, Result, ensure};
use nix::unistd::{Uid, User};

use super::{File, SSH_PORT, files, not_applied, own, require_appliance};
use crate::ask::{self, ask};
use crate::config::Config;
use crate::updates::settings::TIMER;
use crate::updates::upgrade;
use crate::{durable, process};

/// What came of it.
pub struct Applied {
    /// What was done, a line each.
    pub done: Vec<String>,
    /// What couldn't be.
    pub failed: Vec<Error>,
}

/// Brings the appliance into the state that the config wants. What fails keeps nothing else from its turn.
///
/// # Errors
/// Nothing was done: this isn't root, or no appliance, or nobody could log in afterwards.
pub fn apply(config: &Config) -> Result<Applied> {
    ensure!(Uid::effective().is_root(), "writing settings of sshd, fail2ban and the firewall: only root may\nhint: use sudo");
    require_appliance()?;
    require_admin(config)?;
    let mut applied = Applied { done: Vec::new(), failed: Vec::new() };
    for path in not_applied(config) {
        let written = files(config).iter().filter(|file| file.path == path).try_for_each(write);
        applied.take(written.map(|()| format!("{path} is written")));
    }
    if !config.admin.generate_key {
        let (path, text) = (own::keys_file(config), config.admin.ssh_keys.join("\n") + "\n");
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            let written = durable::write(Path::new(&path), text.as_bytes(), 0o644);
            applied.take(written.map(|()| format!("{path} has the keys of the configuration")));
        }
    }
    for path in own::open_secrets(config) {
        applied.take(close(&path).map(|()| format!("{} is root's alone", path.display())));
    }
    applied.failed.extend(upgrade::hold(iter::empty()).err());
    applied.restart();
    Ok(applied)
}

impl Applied {
    fn take(&mut self, result: Result<String>) {
        match result {
            Ok(line) => self.done.push(line),
            Err(error) => self.failed.push(error),
        }
    }

    fn run(&mut self, command: &mut Command, doing: &str) -> bool {
        let result = process::run(command, doing);
        let well = result.is_ok();
        self.failed.extend(result.err());
        well
    }

    /// Has the units started at boot, and lets the programs read their settings. sshd only when it takes them: one that ends over
    /// them lets nobody in.
    fn restart(&mut self) {
        self.run(process::tool("systemctl").arg("daemon-reload"), "letting systemd read its units");
        self.run(
            process::tool("systemctl").args(["--quiet", "enable"]).args(own::SERVICES).args([TIMER, own::LOGS]),
            "having them started at boot",
        );
        for (unit, verb) in own::SERVICES.into_iter().zip(["reload-or-restart", "restart", "reload-or-restart"]) {
            if unit == "ssh.service" {
                // It goes with the unit, and sshd wants it.
                let _ = fs::create_dir_all("/run/sshd");
                if !self.run(process::tool("sshd").arg("-t"), "letting sshd prove its new settings") {
                    continue;
                }
            }
            let doing = format!("letting {unit} read its settings (`journalctl -u {unit}` tells more)");
            self.run(process::tool("systemctl").args([verb, unit]), &doing);
        }
        // A start of a timer with a time of day waits for the clock, which a Pi without a network never gets, and its service waits
        // for that. One that is active goes by its settings since systemd has read them.
        if !ask("systemctl", &["is-active", TIMER], ask::USUAL).is_some_and(|answer| answer.success) {
            self.run(
                process::tool("systemctl").args(["--no-block", "start", TIMER]),
                "starting the timer of the security updates",
            );
        }
    }
}

/// The account and its keys are made with the image. Settings for another one would let nobody in.
fn require_admin(config: &Config) -> Result<()> {
    let (user, keys) = (&config.admin.user, own::keys_file(config));
    let is_there = User::from_name(user).with_context(|| format!("looking for the account {user}"))?.is_some();
    ensure!(
        is_there && (!config.admin.ssh_keys.is_empty() || fs::read_to_string(&keys).is_ok_and(|text| !text.trim().is_empty())),
        "there is no account {user} with a key in {keys}, and nobody else could log in\nhint: [admin] user is settled when the image is built: write there who it was"
    );
    Ok(())
}

fn write(file: &File) -> Result<()> {
    let path = Path::new(file.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    durable::write(path, file.text.as_bytes(), file.mode)
}

fn close(path: &Path) -> Result<()> {
    let doing = || format!("keeping {} for root alone", path.display());
    ensure!(!path.is_symlink(), "{}: it is a link, and what it leads to may be others'\nhint: put a file there", doing());
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    chown(path, Some(0), Some(0)).with_context(doing)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(doing)
}

/// Addresses that are connected by ssh now and couldn't come again.
pub fn locked_out(config: &Config) -> Vec<IpAddr> {
    let filter = format!("( sport = :{SSH_PORT} )");
    let answer = ask("ss", &["-Htn", "state", "established", &filter], ask::USUAL);
    peers(&answer.map(|answer| answer.text).unwrap_or_default())
        .into_iter()
        .filter(|peer| !config.access.ssh_from.iter().any(|network| network.holds(*peer)))
        .collect()
}

/// The last column of ss(8): `192.0.2.7:51234`, `[2001:db8::1]:51234`, `[fe80::1%eth0]:51234`.
fn peers(text: &str) -> Vec<IpAddr> {
    let hosts = text.lines().filter_map(|line| Some(line.split_whitespace().last()?.rsplit_once(':')?.0));
    let addresses = hosts.filter_map(|host| host.trim_matches(['[', ']']).split('%').next()?.parse().ok());
    let mut peers: Vec<IpAddr> = addresses.collect();
    peers.sort_unstable();
    peers.dedup();
    peers
}

#[cfg(test)]
mod tests {
    use super::peers;

    #[test]
    fn who_is_connected_is_read() {
        let text = "0 0 10.0.2.15:22 10.0.2.2:51234\n0 0 10.0.2.15:22 10.0.2.2:51236\n0 0 [fe80::1%eth0]:22 [fe80::2%eth0]:40000\n\
                    0 0 [::ffff:10.0.2.15]:22 [::ffff:10.0.2.9]:1\n";
        let found: Vec<String> = peers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.2.2", "::ffff:10.0.2.9", "fe80::2"]);
    }
}
