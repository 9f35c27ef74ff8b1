//! The baseline of the firmware partition: what each file was when vaultberry last wrote to it.
//!
//! The partition can't be encrypted, since the board reads it before there is a key. Whoever has the card for a minute can put
//! another initramfs there. So the sums of all files are kept on the encrypted root, and held against what is found. Only our own
//! writes change the baseline, file by file. What somebody else has changed by then is kept as an alarm, until a person has seen it:
//! an update may remove the file, or take it over into what it makes.
//!
//! It proves what it finds, and not what it doesn't: a changed initramfs that has the key by then can change the baseline as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::switch::{self, Switch};
use crate::log::printable;
use crate::{digest, durable};

/// Where it is kept.
pub const PATH: &str = "/var/lib/vaultberry/firmware.json";

/// The folder that holds what its owner reads, and each boot mends.
const MENDED: &str = "vaultberry";

/// The files of a firmware partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Each by its path, with its SHA-256.
    files: BTreeMap<String, String>,
    /// What `config.txt` said: the boot loader and the initramfs write it, too, while a pair is on trial.
    config: Option<String>,
    /// Whether we were about to write to the partition, and never came to the end.
    #[serde(default)]
    cut_short: bool,
    /// What was different when we wrote, a line each.
    #[serde(default)]
    alarms: BTreeSet<String>,
}

/// How many differences are told: whoever made them has made as many as they liked.
const MOST_TOLD: usize = 20;

impl Baseline {
    /// That of a partition as it is now.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn take(firmware: &Path) -> Result<Self> {
        let mut taken = Self { config: fs::read_to_string(firmware.join(switch::NAME)).ok(), ..Self::default() };
        taken.walk(firmware, "")?;
        Ok(taken)
    }

    fn walk(&mut self, folder: &Path, above: &str) -> Result<()> {
        let reading = || format!("reading {}", folder.display());
        for entry in fs::read_dir(folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let name = format!("{above}{}", entry.file_name().to_string_lossy());
            if name == MENDED || is_left_by_a_power_cut(&name) {
                continue;
            }
            if entry.path().is_dir() {
                self.walk(&entry.path(), &format!("{name}/"))?;
            } else {
                self.files.insert(name, digest::sha256_of(&entry.path())?);
            }
        }
        Ok(())
    }

    /// Reads the one that is kept; none where there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            bytes => {
                let reading = || format!("reading {}", path.display());
                serde_json::from_slice(&bytes.with_context(reading)?).with_context(reading)
            }
        }
    }

    /// The file's content.
    ///
    /// # Errors
    /// None that could be thought of.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("putting the baseline into JSON")
    }

    /// Keeps it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        durable::write(path, &self.to_json()?, 0o600)
    }

    /// What is different on the partition, a line each; none where it is as it was.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn differences(&self, firmware: &Path) -> Result<Vec<String>> {
        let mut all: Vec<String> = self.all_differences(firmware)?.into_iter().collect();
        let more = all.len().saturating_sub(MOST_TOLD);
        if more > 0 {
            all.truncate(MOST_TOLD);
            all.push(format!("and {more} more"));
        }
        Ok(all)
    }

    fn all_differences(&self, firmware: &Path) -> Result<BTreeSet<String>> {
        let now = Self::take(firmware)?;
        let told = |what: &str, name: &String| format!("{} {what}", printable(name.as_bytes()));
        let mut all = self.alarms.clone();
        for (name, sum) in &self.files {
            match now.files.get(name) {
                None => drop(all.insert(told("is gone", name))),
                Some(other) if other != sum && !(name == switch::NAME && self.is_of_trial(&now, firmware)) => {
                    all.insert(told("is changed", name));
                }
                Some(_) => {}
            }
        }
        all.extend(now.files.keys().filter(|name| !self.files.contains_key(*name)).map(|name| told("is new", name)));
        if self.cut_short && !all.is_empty() {
            all.insert("an update of the firmware partition was cut short".to_owned());
        }
        Ok(all)
    }

    /// Whether `config.txt` is what boot loader or initramfs make of it in the trial that was under way.
    fn is_of_trial(&self, now: &Self, firmware: &Path) -> bool {
        let switch = |text: &Option<String>| Switch::parse(text.as_deref()?);
        let (Some(before), Some(after)) = (switch(&self.config), switch(&now.config)) else { return false };
        let (Some(known), Some(found)) = (&before.trial, &after.trial) else { return false };
        let same = (&known.new, &known.old) == (&found.new, &found.old);
        same && [&found.new, &found.old].contains(&&after.boots) && after.text(firmware).ok() == now.config
    }

    /// Does `work`, which writes to the partition, and takes what it has changed into the baseline at `path`. Where there was none
    /// it begins with what is there.
    ///
    /// # Errors
    /// Those of `work`; or the partition can't be read, or the baseline not written.
    pub fn follow<T>(path: &Path, firmware: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = Self::take(firmware)?;
        let mut kept = Self::read(path)?.unwrap_or_else(|| before.clone());
        let different = kept.all_differences(firmware)?;
        let was_cut_short = kept.cut_short && !different.is_empty();
        kept.alarms.extend(different.into_iter().take(MOST_TOLD));
        kept.cut_short = true;
        kept.write(path)?;
        let done = work();
        let after = Self::take(firmware)?;
        for name in before.files.keys().chain(after.files.keys()) {
            match (before.files.get(name), after.files.get(name)) {
                (old, new) if old == new => {}
                (_, Some(new)) => drop(kept.files.insert(name.clone(), new.clone())),
                (_, None) => drop(kept.files.remove(name)),
            }
        }
        if before.config != after.config {
            kept.config.clone_from(&after.config);
        }
        kept.cut_short = was_cut_short;
        kept.write(path)?;
        done
    }
}

/// Names that a boot never looks at: what we write before it is renamed, and what fsck.vfat finds.
fn is_left_by_a_power_cut(name: &str) -> bool {
    let found = name.strip_prefix("FSCK").and_then(|rest| rest.strip_suffix(".REC"));
    Path::new(name).extension().is_some_and(|end| end == "part")
        || found.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use anyhow::bail;
    use tempfile::TempDir;

    use super::super::switch::{Switch, Trial};
    use super::super::trial::{begin, leave_undecided};
    use super::Baseline;

    /// A partition with two pairs, the second of which is on trial, and its baseline.
    fn scene() -> (TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (firmware, path) = (folder.path().join("firmware"), folder.path().join("firmware.json"));
        for pair in ["old", "new"] {
            fs::create_dir_all(firmware.join(pair)).unwrap();
            fs::write(firmware.join(pair).join("initrd.img"), pair).unwrap();
        }
        Baseline::follow(&path, &firmware, || {
            Switch { boots: "new".to_owned(), trial: Some(Trial::of("new", "old")) }.write(&firmware)
        })
        .unwrap();
        (folder, firmware, path)
    }

    fn differences(path: &Path, firmware: &Path) -> Vec<String> {
        Baseline::read(path).unwrap().unwrap().differences(firmware).unwrap()
    }

    #[test]
    fn what_somebody_else_changes_is_told_and_no_update_of_ours_hides_it() {
        let (_folder, firmware, path) = scene();
        assert!(differences(&path, &firmware).is_empty());
        fs::create_dir(firmware.join("vaultberry")).unwrap();
        fs::write(firmware.join("vaultberry/source-key.pub"), "mended").unwrap();
        assert!(differences(&path, &firmware).is_empty());
        fs::write(firmware.join("old/initrd.img"), "evil").unwrap();
        fs::write(firmware.join("extra\u{1b}"), "").unwrap();
        fs::remove_file(firmware.join("new/initrd.img")).unwrap();
        let told = ["extra\\u{1b} is new", "new/initrd.img is gone", "old/initrd.img is changed"];
        assert_eq!(differences(&path, &firmware), told);
        let write = |name: &str| Ok(fs::write(firmware.join(name), "ours")?);
        Baseline::follow(&path, &firmware, || write("start4.elf")).unwrap();
        assert_eq!(differences(&path, &firmware), told);
        // Also when we write over it, or remove it.
        Baseline::follow(&path, &firmware, || write("old/initrd.img")).unwrap();
        fs::remove_dir_all(firmware.join("old")).unwrap();
        let mut all = differences(&path, &firmware);
        assert!(told.iter().all(|line| all.iter().any(|other| other == line)), "{all:?}");
        // Many of them are told in few words.
        (0..100).for_each(|number| fs::write(firmware.join(format!("junk{number}")), "").unwrap());
        all = differences(&path, &firmware);
        assert_eq!((all.len(), all[20].as_str()), (21, "and 84 more"));
    }

    #[test]
    fn what_a_power_cut_leaves_is_no_alarm() {
        let (_folder, firmware, path) = scene();
        for name in ["FSCK0000.REC", "config.txt.part", "new/kernel.part"] {
            fs::write(firmware.join(name), "").unwrap();
        }
        fs::create_dir(firmware.join("third.part")).unwrap();
        fs::write(firmware.join("third.part/initrd.img"), "").unwrap();
        assert!(differences(&path, &firmware).is_empty());
    }

    #[test]
    fn what_a_trial_makes_of_config_txt_is_no_alarm_and_anything_else_is() {
        let (_folder, firmware, path) = scene();
        begin(&firmware, "new").unwrap();
        assert!(differences(&path, &firmware).is_empty(), "given back to the old pair");
        leave_undecided(&firmware, "new").unwrap();
        assert!(differences(&path, &firmware).is_empty(), "no key came");
        let config = firmware.join("config.txt");
        let text = fs::read_to_string(&config).unwrap();
        let told = ["config.txt is changed"];
        fs::write(&config, format!("{text}initramfs evil.img\n")).unwrap();
        assert_eq!(differences(&path, &firmware), told);
        fs::write(&config, text.replace("os_prefix=old/", "os_prefix=evil/")).unwrap();
        assert_eq!(differences(&path, &firmware), told);
        // Without a trial nobody else writes it.
        Baseline::follow(&path, &firmware, || Switch::to("new").write(&firmware)).unwrap();
        fs::write(&config, text).unwrap();
        assert_eq!(differences(&path, &firmware), told);
    }

    #[test]
    fn a_write_that_fails_is_followed_and_one_that_is_cut_short_is_told() {
        let (_folder, firmware, path) = scene();
        let failed = Baseline::follow(&path, &firmware, || -> anyhow::Result<()> {
            fs::write(firmware.join("half"), "").unwrap();
            bail!("the card is full")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the card is full");
        assert!(differences(&path, &firmware).is_empty());
        // As a power cut leaves it.
        let mut kept = Baseline::read(&path).unwrap().unwrap();
        kept.cut_short = true;
        kept.write(&path).unwrap();
        assert!(differences(&path, &firmware).is_empty());
        fs::write(firmware.join("more"), "").unwrap();
        assert_eq!(differences(&path, &firmware), ["an update of the firmware partition was cut short", "more is new"]);
    }
}
