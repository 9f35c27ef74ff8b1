//! Kernels on the appliance: installs them after each update, ends their trials, and remembers what the owner must know.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::baseline::{self, Baseline};
use super::firmware;
use super::inspect::MIN_SECRET;
use super::install::{Installed, Request, install};
use super::note::{self, Note};
use super::proof::{self, Wanted};
use super::tree::Tree;
use super::trial::{self, Settled};
use crate::secret::Secret;
use crate::unlock::settings::{self, Settings};

/// What to do when the firmware partition isn't as it was written.
pub const CHANGED_HINT: &str = "was that you, or an update that was cut short? then `vaultberry kernel check --accept`; if not, don't \
    plug the stick in again, and flash a new card: the guide `dead-card.md` tells how";

/// The appliance's root and firmware partition.
#[derive(Clone, Debug)]
pub struct Appliance {
    root: PathBuf,
    /// None is this machine's own, which must be mounted whenever it is used.
    firmware: Option<PathBuf>,
    booted: Option<String>,
}

impl Appliance {
    /// The one that this runs on.
    ///
    /// # Errors
    /// The kernel's command line can't be read.
    pub fn here() -> Result<Self> {
        Ok(Self { root: PathBuf::from("/"), firmware: None, booted: trial::booted()? })
    }

    /// One whose card is in another machine, with both file systems mounted.
    pub fn at(root: &Path, firmware: &Path) -> Self {
        Self { root: root.to_owned(), firmware: Some(firmware.to_owned()), booted: None }
    }

    /// The firmware partition.
    ///
    /// # Errors
    /// It isn't mounted.
    pub fn firmware(&self) -> Result<PathBuf> {
        self.firmware.clone().map_or_else(firmware::mounted, Ok)
    }

    /// What is remembered.
    ///
    /// # Errors
    /// It can't be read.
    pub fn note(&self) -> Result<Note> {
        Note::read(&self.note_path())
    }

    fn note_path(&self) -> PathBuf {
        below(&self.root, note::PATH)
    }

    /// Installs a kernel, the newest unless `version` says another. With `again` also one that didn't come up before.
    ///
    /// # Errors
    /// It can't be installed; why is remembered for the report. What boots is as it was.
    pub fn install(&self, version: Option<&str>, again: bool) -> Result<Installed> {
        let installed = self.try_to_install(version, again);
        let mut note = self.note()?;
        note.problem = installed.as_ref().err().map(|error| format!("{error:#}"));
        if let Ok(Installed::Armed(trial)) = &installed {
            note.failed.retain(|pair| *pair != trial.new);
        }
        note.write(&self.note_path())?;
        installed
    }

    fn try_to_install(&self, version: Option<&str>, again: bool) -> Result<Installed> {
        let firmware = self.firmware()?;
        let _lock = lock(&firmware)?;
        self.settle_in(&firmware)?;
        let failed = if again { Vec::new() } else { self.note()?.failed };
        let (tree, wanted) = (Tree::at(&self.root), self.wanted()?);
        let request = Request { tree: &tree, firmware: &firmware, version, failed: &failed };
        Baseline::follow(&self.baseline_path(), &firmware, || install(&request, |version| proof::check(&tree, version, &wanted)))
    }

    /// Ends the trial of the pair that runs now, or of the one before it.
    ///
    /// # Errors
    /// The firmware partition or the note can't be read or written.
    pub fn settle(&self) -> Result<Settled> {
        let firmware = self.firmware()?;
        let _lock = lock(&firmware)?;
        self.settle_in(&firmware)
    }

    fn settle_in(&self, firmware: &Path) -> Result<Settled> {
        let Some(booted) = &self.booted else { return Ok(Settled::Nothing) };
        // The note comes first: what is remembered twice does no harm.
        let settled = trial::outcome(firmware, booted)?;
        let mut note = self.note()?;
        match &settled {
            Settled::Nothing => return Ok(settled),
            Settled::Proven(_) | Settled::Again(_) => note.problem = None,
            Settled::Failed(new, old) => {
                note.problem = Some(format!("{new} didn't come up, and {old} boots again"));
                note.failed(new);
            }
        }
        note.write(&self.note_path())?;
        Baseline::follow(&self.baseline_path(), firmware, || trial::settle(firmware, booted))
    }

    fn baseline_path(&self) -> PathBuf {
        below(&self.root, baseline::PATH)
    }

    /// What is on the firmware partition and wasn't written by us, a line each. Where no baseline was kept, that is the line, and it
    /// begins with what is there.
    ///
    /// # Errors
    /// The firmware partition or the baseline can't be read.
    pub fn tampered(&self) -> Result<Vec<String>> {
        let firmware = self.firmware()?;
        let _lock = lock(&firmware)?;
        self.tampered_in(&firmware)
    }

    fn tampered_in(&self, firmware: &Path) -> Result<Vec<String>> {
        let path = self.baseline_path();
        let hint =
            "knowing what was written to the firmware partition\nhint: `vaultberry kernel check --accept` begins a new baseline";
        if let Some(baseline) = Baseline::read(&path).context(hint)? {
            return baseline.differences(firmware);
        }
        Baseline::take(firmware)?.write(&path)?;
        Ok(vec![format!("{} was not there: nobody knows what is new, and it begins with what is there now", baseline::PATH)])
    }

    /// Takes the firmware partition as it is for right from now on, and gives what was different.
    ///
    /// # Errors
    /// The firmware partition can't be read, or the baseline not be written.
    pub fn accept(&self) -> Result<Vec<String>> {
        let firmware = self.firmware()?;
        let _lock = lock(&firmware)?;
        let accepted = self.tampered_in(&firmware).unwrap_or_else(|error| vec![format!("{error:#}")]);
        Baseline::take(&firmware)?.write(&self.baseline_path())?;
        Ok(accepted)
    }

    fn wanted(&self) -> Result<Wanted> {
        let settings = Settings::read(&below(&self.root, settings::PATH))?;
        Ok(Wanted { root: settings.luks_uuid, secrets: self.secrets()? })
    }

    /// The keys that lie on root.
    fn secrets(&self) -> Result<Vec<(String, Secret<Vec<u8>>)>> {
        let folder = below(&self.root, "/etc/vaultberry/keys");
        let reading = || format!("reading the keys in {}", folder.display());
        let mut secrets = Vec::new();
        for entry in fs::read_dir(&folder).with_context(reading)? {
            let path = entry.with_context(reading)?.path();
            let content = fs::read(&path).map(Secret::new).with_context(|| format!("reading {}", path.display()))?;
            secrets.push((path.display().to_string(), Secret::new(content.expose().trim_ascii().to_vec())));
        }
        secrets.retain(|(_, content)| content.expose().len() >= MIN_SECRET);
        Ok(secrets)
    }
}

/// Two at once would remove each other's files.
fn lock(firmware: &Path) -> Result<Flock<File>> {
    let locking = || format!("locking the firmware partition {}", firmware.display());
    let folder = File::open(firmware).with_context(locking)?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(locking)
}

/// An absolute path, in another root.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
