//! What keeps others out of the appliance: sshd, fail2ban, a firewall and security updates, all of them set up from the config.
//!
//! [`files`] are their settings. The image has them from its build on, which lets sshd itself say what it makes of them
//! ([`sshd::prove`]). On the appliance [`check`] asks each program what it goes by, and holds that against what the config
//! wants; what it finds is kept for the report ([`record`]). [`apply`] writes the files anew and lets the programs read them.

pub mod apply;
pub mod check;
mod fail2ban;
pub mod firewall;
mod own;
pub mod record;
pub mod sshd;

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::config::Config;
use crate::kernel::trial;
use crate::unlock;
use crate::updates::settings;

/// The one port that is open.
const SSH_PORT: u16 = 22;

/// A file of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is on the appliance.
    pub path: &'static str,
    /// What stands in it.
    pub text: String,
    /// Its permission bits.
    pub mode: u32,
}

/// The files of all of them.
pub fn files(config: &Config) -> Vec<File> {
    let readable = |path, text| File { path, text, mode: 0o644 };
    let mut files = vec![
        readable(sshd::PATH, sshd::drop_in(config)),
        readable(fail2ban::JAIL, fail2ban::jail(&config.access)),
        readable(fail2ban::SETTINGS, fail2ban::settings()),
        File { mode: 0o755, ..readable(firewall::PATH, firewall::rules(config)) },
    ];
    files.extend(settings::files(config, &head("[updates]")));
    files
}

/// Makes sure that this is an appliance: on any other machine all this would lock its owner out.
///
/// # Errors
/// It isn't one.
pub fn require_appliance() -> Result<()> {
    ensure!(
        Path::new(unlock::settings::PATH).exists() && trial::booted()?.is_some(),
        "this machine is no appliance: it wasn't started from an image\nhint: how sshd, fail2ban and firewall of another machine are set up is its owner's affair"
    );
    Ok(())
}

/// Files whose text isn't what the config wants any more: it was changed, and not applied since.
pub fn not_applied(config: &Config) -> Vec<&'static str> {
    let changed = |file: &File| fs::read_to_string(file.path).ok().as_ref() != Some(&file.text);
    files(config).into_iter().filter(changed).map(|file| file.path).collect()
}

/// What stands at the head of each of them.
fn head(section: &str) -> String {
    format!(
        "# Made from {section} in /etc/vaultberry/appliance.toml. Change it there: `vaultberry harden apply` writes this file anew.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::files;
    use crate::config::{EXAMPLE, parse};

    #[test]
    fn each_file_says_where_it_comes_from() {
        for file in files(&parse(EXAMPLE).unwrap()) {
            assert!(file.text.lines().take(2).any(|line| line.contains("appliance.toml")), "{file:?}");
        }
    }
}
