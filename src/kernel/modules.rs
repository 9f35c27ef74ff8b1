//! What one kernel can drive: what is built into it, and which module drives what.
//!
//! A [`Kernel`] is read from a Debian tree: the indexes that `depmod` writes (modules.dep(5), depmod(8)), the two lists of
//! what is built in that the kernel's own build makes, and the kernel image. Module names are compared as `modprobe`
//! compares them, `-` being the same as `_`.
//!
//! Which devices a built-in driver is for stands in `modules.builtin.modinfo` only since Linux 6.18; before, and for drivers
//! that can't be modules, the image itself is asked. A driver's table is an array of `struct of_device_id`
//! (`include/linux/mod_devicetable.h`): 32 bytes of name and 32 of type, almost always zero, then the compatible string
//! padded with zeros to 128. Only a string that stands in such a frame counts, so that the many other places where a driver
//! spells a compatible don't. The limit of this: the kernel has a few tables that aren't a driver's but list devices
//! to treat specially, and a string in one of those is taken for a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The drivers of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Every module with the modules that it needs.
    modules: BTreeMap<String, Vec<String>>,
    /// What a module wants loaded beside it, as names or aliases.
    soft: BTreeMap<String, Vec<String>>,
    /// Modules by the compatible strings that they are for.
    drivers: BTreeMap<String, BTreeSet<String>>,
    /// Modules by their other aliases, those without wildcards.
    aliases: BTreeMap<String, BTreeSet<String>>,
    /// Names and aliases of what would be a module, were it not built in.
    built_in: BTreeSet<String>,
    /// The compatible strings that built-in drivers are for.
    built_in_drivers: BTreeSet<String>,
}

/// A module's name as `modprobe` compares it.
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file, as `kernel/fs/ext4/ext4.ko.xz`; none when it isn't a module.
pub fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, suffix) = file.split_once(".ko")?;
    ["", ".gz", ".xz", ".zst"].contains(&suffix).then(|| normal(name))
}

/// The module names of a list such as `initramfs/modules`: the first word of each line, with `#` beginning a comment.
pub fn list(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.filter_map(|line| line.split_whitespace().next()).map(normal).collect()
}

impl Kernel {
    /// Reads the kernel of this version (as `uname -r` says it) from a Debian tree.
    ///
    /// # Errors
    /// A file is missing or can't be read, or the kernel image isn't an uncompressed one for arm64.
    pub fn read(tree: &Path, version: &str) -> Result<Self> {
        let folder = tree.join("usr/lib/modules").join(version);
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let text = |name: &str| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&read(&folder.join(name))?).into_owned());
        let mut kernel = Self::default();
        kernel.add_dependencies(&text("modules.dep")?);
        kernel.add_aliases(&text("modules.alias")?);
        kernel.add_soft_dependencies(&text("modules.softdep")?);
        kernel.add_built_in(&text("modules.builtin")?, &text("modules.builtin.modinfo")?);
        let path = tree.join("boot").join(format!("vmlinuz-{version}"));
        kernel.add_image(&read(&path)?).with_context(|| format!("looking for drivers in {}", path.display()))?;
        Ok(kernel)
    }

    /// `modules.dep`: `path: path path`, everything that is needed, directly or not.
    pub(crate) fn add_dependencies(&mut self, text: &str) {
        for (module, needed) in text.lines().filter_map(|line| line.split_once(':')) {
            let Some(module) = name_of(module) else { continue };
            self.modules.insert(module, needed.split_whitespace().filter_map(name_of).collect());
        }
    }

    /// `modules.alias`: `alias PATTERN module`. A compatible string's pattern is `of:N*T*Cstring`, with and without `C*`
    /// behind; those few that ask for a node's name or type too are left out, as no board here needs one.
    pub(crate) fn add_aliases(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let ["alias", pattern, module] = words[..] else { continue };
            let module = normal(module);
            if let Some(compatible) = driver_alias(pattern).or_else(|| pci_alias(pattern)) {
                self.drivers.entry(compatible).or_default().insert(module);
            } else if !pattern.contains(['*', '?', '[']) {
                self.aliases.entry(normal(pattern)).or_default().insert(module);
            }
        }
    }

    /// `modules.softdep`: `softdep module pre: name name post: name`; words before the first of the two count for nothing,
    /// as in `modprobe`.
    pub(crate) fn add_soft_dependencies(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let names = words.skip_while(|word| !word.ends_with(':')).filter(|word| !word.ends_with(':')).map(normal);
            self.soft.entry(normal(module)).or_default().extend(names);
        }
    }

    /// `modules.builtin`, a path a line, and `modules.builtin.modinfo`, `module.key=value` ended by zero bytes.
    pub(crate) fn add_built_in(&mut self, paths: &str, modinfo: &str) {
        self.built_in.extend(paths.lines().filter_map(name_of));
        for entry in modinfo.split('\0') {
            let Some(("alias", pattern)) = entry.split_once('.').and_then(|(_, entry)| entry.split_once('=')) else { continue };
            match driver_alias(pattern) {
                Some(compatible) => self.built_in_drivers.insert(compatible),
                None => self.built_in.insert(normal(pattern)),
            };
        }
    }

    /// The image, for the tables of its drivers.
    pub(crate) fn add_image(&mut self, image: &[u8]) -> Result<()> {
        // Documentation/arch/arm64/booting.rst: "ARM\x64" at byte 56
        let magic = image.get(56..60).context("it is too short for a kernel")?;
        ensure!(magic == b"ARM\x64", "it isn't an uncompressed arm64 kernel image, and no other kind can be looked into");
        self.built_in_drivers.extend(tables(image));
        Ok(())
    }

    /// Whether a driver for this compatible string is built in.
    pub fn drives(&self, compatible: &str) -> bool {
        self.built_in_drivers.contains(compatible)
    }

    /// The modules with a driver for this compatible string.
    pub fn drivers(&self, compatible: &str) -> BTreeSet<String> {
        self.drivers.get(compatible).cloned().unwrap_or_default()
    }

    /// Whether this module, or an alias of it, is built in.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(&normal(name))
    }

    /// What a module needs of other modules: each member is satisfied by any one of its names. Soft dependencies that
    /// this kernel can't satisfy at all are left out, as `modprobe` leaves them out.
    pub fn needs(&self, module: &str) -> Vec<BTreeSet<String>> {
        let module = normal(module);
        let hard = self.modules.get(&module).into_iter().flatten().map(|name| BTreeSet::from([name.clone()]));
        let soft = self.soft.get(&module).into_iter().flatten().filter(|name| !self.is_built_in(name));
        let soft = soft.map(|name| {
            let module = self.modules.get_key_value(name).map(|(name, _)| BTreeSet::from([name.clone()]));
            module.or_else(|| self.aliases.get(name).cloned()).unwrap_or_default()
        });
        hard.chain(soft.filter(|names| !names.is_empty())).collect()
    }

    /// The modules that `names` bring into an initramfs: themselves, without what is built in, and everything that they need.
    ///
    /// # Errors
    /// A name is neither a module of this kernel nor built in; all of these are named at once.
    pub fn closure(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let mut unknown = Vec::new();
        let mut queue: Vec<String> = names.iter().map(|name| normal(name)).collect();
        while let Some(name) = queue.pop() {
            if self.is_built_in(&name) || found.contains(&name) {
                continue;
            }
            if !self.modules.contains_key(&name) {
                unknown.push(name);
                continue;
            }
            queue.extend(self.needs(&name).into_iter().flatten());
            found.insert(name);
        }
        unknown.sort();
        if !unknown.is_empty() {
            bail!("this kernel has no modules of these names: {}", unknown.join(", "));
        }
        Ok(found)
    }
}

/// The compatible string of an alias, when it is one for any node with that string.
fn driver_alias(pattern: &str) -> Option<String> {
    let compatible = pattern.strip_prefix("of:N*T*C")?;
    Some(compatible.strip_suffix("C*").unwrap_or(compatible).to_owned())
}

/// What a device tree calls a device on PCI that has a node: `pci1de4,1`, of vendor and device (IEEE 1275, PCI bus binding).
fn pci_alias(pattern: &str) -> Option<String> {
    let (vendor, rest) = pattern.strip_prefix("pci:v")?.split_at_checked(8)?;
    let (device, rest) = rest.strip_prefix('d')?.split_at_checked(8)?;
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    (rest == "sv*sd*bc*sc*i*").then_some(())?;
    Some(format!("pci{:x},{:x}", number(vendor)?, number(device)?))
}

/// The size of `type` in `struct of_device_id`, which stands before the compatible string.
const TYPE_SIZE: usize = 32;
/// The size of `compatible` there.
const COMPATIBLE_SIZE: usize = 128;

/// Every compatible string of an `of_device_id` table in the image.
fn tables(image: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut zeros = 0;
    let mut at = 0;
    while at < image.len() {
        if image[at] == 0 {
            zeros += 1;
            at += 1;
            continue;
        }
        let rest = &image[at..];
        let length = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        let padding = rest.get(length..COMPATIBLE_SIZE).unwrap_or_default();
        let framed = zeros >= TYPE_SIZE && !padding.is_empty() && padding.iter().all(|&byte| byte == 0);
        if framed && rest[..length].iter().all(u8::is_ascii_graphic) {
            found.insert(String::from_utf8_lossy(&rest[..length]).into_owned());
        }
        at += length;
        zeros = 0;
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Kernel, list, name_of};

    /// A kernel image with one table of these compatible strings, and `loose` outside of any.
    pub(crate) fn image(compatible: &[&str], loose: &str) -> Vec<u8> {
        let mut image = vec![0x5a; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        for compatible in compatible {
            image.extend_from_slice(&[0; 64]);
            let start = image.len();
            image.extend_from_slice(compatible.as_bytes());
            image.resize(start + 128, 0);
            image.extend_from_slice(&[0x80; 8]);
        }
        // among other strings, with room before but not behind, and with room behind but not before
        let (before, behind) = ("\0".repeat(64), "\0".repeat(128));
        image.extend_from_slice(format!("\0{loose}\0more{before}{loose}\0more\0{loose}{behind}").as_bytes());
        image
    }

    #[test]
    fn tables_of_built_in_drivers_are_found_in_the_image() {
        let mut kernel = Kernel::default();
        kernel.add_image(&image(&["simple-bus", "brcm,bcm2711-cprman"], "brcm,loose")).unwrap();
        assert!(kernel.drives("simple-bus") && kernel.drives("brcm,bcm2711-cprman"));
        assert!(!kernel.drives("brcm,loose") && !kernel.drives("cprman"));
        let error = kernel.add_image(&[0x1f; 100]).unwrap_err();
        assert_eq!(error.to_string(), "it isn't an uncompressed arm64 kernel image, and no other kind can be looked into");
    }

    #[test]
    fn indexes_are_read_as_modprobe_reads_them() {
        let mut kernel = Kernel::default();
        kernel.add_dependencies(
            "kernel/a/usb-storage.ko.xz: kernel/a/scsi_mod.ko.xz\nkernel/a/scsi_mod.ko.xz:\nkernel/c/crc-x.ko:\n",
        );
        kernel.add_aliases("alias of:N*T*Cgpio-ledsC* leds-gpio\nalias of:N*T*Cgpio-leds leds_gpio\nalias crypto-crc crc-x\n");
        kernel.add_soft_dependencies("# a comment\nsoftdep usb-storage lost pre: crypto-crc made_in post: nowhere\n");
        kernel.add_built_in(
            "kernel/b/made-in.ko\n",
            "fixed.alias=of:N*T*Cregulator-fixedC*\0mem.alias=crypto-mem\0mem.license=GPL",
        );
        assert_eq!(kernel.drivers("gpio-leds").into_iter().collect::<Vec<_>>(), ["leds_gpio"]);
        assert!(kernel.drives("regulator-fixed") && kernel.is_built_in("crypto_mem") && kernel.is_built_in("made-in"));
        let closure = kernel.closure(&["usb-storage".to_owned(), "made-in".to_owned()]).unwrap();
        assert_eq!(closure.into_iter().collect::<Vec<_>>(), ["crc_x", "scsi_mod", "usb_storage"]);
        let error = kernel.closure(&["b".to_owned(), "made_in".to_owned(), "a-a".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no modules of these names: a_a, b");
    }

    #[test]
    fn names_come_from_files_and_lists() {
        assert_eq!(name_of("lib/modules/6.12/kernel/fs/nls/nls_iso8859-1.ko.xz").as_deref(), Some("nls_iso8859_1"));
        assert_eq!(name_of("a.ko.zst").as_deref(), Some("a"));
        assert_eq!(name_of("modules.dep"), None);
        assert_eq!(list("# head\n\nusb-storage # for sticks\n uas\n"), ["usb_storage", "uas"]);
    }
}
