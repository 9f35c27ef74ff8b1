//! A Debian tree with kernels in it: `/` on the appliance, and what the builder keeps of the tree that it makes.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::boards::Target;

/// Such a tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below this folder.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which boards it is for.
    ///
    /// # Errors
    /// The tree says something else.
    pub fn target(&self) -> Result<Target> {
        Target::of_tree(&self.root)
    }

    /// The kernels that have an initramfs, as `uname -r` calls them, the newest first.
    ///
    /// # Errors
    /// `/boot` can't be read.
    pub fn versions(&self) -> Result<Vec<String>> {
        let kernels = names(&self.root.join("boot"))?;
        let mut versions: Vec<String> =
            kernels.iter().filter_map(|name| name.strip_prefix("vmlinuz-")).map(str::to_owned).collect();
        versions.retain(|version| self.initrd(version).exists());
        versions.sort_by(|one, other| compare(other, one));
        Ok(versions)
    }

    /// The kernel.
    pub fn kernel(&self, version: &str) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{version}"))
    }

    /// Its initramfs.
    pub fn initrd(&self, version: &str) -> PathBuf {
        self.root.join("boot").join(format!("initrd.img-{version}"))
    }

    /// A device tree of a Raspberry Pi, where Debian's kernel package has it.
    pub fn device_tree(&self, version: &str, name: &str) -> PathBuf {
        self.root.join("usr/lib").join(format!("linux-image-{version}")).join("broadcom").join(name)
    }

    /// The device trees of its boards, as far as this kernel has them.
    ///
    /// # Errors
    /// The tree's boards can't be read.
    pub fn device_trees(&self, version: &str) -> Result<Vec<PathBuf>> {
        let paths = self.target()?.boards().map(|board| self.device_tree(version, board.device_tree));
        Ok(paths.filter(|path| path.exists()).collect())
    }

    /// The boards' own boot programs, as raspi-firmware brings them: names below the firmware partition, and where they are.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn boot_programs(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let folder = self.root.join("usr/lib/raspi-firmware");
        let target = self.target()?;
        let mut files = Vec::new();
        for name in names(&folder)?.into_iter().filter(|name| target.starts_by(name)) {
            let path = folder.join(&name);
            if path.is_dir() {
                files.extend(names(&path)?.into_iter().map(|below| (Path::new(&name).join(&below), path.join(&below))));
            } else {
                files.push((PathBuf::from(&name), path));
            }
        }
        Ok(files)
    }

    /// Debian's build of U-Boot for 64-bit Raspberry Pis.
    pub fn boot_loader(&self) -> PathBuf {
        self.root.join("usr/lib/u-boot/rpi_arm64/u-boot.bin")
    }

    /// A file below `/etc/default` that its owner may have written for raspi-firmware; empty where it isn't there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn setting(&self, name: &str) -> Result<String> {
        let path = self.root.join("etc/default").join(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            text => text.with_context(|| format!("reading {}", path.display())),
        }
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading the folder {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        names.extend(entry.with_context(reading)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Compares versions as `sort -V` does: runs of digits by their value, all else as text.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (text, digits, rest) = head(one);
        let (other_text, other_digits, other_rest) = head(other);
        let by_length = digits.len().cmp(&other_digits.len());
        let order = text.cmp(other_text).then(by_length).then(digits.cmp(other_digits));
        if order != Ordering::Equal || (rest.is_empty() && other_rest.is_empty()) {
            return order;
        }
        (one, other) = (rest, other_rest);
    }
}

/// The text before the first digits, these digits without leading zeros, and the rest.
fn head(version: &str) -> (&str, &str, &str) {
    let start = version.find(|letter: char| letter.is_ascii_digit()).unwrap_or(version.len());
    let (text, rest) = version.split_at(start);
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    (text, rest[..end].trim_start_matches('0'), &rest[end..])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Tree, compare};

    #[test]
    fn newer_kernels_come_first_and_those_without_an_initramfs_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("boot")).unwrap();
        for name in ["6.9.1+deb13-arm64", "6.12.117+deb13-arm64", "6.12.9+deb13-arm64", "6.12.9+deb13-rt-arm64", "7.0-arm64"] {
            fs::write(folder.path().join("boot").join(format!("vmlinuz-{name}")), "").unwrap();
            if !name.starts_with('7') {
                fs::write(folder.path().join("boot").join(format!("initrd.img-{name}")), "").unwrap();
            }
        }
        let wanted = ["6.12.117+deb13-arm64", "6.12.9+deb13-rt-arm64", "6.12.9+deb13-arm64", "6.9.1+deb13-arm64"];
        assert_eq!(Tree::at(folder.path()).versions().unwrap(), wanted);
        assert_eq!(compare("6.12", "6.12"), std::cmp::Ordering::Equal);
        assert_eq!(compare("6.12", "6.012.1"), std::cmp::Ordering::Less);
    }
}
