//! What the initramfs knows of the appliance: `/etc/vaultberry/unlock.toml`. It holds no secret.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mark::Mark;
use crate::devices::Block;

/// Where the settings lie, on root and in the initramfs.
pub const PATH: &str = "/etc/vaultberry/unlock.toml";

/// The settings of the unlock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The LUKS UUID of root.
    pub luks_uuid: Uuid,
    /// How long only the stick is waited for, in seconds.
    pub wait_seconds: u64,
    /// After how many seconds an unopened appliance reboots.
    pub reboot_after_seconds: u64,
    /// The sticks that are looked at; all where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sticks: Vec<Mark>,
}

impl Settings {
    /// Reads the settings from a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("reading the settings in {}", path.display()))
    }

    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("reading TOML")
    }

    /// The file's text.
    pub fn encode(&self) -> Result<String> {
        toml::to_string(self).context("writing the unlock settings")
    }

    /// Whether the file system may hold the key: of any stick, or of one that bears one of the marks.
    pub fn accepts(&self, block: &Block) -> bool {
        block.may_hold_key() && (self.sticks.is_empty() || self.sticks.iter().any(|mark| mark.fits(block)))
    }

    /// How long only the stick is waited for.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    /// After which time an unopened appliance reboots.
    pub fn reboot_after(&self) -> Duration {
        Duration::from_secs(self.reboot_after_seconds)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Mark, Settings};

    #[test]
    fn settings_survive_their_file() {
        let settings = Settings {
            luks_uuid: Uuid::new_v4(),
            wait_seconds: 30,
            reboot_after_seconds: 600,
            sticks: vec![Mark::Label("VB \"KEY\"".into()), Mark::Serial("7".into())],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unlock.toml");
        for settings in [settings.clone(), Settings { sticks: Vec::new(), ..settings }] {
            std::fs::write(&path, settings.encode().unwrap()).unwrap();
            assert_eq!(Settings::read(&path).unwrap(), settings);
        }
    }
}
