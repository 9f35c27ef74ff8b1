//! Making it so: the files are written, and the programs read them.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;

use super::{File, SSH_PORT, files, own};
use crate::ask::{self, ask};
use crate::config::Config;
use crate::{durable, process};

/// Brings the appliance into the state that the config wants, and gives what was done, a line each.
///
/// # Errors
/// Something can't be written, or a program refuses its new settings. The others have theirs then.
pub fn apply(config: &Config) -> Result<Vec<String>> {
    ensure!(Uid::effective().is_root(), "writing settings of sshd, fail2ban and the firewall: only root may\nhint: use sudo");
    let mut done = Vec::new();
    for file in files(config) {
        if fs::read_to_string(file.path).ok().as_ref() != Some(&file.text) {
            write(&file)?;
            done.push(format!("{} is written", file.path));
        }
    }
    for path in own::open_secrets(config) {
        close(&path)?;
        done.push(format!("{} is root's alone", path.display()));
    }
    process::run(process::tool("sshd").arg("-t"), "letting sshd prove its new settings")?;
    // Enabled first: one that isn't is not started at boot, whatever it does now.
    process::run(process::tool("systemctl").args(["--quiet", "enable"]).args(own::UNITS), "having them started at boot")?;
    for (unit, verb) in own::UNITS.iter().zip(["reload-or-restart", "restart", "reload-or-restart"]) {
        process::run(process::tool("systemctl").args([verb, unit]), &format!("letting {unit} read its settings"))
            .with_context(|| format!("applying the hardening\nhint: look at `journalctl -u {unit}`"))?;
    }
    Ok(done)
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
