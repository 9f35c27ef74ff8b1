//! Installing the newest kernel onto the firmware partition, so that at each moment a whole pair boots.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::boot_loader;
use super::firmware;
use super::pair::{self, Pair};
use super::switch::{Switch, Trial};
use super::tree::Tree;
use crate::space;

/// What is to be installed, and where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where kernel and initramfs are.
    pub tree: &'a Tree,
    /// The firmware partition.
    pub firmware: &'a Path,
    /// The kernel's version; none takes the newest.
    pub version: Option<&'a str>,
    /// Pairs that didn't come up, and aren't tried again by themselves.
    pub failed: &'a [String],
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// This pair boots already.
    Boots(String),
    /// This pair is on trial already: the next start tries it.
    Waits(String),
    /// The partition had no pair, and now boots this one.
    First(String),
    /// The next start tries the new pair.
    Armed(Trial),
}

/// Installs a pair. `prove` says of a kernel's version whether the pair would open root.
///
/// The last write is the switch; each one before leaves it leading to a whole pair. The pair that boots now is kept, all others
/// make room.
///
/// # Errors
/// The pair would not boot, has failed before, or has no room, or something can't be written. What boots is as it was.
pub fn install(request: &Request, prove: impl FnOnce(&str) -> Result<()>) -> Result<Installed> {
    let version = newest(request)?;
    let switch = Switch::read(request.firmware)?;
    let old = switch.as_ref().map(|switch| request.firmware.join(switch.proven()));
    let pair = Pair::of(request.tree, &version, boot_loader::for_new_pair(request.tree, old.as_deref())?)?;
    if let Some(installed) = switch.as_ref().and_then(|switch| present(switch, &pair.name)) {
        let folder = request.firmware.join(&pair.name);
        pair::verify(&folder)
            .context("what boots is damaged\nhint: `update-initramfs -u` makes it anew, in a folder of its own")?;
        firmware::update_programs(request.tree, request.firmware)?;
        if let (Installed::Waits(_), Some(switch)) = (&installed, &switch) {
            // Its way back too, where that was lost.
            switch.write(request.firmware)?;
        }
        return Ok(installed);
    }
    prove(&version).with_context(|| format!("looking whether Linux {version} would open root"))?;
    ensure!(
        !request.failed.contains(&pair.name),
        "{} was tried and didn't come up\nhint: look at `journalctl --list-boots`; `vaultberry kernel install --again` tries it again",
        pair.name
    );
    let boots = switch.map(|switch| keep_old(request.firmware, switch)).transpose()?;
    make_room(request, &pair, boots.as_deref())?;
    pair.write(request.firmware)?;
    firmware::update_programs(request.tree, request.firmware)?;
    let mut switch = Switch::to(&pair.name);
    switch.trial = boots.map(|old| Trial::of(&pair.name, &old));
    switch.write(request.firmware)?;
    Ok(switch.trial.map_or(Installed::First(pair.name), Installed::Armed))
}

fn newest(request: &Request) -> Result<String> {
    let versions = request.tree.versions()?;
    let list = versions.join(", ");
    match request.version {
        None => versions.into_iter().next().with_context(|| {
            let root = request.tree.root().display();
            format!("there is no kernel with an initramfs in the boot folder of {root}\nhint: `update-initramfs -c -k all` makes the initramfs")
        }),
        Some(version) if versions.iter().any(|known| known == version) => Ok(version.to_owned()),
        Some(version) => bail!("there is no Linux {version} with an initramfs\nhint: there are {list}"),
    }
}

/// What nothing has to be done for.
fn present(switch: &Switch, name: &str) -> Option<Installed> {
    match &switch.trial {
        None if switch.boots == name => Some(Installed::Boots(name.to_owned())),
        Some(trial) if trial.new == name && switch.boots == name => Some(Installed::Waits(name.to_owned())),
        _ => None,
    }
}

/// The pair that has come up before. A trial that hasn't begun ends, since its pair makes room for a newer one.
fn keep_old(firmware: &Path, mut switch: Switch) -> Result<String> {
    if let Some(trial) = switch.trial.take() {
        switch.boots = trial.old;
        switch.write(firmware)?;
    }
    Ok(switch.boots)
}

/// Removes every pair but the one that boots, and says whether the new one fits.
fn make_room(request: &Request, pair: &Pair, boots: Option<&str>) -> Result<()> {
    /// For boot programs that are replaced, and the partition's own folders.
    const MORE: u64 = 16 << 20;
    for name in firmware::pairs(request.firmware)? {
        if Some(name.as_str()) != boots {
            pair::remove(&request.firmware.join(name))?;
        }
    }
    let (free, needed) = (space::of(request.firmware)?.free, pair.size()? + MORE);
    ensure!(
        free >= needed,
        "the firmware partition {} has {} MiB free, and {} needs {}\nhint: remove from it what isn't the appliance's",
        request.firmware.display(),
        free >> 20,
        pair.name,
        needed.div_ceil(1 << 20)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use anyhow::{Result, bail};
    use tempfile::TempDir;

    use super::super::pair::tests::tree;
    use super::super::pair::verify;
    use super::super::switch::{FALLBACK, Switch};
    use super::super::trial::{begin, settle};
    use super::super::{boot_loader, firmware, tree::Tree};
    use super::{Installed, Request, install};

    struct Scene {
        _folder: TempDir,
        firmware: PathBuf,
        tree: Tree,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let firmware = folder.path().join("firmware");
            fs::create_dir(&firmware).unwrap();
            let tree = tree(&folder.path().join("root"), "6.12-arm64", "first");
            Self { _folder: folder, firmware, tree }
        }

        fn firmware(&self) -> &Path {
            &self.firmware
        }

        fn change(&self, content: &str) {
            tree(self.tree.root(), "6.12-arm64", content);
        }

        fn install(&self, failed: &[String], prove: impl FnOnce(&str) -> Result<()>) -> Result<Installed> {
            install(&Request { tree: &self.tree, firmware: self.firmware(), version: None, failed }, prove)
        }

        /// What boots; it must be whole.
        fn boots(&self) -> String {
            let boots = Switch::read(self.firmware()).unwrap().unwrap().boots;
            verify(&self.firmware().join(&boots)).unwrap();
            boots
        }
    }

    #[test]
    fn the_first_pair_boots_and_a_later_one_is_tried_beside_it() {
        let scene = Scene::new();
        let Installed::First(first) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        assert_eq!(scene.boots(), first);
        assert_eq!(fs::read_to_string(scene.firmware().join("start4.elf")).unwrap(), "start4.elf first");
        assert_eq!(scene.install(&[], |_| bail!("not needed")).unwrap(), Installed::Boots(first.clone()));
        // Boot programs come by themselves, too.
        fs::write(scene.tree.root().join("usr/lib/raspi-firmware/start4.elf"), "start4.elf again").unwrap();
        assert_eq!(scene.install(&[], |_| bail!("not needed")).unwrap(), Installed::Boots(first.clone()));
        assert_eq!(fs::read_to_string(scene.firmware().join("start4.elf")).unwrap(), "start4.elf again");

        scene.change("second");
        let Installed::Armed(trial) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        let second = trial.new;
        assert_eq!((trial.old, scene.boots()), (first.clone(), second.clone()));
        assert_eq!(fs::read_to_string(scene.firmware().join("overlays/README.md")).unwrap(), "overlays/README.md second");
        assert_eq!(scene.install(&[], |_| bail!("not needed")).unwrap(), Installed::Waits(second.clone()));

        // Before it is tried, a third takes its place: what came up last is kept.
        scene.change("third");
        let Installed::Armed(trial) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        let third = trial.new;
        assert_eq!(trial.old, first);
        let mut both = [first.clone(), third.clone()];
        both.sort();
        assert_eq!(firmware::pairs(scene.firmware()).unwrap(), both);

        // It comes up, stays, and the old one is kept until the next.
        begin(scene.firmware(), &third).unwrap();
        assert_eq!(scene.boots(), first);
        settle(scene.firmware(), &third).unwrap();
        assert_eq!(scene.boots(), third);
        assert_eq!(firmware::pairs(scene.firmware()).unwrap(), both);
    }

    #[test]
    fn what_would_not_boot_or_has_failed_changes_nothing() {
        let scene = Scene::new();
        let Installed::First(first) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        scene.change("second");
        let error = scene.install(&[], |_| bail!("no dm-crypt")).unwrap_err();
        assert_eq!(format!("{error:#}"), "looking whether Linux 6.12-arm64 would open root: no dm-crypt");
        let loader = fs::read(scene.firmware().join(&first).join(boot_loader::NAME)).unwrap();
        let pair = super::Pair::of(&scene.tree, "6.12-arm64", loader).unwrap().name;
        let error = scene.install(std::slice::from_ref(&pair), |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{pair} was tried and didn't come up\nhint: ")), "{error}");
        assert_eq!(firmware::pairs(scene.firmware()).unwrap(), [first.as_str()]);
        assert_eq!(scene.boots(), first);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let scene = Scene::new();
        let request = Request { tree: &scene.tree, firmware: scene.firmware(), version: Some("7.0"), failed: &[] };
        let error = install(&request, |_| Ok(())).unwrap_err().to_string();
        assert_eq!(error, "there is no Linux 7.0 with an initramfs\nhint: there are 6.12-arm64");
        fs::remove_file(scene.tree.initrd("6.12-arm64")).unwrap();
        assert!(scene.install(&[], |_| Ok(())).unwrap_err().to_string().starts_with("there is no kernel with an initramfs in "));
    }

    #[test]
    fn when_the_newest_kernel_is_removed_the_one_before_is_tried() {
        let scene = Scene::new();
        let newer = tree(scene.tree.root(), "6.13-arm64", "newer");
        let Installed::First(first) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        assert!(first.starts_with("6.13-arm64-"), "{first}");
        fs::remove_file(newer.kernel("6.13-arm64")).unwrap();
        fs::remove_file(newer.initrd("6.13-arm64")).unwrap();
        let Installed::Armed(trial) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        assert!(trial.old == first && trial.new.starts_with("6.12-arm64-"), "{trial:?}");
    }

    #[test]
    fn the_boot_loader_that_has_started_this_board_stays() {
        let scene = Scene::new();
        let Installed::First(first) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        let loader = |pair: &str| fs::read(scene.firmware().join(pair).join(boot_loader::NAME)).unwrap();
        let kept = loader(&first);
        fs::write(scene.tree.boot_loader(), "a newer one").unwrap();
        scene.change("second");
        // Its helper puts back what Debian had; an update doesn't.
        fs::write(scene.tree.boot_loader(), "a newer one").unwrap();
        let Installed::Armed(trial) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        assert_eq!(loader(&trial.new), kept);
        // The way back comes again when it was lost.
        let fallback = scene.firmware().join(&trial.new).join(FALLBACK);
        fs::remove_file(&fallback).unwrap();
        assert_eq!(scene.install(&[], |_| Ok(())).unwrap(), Installed::Waits(trial.new));
        assert!(fallback.exists());
        // A damaged one starts nothing, and isn't handed on.
        scene.change("third");
        for damage in [Some("rot"), None] {
            let path = scene.firmware().join(&first).join(boot_loader::NAME);
            damage.map_or_else(|| fs::remove_file(&path), |rot| fs::write(&path, rot)).unwrap();
            let Installed::Armed(trial) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
            assert_eq!(loader(&trial.new), kept, "made anew");
            scene.change("fourth");
        }
    }

    #[test]
    fn damage_to_what_boots_is_told() {
        let scene = Scene::new();
        let Installed::First(first) = scene.install(&[], |_| Ok(())).unwrap() else { panic!() };
        fs::write(scene.firmware().join(first).join("vmlinuz"), "").unwrap();
        let error = scene.install(&[], |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with("what boots is damaged\nhint: `update-initramfs -u`"), "{error}");
    }
}
