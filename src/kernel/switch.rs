//! `config.txt`, the file that the Pi's firmware reads first, and in it the switch: which pair boots.
//!
//! `os_prefix` names the folder that boot loader, kernel, initramfs, device tree and command line are read from (Raspberry Pi's
//! documentation of config.txt). While a pair is on trial, a comment says so, since that must change with the switch, in one
//! write. The file is always replaced as a whole. The owner's own lines belong to a pair, and come and go with it: what they
//! break, the old pair's lines mend.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::pair;
use crate::durable;

/// The file's name on the firmware partition.
pub const NAME: &str = "config.txt";

/// In the folder of a pair on trial: what the boot loader writes over `config.txt` before it starts that pair.
pub const FALLBACK: &str = "fallback.txt";

/// Names the folder that boots.
const PREFIX: &str = "os_prefix=";

/// Begins the comment that tells of a trial: the new pair and the old one follow.
const TRIAL: &str = "# on trial, and what boots unless it comes up: ";

/// What every appliance's `config.txt` says beside the switch.
const COMMON: &str = "# Written by `vaultberry kernel install`. Lines of your own belong into /etc/default/raspi-firmware-custom.\n\
    arm_64bit=1\nenable_uart=1\nupstream_kernel=1\nkernel=u-boot.bin\n";

/// The content of a `config.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The pair that boots.
    pub boots: String,
    /// The trial that is under way.
    pub trial: Option<Trial>,
}

/// A new pair that hasn't come up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The pair on trial.
    pub new: String,
    /// The one that came up before.
    pub old: String,
    /// How often it has ended because no key came, which says nothing of the pair.
    pub keyless: u32,
    /// Whether its last boot ended so, and it is still to be tried again.
    pub undecided: bool,
}

/// Ends the comment of a trial that is undecided.
const UNDECIDED: &str = "undecided";

impl Trial {
    /// One that hasn't begun.
    pub fn of(new: &str, old: &str) -> Self {
        Self { new: new.to_owned(), old: old.to_owned(), keyless: 0, undecided: false }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let trial = Self::of(words.next()?, words.next()?);
        let keyless = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Some(Self { keyless, undecided: words.next() == Some(UNDECIDED), ..trial })
    }

    fn text(&self) -> String {
        let end = if self.undecided { format!(" {UNDECIDED}") } else { String::new() };
        format!("{TRIAL}{} {} {}{end}\n", self.new, self.old, self.keyless)
    }
}

impl Switch {
    /// One that boots `pair`.
    pub fn to(pair: &str) -> Self {
        Self { boots: pair.to_owned(), trial: None }
    }

    /// Whether the next start begins the trial.
    pub fn is_armed(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.new == self.boots)
    }

    /// The pair that has come up before, if any has.
    pub fn proven(&self) -> &str {
        self.trial.as_ref().map_or(&self.boots, |trial| &trial.old)
    }

    /// As it is once a trial has begun: the old pair boots, unless the new one comes up.
    #[must_use]
    pub fn given_back(&self) -> Self {
        let trial = self.trial.clone().map(|trial| Trial { undecided: false, ..trial });
        Self { boots: self.proven().to_owned(), trial }
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

    /// What a `config.txt` says; none where it names no pair.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |name| text.lines().filter_map(|line| line.strip_prefix(name)).next_back();
        let boots = value(PREFIX)?.trim().trim_end_matches('/').to_owned();
        Some(Self { boots, trial: value(TRIAL).and_then(Trial::parse) })
    }

    /// Replaces the one on the firmware partition. What the pair that boots has of the owner's lines stands at its end.
    ///
    /// # Errors
    /// It can't be written; the old one is still there.
    pub fn write(&self, firmware: &Path) -> Result<()> {
        self.write_fallback(firmware)
            .and_then(|()| durable::write(&firmware.join(NAME), self.text(firmware)?.as_bytes(), 0o644))
            .context("switching what boots")
    }

    /// Before the switch: the pair that it leads to has a way back when that is on trial, and else none.
    fn write_fallback(&self, firmware: &Path) -> Result<()> {
        let path = firmware.join(&self.boots).join(FALLBACK);
        if self.is_armed() {
            return durable::write(&path, self.given_back().text(firmware)?.as_bytes(), 0o644);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.with_context(|| format!("removing {}", path.display())).and_then(|()| durable::sync_folder_of(&path))
            }
        }
    }

    /// The file's content.
    pub(super) fn text(&self, firmware: &Path) -> Result<String> {
        let trial = self.trial.as_ref().map_or(String::new(), Trial::text);
        let own = pair::own_lines(&firmware.join(&self.boots))?;
        let end = if own.is_empty() || own.ends_with('\n') { "" } else { "\n" };
        Ok(format!("{trial}{PREFIX}{}/\n{COMMON}{own}{end}", self.boots))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::pair;
    use super::{Switch, Trial};

    #[test]
    fn what_is_written_is_read_again_with_the_lines_of_the_pair_that_boots() {
        let folder = tempfile::tempdir().unwrap();
        let firmware = folder.path();
        for (name, lines) in [("6.12-aa", "dtoverlay=disable-wifi"), ("6.13-bb", "")] {
            fs::create_dir(firmware.join(name)).unwrap();
            fs::write(firmware.join(name).join(pair::OWN_LINES), lines).unwrap();
        }
        assert_eq!(Switch::read(firmware).unwrap(), None);
        let text = || fs::read_to_string(firmware.join("config.txt")).unwrap();
        let mut switch = Switch::to("6.12-aa");
        for trial in [
            None,
            Some(Trial::of("6.13-bb", "6.12-aa")),
            Some(Trial { keyless: 2, undecided: true, ..Trial::of("6.13-bb", "6.12-aa") }),
        ] {
            switch.trial = trial;
            switch.write(firmware).unwrap();
            assert_eq!(Switch::read(firmware).unwrap(), Some(switch.clone()));
            assert!(text().contains("os_prefix=6.12-aa/\n") && text().ends_with("\ndtoverlay=disable-wifi\n"), "{}", text());
        }
        assert!(text().starts_with("# on trial, and what boots unless it comes up: 6.13-bb 6.12-aa 2 undecided\n"), "{}", text());
        Switch::to("6.13-bb").write(firmware).unwrap();
        assert!(text().ends_with("kernel=u-boot.bin\n"), "{}", text());
        assert_eq!(Switch::parse("kernel=u-boot.bin\n"), None);
        assert_eq!(
            Switch::parse("os_prefix=6.12-aa/\nos_prefix=6.13-bb/\n"),
            Some(Switch::to("6.13-bb")),
            "the last line counts"
        );
    }
}
