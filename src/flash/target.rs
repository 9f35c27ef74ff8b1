//! What is written to: a card, a stick, or a file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use crate::amount::amount;
use crate::devices;
use crate::log::printable;
use crate::{mounts, process};

/// Opens it for nobody else to use meanwhile (open(2): on a block device, `O_EXCL` without `O_CREAT` fails while it is in use).
const O_EXCL: i32 = OFlag::O_EXCL.bits();

/// A place that an image can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    /// Of a file without an image yet: as much as wanted.
    size: u64,
    /// What the kernel knows of a disk; none of a file.
    disk: Option<Disk>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    model: Option<String>,
    serial: Option<String>,
    whole: bool,
    removable: bool,
    read_only: bool,
    /// What uses it, in words.
    uses: Vec<String>,
}

impl Target {
    /// Looks at what is there.
    ///
    /// # Errors
    /// There is nothing, or it can't be looked at.
    pub(super) fn look(path: &Path) -> Result<Self> {
        let looking = || format!("looking at {}", path.display());
        let path = path.canonicalize().with_context(looking)?;
        let kind = fs::metadata(&path).with_context(looking)?.file_type();
        ensure!(kind.is_block_device() || kind.is_file(), "{}: it is neither a disk nor a file", looking());
        if kind.is_file() {
            let size = fs::metadata(&path).with_context(looking)?.len();
            return Ok(Self { path, size, disk: None });
        }
        let name = path.file_name().context("it has no name").with_context(looking)?;
        let sys = Path::new("/sys/class/block").join(name).canonicalize().with_context(looking)?;
        let text = |file: &str| fs::read_to_string(sys.join(file)).map(|text| text.trim().to_owned()).ok();
        let sectors: u64 = text("size").and_then(|size| size.parse().ok()).context("the kernel doesn't say how large it is")?;
        let known = devices::by_node(&path).ok().flatten();
        let disk = Disk {
            model: known.as_ref().and_then(|block| block.model.clone()).or_else(|| text("device/model")),
            serial: known.and_then(|block| block.serial),
            whole: !sys.join("partition").exists(),
            removable: text("removable").as_deref() == Some("1")
                || sys.iter().any(|part| part.as_encoded_bytes().starts_with(b"usb"))
                || text("device/type").as_deref() == Some("SD"),
            read_only: text("ro").as_deref() == Some("1"),
            uses: uses(&sys)?,
        };
        Ok(Self { path, size: sectors * 512, disk: Some(disk) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes it takes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a person knows it by.
    pub fn name(&self) -> String {
        let of_disk = self.disk.iter().flat_map(|disk| [disk.model.as_deref(), disk.serial.as_deref()]).flatten();
        let words: Vec<String> = of_disk.map(|word| printable(word.as_bytes())).collect();
        format!("{} ({}, {})", words.join(" "), self.path.display(), amount(self.size)).trim_start().to_owned()
    }

    /// # Errors
    /// It isn't to be written to; `really` is the path that its owner names as the one that is meant.
    pub(super) fn refuse(&self, really: Option<&Path>) -> Result<()> {
        let path = self.path.display();
        let named = really.map(|really| really.canonicalize().unwrap_or_else(|_| really.to_owned()));
        if let Some(named) = &named {
            ensure!(*named == self.path, "flashing {path}: --yes-really names {}, which is another one", named.display());
        }
        let Some(disk) = &self.disk else {
            ensure!(named.is_some(), "flashing {path}: it is a file\nhint: --yes-really {path} writes over it");
            return Ok(());
        };
        ensure!(disk.whole, "flashing {path}: it is a part of a disk\nhint: name the whole disk");
        ensure!(disk.uses.is_empty(), "flashing {path}: it is in use: {}\nhint: unmount it first", disk.uses.join(", "));
        ensure!(!disk.read_only, "flashing {path}: it is read-only\nhint: is the card's lock at its side set?");
        ensure!(self.size > 0, "flashing {path}: it has no size\nhint: is there a card in the reader?");
        ensure!(
            disk.removable || named.is_some(),
            "flashing {path}: {} isn't a card or a stick, which can be taken out\nhint: --yes-really {path} writes over it all the same",
            self.name()
        );
        Ok(())
    }

    /// # Errors
    /// It is too small for so many bytes.
    pub(super) fn require(&self, bytes: u64) -> Result<()> {
        ensure!(
            self.size >= bytes,
            "flashing {}: the image has {} or more, and it takes {}\nhint: take a larger one, or make `[image] size` smaller",
            self.path.display(),
            amount(bytes),
            amount(self.size)
        );
        Ok(())
    }

    /// Opens it for this work alone.
    pub(super) fn open(&self) -> Result<File> {
        let exclusive = if self.disk.is_some() { O_EXCL } else { 0 };
        let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(&self.path);
        opened.with_context(|| {
            format!("opening {}\nhint: only root may write to disks, and none that is in use", self.path.display())
        })
    }

    /// Has it forget all that is on it; whether it can. A file is emptied.
    pub(super) fn discard(&self) -> Result<bool> {
        if self.disk.is_none() {
            let emptied = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
                file.set_len(0)?;
                file.set_len(self.size)
            });
            emptied.with_context(|| format!("emptying {}", self.path.display()))?;
            return Ok(true);
        }
        let mut command = process::tool("blkdiscard");
        let discarded = command.arg("--force").arg(&self.path).output().context("starting blkdiscard")?;
        if !discarded.status.success() {
            tracing::info!("{} can't discard: {}", self.path.display(), printable(discarded.stderr.trim_ascii()));
        }
        Ok(discarded.status.success())
    }

    /// Has the system read it from the card next time, and not from memory.
    pub(super) fn forget(&self, card: &File) -> Result<()> {
        card.sync_all().with_context(|| format!("waiting until {} has what was written", self.path.display()))?;
        posix_fadvise(card, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .with_context(|| format!("having {} read from the card itself", self.path.display()))
    }

    /// Has the kernel look at the new partitions; it does when the card is put in, at the latest.
    pub(super) fn announce(&self) {
        if self.disk.is_some() {
            let _ = process::tool("blockdev").arg("--rereadpt").arg(&self.path).output();
        }
    }
}

/// What uses a disk or one of its partitions: mounts, swap, and devices made of it.
fn uses(sys: &Path) -> Result<Vec<String>> {
    let looking = || format!("looking what uses {}", sys.display());
    let mut parts = vec![sys.to_owned()];
    for entry in fs::read_dir(sys).with_context(looking)? {
        let path = entry.with_context(looking)?.path();
        if path.join("partition").exists() {
            parts.push(path);
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut uses = Vec::new();
    for part in parts {
        let number = fs::read_to_string(part.join("dev")).with_context(looking)?;
        let places = mounts::places_of(number.trim())?;
        uses.extend(places.iter().map(|place| format!("it is mounted at {}", printable(place))));
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let node = format!("/dev/{name}");
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(node.as_str())) {
            uses.push(format!("{node} is swap"));
        }
        let holders = fs::read_dir(part.join("holders")).into_iter().flatten().flatten();
        uses.extend(holders.map(|holder| format!("{} is made of it", holder.file_name().to_string_lossy())));
    }
    Ok(uses)
}
