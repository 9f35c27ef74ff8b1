//! The firmware partition of an image, at one moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vaultberry::image::disk::{FIRMWARE_SIZE, FIRMWARE_START};
use vaultberry::kernel::pair::verify;
use vaultberry::kernel::switch::{self, Switch};

use crate::support::card::{scratch, tool};

/// A copy of one.
pub struct Firmware {
    folder: TempDir,
}

impl Firmware {
    /// That of an image, as it is now.
    pub fn of(image: &Path) -> Self {
        let folder = scratch();
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", image.display())).arg(format!("of={}", folder.path().join("firmware").display()));
        dd.args(["bs=1M", "conv=sparse", "status=none"]).arg(format!("skip={}", FIRMWARE_START >> 20));
        tool(dd.arg(format!("count={}", FIRMWARE_SIZE >> 20)));
        Self { folder }
    }

    pub fn partition(&self) -> PathBuf {
        self.folder.path().join("firmware")
    }

    /// What boots.
    pub fn switch(&self) -> Switch {
        let config = tool(Command::new("mtype").arg("-i").arg(self.partition()).arg(format!("::{}", switch::NAME))).stdout;
        Switch::parse(&String::from_utf8(config).unwrap()).expect("config.txt names a pair")
    }

    /// The pair that boots, whose files must be whole.
    pub fn boots(&self) -> String {
        let pair = self.switch().boots;
        let tree = self.folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        tool(Command::new("mcopy").args(["-s", "-Q", "-i"]).arg(self.partition()).arg(format!("::{pair}")).arg(&tree));
        verify(&tree.join(&pair)).unwrap();
        fs::remove_dir_all(tree).unwrap();
        pair
    }

    /// What lies in a folder of it.
    pub fn names(&self, folder: &str) -> String {
        let listed = tool(Command::new("mdir").args(["-b", "-i"]).arg(self.partition()).arg(format!("::{folder}"))).stdout;
        String::from_utf8(listed).unwrap()
    }

    /// No file has clusters that count as free: the next one that is written would take them.
    pub fn assert_sound(&self) {
        let checked = Command::new("/usr/sbin/fsck.vfat").arg("-n").arg(self.partition()).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(said.contains(" files, "), "fsck.vfat has looked at all of it: {said} {:?}", checked.stderr);
        assert!(!said.contains("Contains a free cluster") && !said.contains("Truncating"), "{said}");
    }
}
