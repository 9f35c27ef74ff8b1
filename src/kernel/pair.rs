//! A kernel and its initramfs, in a folder of their own on the firmware partition: all that a boot reads after `config.txt`.
//!
//! The folder's name is the kernel's version and the beginning of a digest over its content, so that whatever changes gets
//! another folder, and what boots is never written to. It is made as `NAME.part`, read back from the card, and then renamed. Its
//! file `SHA256SUMS` is one that sha256sum(1) checks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use openssl::sha::sha256;

use super::boot_loader;
use super::tree::Tree;
use super::trial::PARAMETER;
use crate::{digest, durable};

/// The kernel's name in a pair's folder.
pub const KERNEL: &str = "vmlinuz";

/// The initramfs' name.
pub const INITRD: &str = "initrd.img";

/// The command line's name, which the Pi's firmware gives it.
pub const COMMAND_LINE: &str = "cmdline.txt";

/// The owner's lines for `config.txt`, as this pair was made with.
pub const OWN_LINES: &str = "own-lines.txt";

/// Below `/etc/default`, where the owner writes them.
const CUSTOM: &str = "raspi-firmware-custom";

/// What leads the firmware past the boot loader, or that past the pair, so that no old pair could mend it.
const RESERVED: [&str; 9] =
    ["=", "arm_64bit=", "cmdline=", "device_tree=", "enable_uart=", "initramfs ", "kernel=", "os_prefix=", "upstream_kernel="];

/// The list of all other files with their sums. A folder without it is no pair.
pub const SUMS: &str = "SHA256SUMS";

/// How much of the digest stands in the name.
const DIGITS: usize = 8;

/// What every kernel is told. A kernel that fails restarts the board, and with it ends its trial.
const ARGUMENTS: &str = "root=/dev/mapper/root rw fsck.repair=yes net.ifnames=0 rootwait panic=10";

/// A pair that isn't on a firmware partition yet.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The folder's name.
    pub name: String,
    /// The kernel's version, as `uname -r` says it.
    pub version: String,
    /// Names in the folder, where each file is now, and its SHA-256.
    files: Vec<(String, PathBuf, String)>,
    boot_loader: Vec<u8>,
    command_line: String,
    own_lines: String,
}

impl Pair {
    /// The pair of a kernel in a tree, started by `boot_loader`.
    ///
    /// # Errors
    /// A file of it can't be read.
    pub fn of(tree: &Tree, version: &str, boot_loader: Vec<u8>) -> Result<Self> {
        let mut files = vec![(KERNEL.to_owned(), tree.kernel(version)), (INITRD.to_owned(), tree.initrd(version))];
        for path in tree.device_trees(version)? {
            let name = path.file_name().and_then(|name| name.to_str()).context("a device tree has a name")?.to_owned();
            files.push((name, path));
        }
        let with_sum = |(name, path): (String, PathBuf)| digest::sha256_of(&path).map(|sum| (name, path, sum));
        let files: Vec<_> = files.into_iter().map(with_sum).collect::<Result<_>>()?;
        let own = tree.setting("raspi-extra-cmdline")?;
        // The last console is where a person types the recovery passphrase over a serial cable; the screen is asked, too.
        let consoles = ["tty0"].into_iter().chain(tree.target()?.consoles()).map(|console| format!("console={console}"));
        let words = [ARGUMENTS].into_iter().chain(own.split_whitespace()).map(str::to_owned);
        let arguments = consoles.chain(words).collect::<Vec<_>>().join(" ");
        let own_lines = tree.setting(CUSTOM)?;
        check_own_lines(&own_lines)?;
        let loader = sum_line(&digest::hex(&sha256(&boot_loader)), boot_loader::NAME);
        let content = format!("{}{loader}{arguments}\n{own_lines}", sums(&files));
        let name = format!("{version}-{}", &digest::hex(&sha256(content.as_bytes()))[..DIGITS]);
        let command_line = format!("{arguments} {PARAMETER}{name}\n");
        Ok(Self { name, version: version.to_owned(), files, boot_loader, command_line, own_lines })
    }

    /// Bytes that the pair takes on the partition.
    ///
    /// # Errors
    /// A file can't be looked at.
    pub fn size(&self) -> Result<u64> {
        let mut size = 4 * CLUSTER + (self.boot_loader.len() as u64).next_multiple_of(CLUSTER);
        for (_, path, _) in &self.files {
            let file = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
            size += file.len().next_multiple_of(CLUSTER);
        }
        Ok(size)
    }

    /// Writes the folder, shows that the card gives back what was written, and gives it its name.
    ///
    /// # Errors
    /// Something can't be read or written, or comes back otherwise. What boots is as it was.
    pub fn write(&self, firmware: &Path) -> Result<()> {
        let folder = firmware.join(&self.name);
        let part = durable::part_name(&folder);
        remove(&part)?;
        fs::create_dir(&part).with_context(|| format!("making the folder {}", part.display()))?;
        for (name, from, _) in &self.files {
            let mut from = File::open(from).with_context(|| format!("reading {}", from.display()))?;
            put(&part.join(name), &mut from)?;
        }
        let mut sums = sums(&self.files);
        let made = [
            (boot_loader::NAME, self.boot_loader.as_slice()),
            (COMMAND_LINE, self.command_line.as_bytes()),
            (OWN_LINES, self.own_lines.as_bytes()),
        ];
        for (name, mut content) in made {
            sums += &sum_line(&digest::hex(&sha256(content)), name);
            put(&part.join(name), &mut content)?;
        }
        put(&part.join(SUMS), &mut sums.as_bytes())?;
        durable::sync_folder_of(&part.join(SUMS))?;
        verify(&part).context("reading back what was written")?;
        remove(&folder)?;
        fs::rename(&part, &folder).with_context(|| format!("renaming {} to {}", part.display(), folder.display()))?;
        durable::sync_folder_of(&folder)
    }
}

/// What a file's size is rounded up to: more than a cluster of a firmware partition has.
const CLUSTER: u64 = 16 << 10;

/// Reads every file of a pair's folder from the card itself, and compares it with its sum.
///
/// # Errors
/// A file isn't there, can't be read, or isn't what it was.
pub fn verify(folder: &Path) -> Result<()> {
    let sums = read_sums(folder)?;
    ensure!(sums.len() > 2, "{} is cut short", folder.join(SUMS).display());
    sums.iter().try_for_each(|(name, sum)| compare(&folder.join(name), sum))
}

/// The same for one file of a pair.
///
/// # Errors
/// As of [`verify`].
pub fn verify_file(path: &Path) -> Result<()> {
    let folder = path.parent().context("a pair's file lies in its folder")?;
    let sums = read_sums(folder)?;
    let (_, sum) = sums
        .iter()
        .find(|(name, _)| path.ends_with(name))
        .with_context(|| format!("{} has no sum in {}", path.display(), folder.join(SUMS).display()))?;
    compare(path, sum)
}

/// Names and sums of a pair's files.
fn read_sums(folder: &Path) -> Result<Vec<(String, String)>> {
    let list = folder.join(SUMS);
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let parse = |line: &str| line.split_once("  ").map(|(sum, name)| (name.to_owned(), sum.to_owned()));
    text.lines().map(parse).collect::<Option<_>>().with_context(|| format!("{} is damaged", list.display()))
}

fn compare(path: &Path, sum: &str) -> Result<()> {
    forget(path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(digest::sha256_of(path)? == sum, "{} isn't what was written to it", path.display());
    Ok(())
}

/// Whether a folder's name is a pair's, complete or not: a kernel's version, which begins with two numbers, and a digest's
/// beginning, or `.part` behind that. A folder of the owner's must not be taken for one.
pub fn is_name(name: &str) -> bool {
    let name = name.strip_suffix(".part").unwrap_or(name);
    let (version, digest) = name.rsplit_once('-').unwrap_or_default();
    let (major, minor) = version.split_once('.').unwrap_or_default();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number(major)
        && minor.starts_with(|first: char| first.is_ascii_digit())
        && digest.len() == DIGITS
        && digest::unhex(digest).is_some()
}

/// The owner's lines for `config.txt` that the pair in `folder` was made with; none where the file is gone.
///
/// # Errors
/// They can't be read.
pub fn own_lines(folder: &Path) -> Result<String> {
    let path = folder.join(OWN_LINES);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.with_context(|| format!("reading {}", path.display())),
    }
}

fn check_own_lines(text: &str) -> Result<()> {
    for (number, line) in text.lines().enumerate() {
        let reserved = RESERVED.iter().find(|start| line.trim_start().starts_with(*start));
        ensure!(
            reserved.is_none(),
            "line {} of /etc/default/{CUSTOM}, `{}`, would lead past what is tried and kept here\nhint: remove it",
            number + 1,
            line.trim()
        );
    }
    Ok(())
}

/// Removes a folder with what is in it, the list of sums first, so that what is left of it is no pair.
///
/// # Errors
/// Something can't be removed.
pub fn remove(folder: &Path) -> Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    };
    gone(fs::remove_file(folder.join(SUMS)))?;
    gone(fs::remove_dir_all(folder))
}

/// Lets the kernel forget what it holds of a file, so that it is read from the card.
fn forget(path: &Path) -> io::Result<()> {
    Ok(posix_fadvise(&File::open(path)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Writes a file whole, and onto the card.
fn put(path: &Path, from: &mut dyn io::Read) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut file = File::create_new(path).with_context(writing)?;
    io::copy(from, &mut file).with_context(writing)?;
    file.flush().and_then(|()| file.sync_all()).with_context(writing)
}

fn sums(files: &[(String, PathBuf, String)]) -> String {
    files.iter().map(|(name, _, sum)| sum_line(sum, name)).collect()
}

fn sum_line(sum: &str, name: &str) -> String {
    format!("{sum}  {name}\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::super::boot_loader;
    use super::super::tree::Tree;
    use super::{COMMAND_LINE, INITRD, Pair, SUMS, is_name, own_lines, verify, verify_file};

    /// A tree with one kernel of this version, whose files say `content`.
    pub(crate) fn tree(root: &Path, version: &str, content: &str) -> Tree {
        let dtbs = root.join("usr/lib").join(format!("linux-image-{version}")).join("broadcom");
        for folder in [&root.join("boot"), &dtbs, &root.join("usr/lib/raspi-firmware/overlays"), &root.join("etc/default")] {
            fs::create_dir_all(folder).unwrap();
        }
        let tree = Tree::at(root);
        for path in [tree.kernel(version), tree.initrd(version), dtbs.join("bcm2711-rpi-4-b.dtb")] {
            fs::write(&path, format!("{} {content}", path.file_name().unwrap().display())).unwrap();
        }
        for name in ["start4.elf", "overlays/README.md"] {
            fs::write(root.join("usr/lib/raspi-firmware").join(name), format!("{name} {content}")).unwrap();
        }
        fs::create_dir_all(tree.boot_loader().parent().unwrap()).unwrap();
        fs::write(tree.boot_loader(), boot_loader::tests::program(600)).unwrap();
        tree
    }

    #[test]
    fn a_pair_has_all_that_a_boot_reads_and_another_name_when_anything_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (root, firmware) = (folder.path().join("root"), folder.path().join("firmware"));
        fs::create_dir(&firmware).unwrap();
        let tree = tree(&root, "6.12-arm64", "one");
        let of = || Pair::of(&tree, "6.12-arm64", b"loader".to_vec()).unwrap();
        let pair = of();
        assert!(pair.name.starts_with("6.12-arm64-") && pair.name.len() == "6.12-arm64-".len() + 8, "{}", pair.name);
        assert_eq!(of().name, pair.name);
        assert_ne!(Pair::of(&tree, "6.12-arm64", b"another".to_vec()).unwrap().name, pair.name);
        pair.write(&firmware).unwrap();
        let written = firmware.join(&pair.name);
        verify(&written).unwrap();
        assert!(Command::new("sha256sum").args(["--check", "--quiet", SUMS]).current_dir(&written).status().unwrap().success());
        let line = fs::read_to_string(written.join(COMMAND_LINE)).unwrap();
        assert!(line.ends_with(&format!(" panic=10 vaultberry.pair={}\n", pair.name)), "{line}");
        assert!(is_name(&pair.name) && is_name(&format!("{}.part", pair.name)));
        assert_eq!(
            ["overlays", "vaultberry", "my-photos", "6.12-arm64", "6.12-1234567G", "photos-20240101"].map(is_name),
            [false; 6]
        );
        assert_eq!(fs::read_dir(&written).unwrap().count(), 7);

        fs::write(root.join("etc/default/raspi-extra-cmdline"), "quiet\nloglevel=3\n").unwrap();
        let other = of();
        assert!(other.name != pair.name && other.command_line.contains(" panic=10 quiet loglevel=3 vaultberry.pair="));

        fs::write(root.join("etc/default/raspi-firmware-custom"), "gpu_mem=16\n").unwrap();
        let third = of();
        assert_ne!(third.name, other.name);
        third.write(&firmware).unwrap();
        assert_eq!(own_lines(&firmware.join(&third.name)).unwrap(), "gpu_mem=16\n");

        fs::write(root.join("etc/default/raspi-firmware-custom"), "gpu_mem=16\n kernel=mine.img\n").unwrap();
        let error = Pair::of(&tree, "6.12-arm64", Vec::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("line 2 of /etc/default/raspi-firmware-custom, `kernel=mine.img`, would lead past "),
            "{error}"
        );

        verify_file(&written.join(boot_loader::NAME)).unwrap();
        fs::write(written.join(INITRD), "else").unwrap();
        assert!(verify_file(&written.join(INITRD)).is_err() && verify_file(&written.join("start4.elf")).is_err());
        assert!(verify(&written).unwrap_err().to_string().ends_with("initrd.img isn't what was written to it"));
    }
}
