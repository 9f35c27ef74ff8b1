//! `config.txt`, the file that the Pi's firmware reads first, and in it the switch: which pair boots.
//!
//! `os_prefix` names the folder that kernel, initramfs, device tree and command line are read from (Raspberry Pi's
//! documentation of config.txt). While a pair is on trial, a comment says so, since that must change with the switch, in one
//! write. The file is always replaced as a whole. All else in it stays as it is when the switch is thrown.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::durable;

/// The file's name on the firmware partition.
pub const NAME: &str = "config.txt";

/// Names the folder that boots.
const PREFIX: &str = "os_prefix=";

/// Begins the comment that tells of a trial: the new pair and the old one follow.
const TRIAL: &str = "# on trial, and what boots unless it comes up: ";

/// What every appliance's `config.txt` says beside the switch.
const COMMON: &str = "# Written by `vaultberry kernel install`. Lines of your own belong into /etc/default/raspi-firmware-custom.\n\
    arm_64bit=1\nenable_uart=1\nupstream_kernel=1\nkernel=vmlinuz\ninitramfs initrd.img\n";

/// The content of a `config.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The pair that boots.
    pub boots: String,
    /// The trial that is under way.
    pub trial: Option<Trial>,
    /// All other lines.
    rest: String,
}

/// A new pair that hasn't come up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The pair on trial.
    pub new: String,
    /// The one that came up before.
    pub old: String,
}

impl Switch {
    /// One that boots `pair`. `own` are the owner's lines.
    pub fn to(pair: &str, own: &str) -> Self {
        let end = if own.is_empty() || own.ends_with('\n') { "" } else { "\n" };
        Self { boots: pair.to_owned(), trial: None, rest: format!("{COMMON}{own}{end}") }
    }

    /// Reads the one on the firmware partition; none where it names no pair.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(firmware: &Path) -> Result<Option<Self>> {
        let path = firmware.join(NAME);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            text => Ok(Self::parse(&text.with_context(|| format!("reading {}", path.display()))?)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (mut boots, mut trial, mut rest) = (None, None, String::new());
        for line in text.lines() {
            if let Some(prefix) = line.strip_prefix(PREFIX) {
                boots = Some(prefix.trim().trim_end_matches('/').to_owned());
            } else if let Some(pairs) = line.strip_prefix(TRIAL) {
                trial = pairs.split_once(' ').map(|(new, old)| Trial { new: new.to_owned(), old: old.trim().to_owned() });
            } else {
                rest += line;
                rest += "\n";
            }
        }
        Some(Self { boots: boots?, trial, rest })
    }

    fn text(&self) -> String {
        let trial = self.trial.as_ref().map_or(String::new(), |trial| format!("{TRIAL}{} {}\n", trial.new, trial.old));
        format!("{trial}{PREFIX}{}/\n{}", self.boots, self.rest)
    }

    /// Replaces the one on the firmware partition.
    ///
    /// # Errors
    /// It can't be written; the old one is still there.
    pub fn write(&self, firmware: &Path) -> Result<()> {
        durable::write(&firmware.join(NAME), self.text().as_bytes(), 0o644).context("switching what boots")
    }
}

#[cfg(test)]
mod tests {
    use super::{Switch, Trial};

    #[test]
    fn what_is_written_is_read_again_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Switch::read(folder.path()).unwrap(), None);
        let mut switch = Switch::to("6.12-aa", "dtoverlay=disable-wifi");
        switch.write(folder.path()).unwrap();
        assert_eq!(Switch::read(folder.path()).unwrap(), Some(switch.clone()));
        switch.trial = Some(Trial { new: "6.13-bb".to_owned(), old: "6.12-aa".to_owned() });
        switch.write(folder.path()).unwrap();
        let read = Switch::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, switch);
        let text = read.text();
        assert!(text.contains("\nos_prefix=6.12-aa/\n") && text.ends_with("dtoverlay=disable-wifi\n"), "{text}");
        assert!(text.starts_with("# on trial, and what boots unless it comes up: 6.13-bb 6.12-aa\n"), "{text}");
        assert_eq!(Switch::parse("kernel=vmlinuz\n"), None);
    }
}
