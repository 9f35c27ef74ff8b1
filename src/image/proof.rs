//! The proof, after each build, that what it made can boot: every initramfs holds what it must and no key, and with it
//! each board drives its SD card, USB ports, LED and watchdog.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::boards::BOARDS;
use super::drivers;
use super::inspect::{Expectation, FILES, Initramfs, PROGRAMS};
use super::modules::{self, Kernel};
use super::root::Root;
use crate::keys::secrets::BuildSecrets;

const MODULES: &str = include_str!("../../initramfs/modules");

/// Checks every kernel of the firmware partition, and names everything that is missing.
pub fn check(root: &Root, secrets: &BuildSecrets) -> Result<()> {
    let kernels = kernels(&root.firmware)?;
    ensure!(!kernels.is_empty(), "the firmware partition has no kernel");
    let mut faults = BTreeSet::new();
    for version in kernels {
        check_kernel(root, secrets, &version, &mut faults).with_context(|| format!("looking at the initramfs of {version}"))?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = faults.into_iter().collect();
    bail!("the image could not boot everywhere:\n  {}", list.join("\n  "))
}

fn check_kernel(root: &Root, secrets: &BuildSecrets, version: &str, faults: &mut BTreeSet<String>) -> Result<()> {
    let kernel = Kernel::read(&root.kernel, version)?;
    let path = root.firmware.join(format!("initrd.img-{version}"));
    let initrd = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let initramfs = Initramfs::read(&initrd)?;
    let findings = initramfs.inspect(&expectation(&kernel, secrets)?)?;
    faults.extend(findings.iter().map(ToString::to_string));
    for board in BOARDS {
        let path = root.firmware.join(board.device_tree);
        let device_tree = fs::read(&path).with_context(|| format!("reading the device tree {}", path.display()))?;
        let missing = drivers::check(&kernel, board, &device_tree, &initramfs.modules())?;
        faults.extend(missing.iter().map(ToString::to_string));
    }
    Ok(())
}

fn expectation(kernel: &Kernel, secrets: &BuildSecrets) -> Result<Expectation> {
    let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
    let mut expectation = Expectation { programs: owned(PROGRAMS), files: owned(FILES), ..Expectation::default() };
    expectation.modules = kernel.closure(&modules::list(MODULES))?;
    expectation.secrets = vec![
        (String::from("the stick's key"), secrets.key.key.expose().clone()),
        (String::from("the volume key"), secrets.volume_key.expose().clone()),
        (String::from("the recovery passphrase"), secrets.passphrase.expose().clone().into_bytes()),
    ];
    Ok(expectation)
}

fn kernels(firmware: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading {}", firmware.display());
    let mut versions = Vec::new();
    for entry in fs::read_dir(firmware).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name();
        versions.extend(name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")).map(str::to_owned));
    }
    Ok(versions)
}
