//! The proof that a kernel with its initramfs can open root: the initramfs holds what it must and no key, and with it each
//! board drives its SD card, USB ports, LED and watchdog. After each build, and before each kernel that an update brings.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::boards::Target;
use super::drivers;
use super::inspect::{Expectation, FILES, Initramfs, PROGRAMS};
use super::modules::{self, Kernel};
use super::tree::Tree;
use crate::secret::Secret;
use crate::unlock::settings::{PATH, Settings};

const MODULES: &str = include_str!("../../initramfs/modules");

/// What a proof needs to know beside the tree.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The LUKS UUID of the root to open.
    pub root: Uuid,
    /// What may stand nowhere in the initramfs, each with the name that a finding gives it.
    pub secrets: Vec<(String, Secret<Vec<u8>>)>,
}

/// Checks the kernel of this version in a tree, and names everything that is missing.
///
/// # Errors
/// It could not boot everywhere, or a file of it can't be read.
pub fn check(tree: &Tree, version: &str, wanted: &Wanted) -> Result<()> {
    let target = tree.target()?;
    let kernel = Kernel::read(tree.root(), version)?;
    let path = tree.initrd(version);
    let initrd = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let initramfs = Initramfs::read(&initrd).with_context(|| format!("reading {}", path.display()))?;
    let mut faults = BTreeSet::new();
    let findings = initramfs.inspect(&expectation(&kernel, version, target, wanted)?)?;
    faults.extend(findings.iter().map(ToString::to_string));
    faults.extend(wrong_root(&initramfs, wanted.root));
    for board in target.boards() {
        let path = tree.device_tree(version, board.device_tree);
        let device_tree = fs::read(&path).with_context(|| format!("reading the device tree {}", path.display()))?;
        let missing = drivers::check(&kernel, board, &device_tree, &initramfs.modules())?;
        faults.extend(missing.iter().map(ToString::to_string));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = faults.into_iter().collect();
    bail!("it could not boot everywhere:\n  {}", list.join("\n  "))
}

fn expectation(kernel: &Kernel, version: &str, target: Target, wanted: &Wanted) -> Result<Expectation> {
    let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
    let mut expectation = Expectation { programs: owned(PROGRAMS), files: owned(FILES), ..Expectation::default() };
    // The initramfs of another kernel has modules, too, but none that this one takes.
    expectation.files.push(format!("usr/lib/modules/{version}/modules.dep"));
    expectation.modules = kernel.closure(&modules::list(&target.modules(MODULES)))?;
    expectation.secrets.clone_from(&wanted.secrets);
    Ok(expectation)
}

/// What is wrong with the settings in the initramfs.
fn wrong_root(initramfs: &Initramfs, root: Uuid) -> Option<String> {
    let entry = initramfs.get(PATH.trim_start_matches('/'))?;
    match Settings::parse(&String::from_utf8_lossy(&entry.content)) {
        Ok(settings) if settings.luks_uuid == root => None,
        Ok(settings) => Some(format!("{PATH} in the initramfs is for the root {}, and this is {root}", settings.luks_uuid)),
        Err(error) => Some(format!("{PATH} in the initramfs can't be read: {error:#}")),
    }
}
