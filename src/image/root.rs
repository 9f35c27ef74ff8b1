//! The root file system: the tree with everything laid over it, as an ext4 image.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::namespace;
use super::payload::BLOCK_SIZE;
use super::tools::Tools;
use crate::config::Config;
use crate::harden::sshd;
use crate::kernel::baseline::{self, Baseline};
use crate::process;

const TREE: &str = include_str!("../../image/stages/tree.sh");
const FILE_SYSTEM: &str = include_str!("../../image/stages/root.sh");

/// What the stages leave in the work folder.
pub struct Root {
    work: PathBuf,
    epoch: u64,
    /// A tree with all that the firmware partition is made of, and what the kernel says of its drivers.
    pub kernel: PathBuf,
    /// The Debian packages: name, version and architecture, separated by tabs, one a line.
    pub packages: String,
    /// What sshd makes of its settings for the admin, as `sshd -T` prints it.
    pub sshd: String,
}

/// Makes the tree of a root file system from archives laid over one another, for the admin that `config` names. `segment` goes
/// behind each initramfs; no file is younger than `epoch`, in seconds since 1970.
pub fn lay(work: &Path, config: &Config, epoch: u64, segment: &[u8], archives: &[&Path]) -> Result<Root> {
    let segment_path = work.join("segment.cpio");
    fs::write(&segment_path, segment).with_context(|| format!("writing {}", segment_path.display()))?;
    let (admin, whom) = (&config.admin.user, sshd::whom(config));
    let time = epoch.to_string();
    let mut arguments = vec![work.as_os_str(), admin.as_ref(), whom.as_ref(), time.as_ref(), segment_path.as_os_str()];
    arguments.extend(archives.iter().map(|archive| archive.as_os_str()));
    namespace::run(TREE, arguments, "laying out the root file system")?;
    let read = |name: &str| {
        let path = work.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(Root { work: work.to_owned(), epoch, kernel: work.join("kernel"), packages: read("packages")?, sshd: read("sshd")? })
}

impl Root {
    /// The tree, until it is packed.
    pub fn tree(&self) -> PathBuf {
        self.work.join("tree")
    }

    /// Where the firmware partition's files go; not there yet.
    pub fn firmware(&self) -> PathBuf {
        self.work.join("firmware")
    }

    /// Makes the ext4 image, of `size` bytes, with the baseline of the firmware partition in it. The tree is gone then.
    pub fn pack(&self, tools: &Tools, size: u64, uuid: Uuid, baseline: &Baseline) -> Result<PathBuf> {
        let kept = self.work.join("baseline");
        fs::write(&kept, baseline.to_json()?).with_context(|| format!("writing {}", kept.display()))?;
        let (kib, uuid, epoch) = ((size / 1024).to_string(), uuid.to_string(), self.epoch.to_string());
        let mut arguments: Vec<&OsStr> =
            vec![self.work.as_os_str(), kib.as_ref(), uuid.as_ref(), epoch.as_ref(), kept.as_os_str(), baseline::PATH.as_ref()];
        let mke2fs = tools.words("mke2fs")?;
        arguments.extend(mke2fs.iter().map(OsString::as_os_str));
        namespace::run(FILE_SYSTEM, arguments, "making the root file system")?;
        namespace::remove(&self.tree())?;
        Ok(self.work.join("root.ext4"))
    }
}

/// The blocks that a file system uses, as ranges of block numbers: all but those that dumpe2fs(8) calls free.
pub fn used_blocks(mut dumpe2fs: Command, ext4: &Path, size: u64) -> Result<Vec<Range<u64>>> {
    let doing = "reading which blocks the root file system uses";
    let dump = process::output(dumpe2fs.env("LC_ALL", "C").arg(ext4), doing)?;
    let free = free_blocks(&String::from_utf8_lossy(&dump)).context(doing)?;
    Ok(between(&free, size / BLOCK_SIZE as u64))
}

/// The `Free blocks: 12-34, 56` lines of the block groups, in ascending order.
fn free_blocks(dump: &str) -> Result<Vec<Range<u64>>> {
    let groups = dump.split_once("\nGroup 0:").context("dumpe2fs named no block group")?.1;
    let lines = groups.lines().filter_map(|line| line.trim().strip_prefix("Free blocks:"));
    let items = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let number = |text: &str| text.parse::<u64>().with_context(|| format!("dumpe2fs wrote {item:?} for free blocks"));
            Ok(number(first)?..number(last)? + 1)
        })
        .collect()
}

/// What lies between ranges, from 0 to `end`.
fn between(ranges: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let starts = [0].into_iter().chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([end]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{between, free_blocks, used_blocks};
    use crate::process;

    #[test]
    fn free_lists_are_read_and_turned_round() {
        let dump = "Free blocks:              900\n\nGroup 0: (Blocks 0-99)\n  3 free blocks, 2 free inodes\n  Free blocks: 10-19, 30\n  Free inodes: 5-6\n\
            Group 1: (Blocks 100-199)\n  Free blocks: \n  Free inodes: \nGroup 2: (Blocks 200-249)\n  Free blocks: 240-249\n";
        let free = free_blocks(dump).unwrap();
        assert_eq!(free, [10..20, 30..31, 240..250]);
        assert_eq!(between(&free, 250), [0..10, 20..30, 31..240]);
        assert_eq!(between(&[0..3, 5..7], 9), [3..5, 7..9]);
        assert!(free_blocks("Group 0: nothing").is_err());
    }

    #[test]
    fn a_real_file_system_uses_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs");
        let size = 64 << 20;
        File::create(&path).unwrap().set_len(size).unwrap();
        process::run(process::tool("mke2fs").args(["-q", "-t", "ext4", "-b", "4096"]).arg(&path), "making one").unwrap();
        let used: u64 =
            used_blocks(process::tool("dumpe2fs"), &path, size).unwrap().iter().map(|range| range.end - range.start).sum();
        let info = process::output(process::tool("dumpe2fs").arg("-h").arg(&path), "dumping").unwrap();
        let info = String::from_utf8(info).unwrap();
        let number =
            |name: &str| -> u64 { info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap() };
        assert_eq!(used, number("Block count:") - number("Free blocks:"));
    }
}
