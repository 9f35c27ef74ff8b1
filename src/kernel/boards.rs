//! The boards that an image boots on.
//!
//! One image serves several: the firmware reads the board's own device tree from the firmware partition, under the name that
//! Debian's kernel package gives it. A Raspberry Pi 5 isn't among those that every image serves: the kernel of Debian 13 has
//! neither its SD host (`SDHCI_BRCMSTB`) nor the chip that its USB ports hang on (RP1). The one of its backports has both.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::luks::cipher::Cipher;

/// A board by its device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// What `[image] board` calls it; boards that differ in nothing else share one.
    pub key: &'static str,
    /// What its maker calls it.
    pub name: &'static str,
    /// The file's name in `usr/lib/linux-image-*/broadcom/` of Debian's kernel package and on the firmware partition.
    pub device_tree: &'static str,
    /// What sits on it.
    pub chip: Chip,
}

/// The system on a chip, which decides how a board boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    /// Cortex-A53, USB by dwc2.
    Bcm2837,
    /// Cortex-A72, USB behind PCI Express.
    Bcm2711,
    /// Cortex-A76 with instructions for AES; USB and Ethernet behind RP1, on PCI Express. Its boot programs aren't on the card.
    Bcm2712,
}

/// Every board.
pub const BOARDS: &[Board] = &[
    board("pi3", "Raspberry Pi 3 Model B", "bcm2837-rpi-3-b.dtb", Chip::Bcm2837),
    board("pi3", "Raspberry Pi 3 Model B+", "bcm2837-rpi-3-b-plus.dtb", Chip::Bcm2837),
    board("pi3", "Raspberry Pi 3 Model A+", "bcm2837-rpi-3-a-plus.dtb", Chip::Bcm2837),
    board("cm3", "Raspberry Pi Compute Module 3", "bcm2837-rpi-cm3-io3.dtb", Chip::Bcm2837),
    board("zero2w", "Raspberry Pi Zero 2 W", "bcm2837-rpi-zero-2-w.dtb", Chip::Bcm2837),
    board("pi4", "Raspberry Pi 4 Model B", "bcm2711-rpi-4-b.dtb", Chip::Bcm2711),
    board("pi400", "Raspberry Pi 400", "bcm2711-rpi-400.dtb", Chip::Bcm2711),
    // A VL805 sits on carrier boards that have USB 3; a stick in any other PCIe card comes up the same way.
    board("cm4", "Raspberry Pi Compute Module 4", "bcm2711-rpi-cm4-io.dtb", Chip::Bcm2711),
    board("pi5", "Raspberry Pi 5", "bcm2712-rpi-5-b.dtb", Chip::Bcm2712),
    board("pi5", "Raspberry Pi 5 (stepping D0)", "bcm2712-d-rpi-5-b.dtb", Chip::Bcm2712),
];

const fn board(key: &'static str, name: &'static str, device_tree: &'static str, chip: Chip) -> Board {
    Board { key, name, device_tree, chip }
}

impl Board {
    /// Whether its device tree names an LED. That of a CM3 hangs on a driver that Debian's kernel hasn't.
    pub fn has_led(&self) -> bool {
        self.chip != Chip::Bcm2712 && self.key != "cm3"
    }
}

impl Chip {
    /// Modules for what is found by asking a bus, which no device tree needs to name, with what each is for.
    pub fn modules(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bcm2837 => &[],
            // A VL805 on the PCI Express bus.
            Self::Bcm2711 => &[("xhci_hcd", "USB 3 ports"), ("xhci_pci", "USB 3 ports, found on PCIe")],
            // What the driver of RP1's USB controllers makes of them.
            Self::Bcm2712 => &[("xhci_hcd", "USB ports"), ("xhci_plat_hcd", "USB ports")],
        }
    }

    /// Modules of the ciphers that its kernel has: the one of backports has the fast forms inside of them.
    pub fn ciphers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bcm2837 | Self::Bcm2711 => &[
                ("aes_generic", "AES-XTS and Adiantum"),
                ("nhpoly1305", "Adiantum"),
                ("nhpoly1305_neon", "Adiantum's hash, fast"),
                ("chacha_generic", "Adiantum's stream cipher"),
                ("chacha_neon", "Adiantum's stream cipher, fast"),
            ],
            Self::Bcm2712 => &[("chacha", "Adiantum's stream cipher")],
        }
    }

    /// What `initramfs/modules` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Bcm2837 => "bcm2837",
            Self::Bcm2711 => "bcm2711",
            Self::Bcm2712 => "bcm2712",
        }
    }

    /// Where a serial cable is heard.
    fn console(self) -> &'static str {
        match self {
            Self::Bcm2837 | Self::Bcm2711 => "ttyS1,115200",
            Self::Bcm2712 => "ttyAMA10,115200",
        }
    }

    /// Whether a file of raspi-firmware is one that it boots with, or the licence.
    fn starts_by(self, program: &str) -> bool {
        let (stem, end) = program.rsplit_once('.').unwrap_or((program, ""));
        match (end, self) {
            ("elf" | "dat", Self::Bcm2711) => stem.starts_with("start4") || stem.starts_with("fixup4"),
            ("elf" | "dat", Self::Bcm2837) => !stem.starts_with("start4") && !stem.starts_with("fixup4"),
            ("elf" | "dat", Self::Bcm2712) => false,
            ("bin", _) => self == Self::Bcm2837,
            _ => true,
        }
    }
}

/// What an image is made for: every board that the release's own kernel drives, or one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target(Option<&'static str>);

/// What stands for all of them.
const ANY: &str = "any";

/// Where a tree says what it is for; without the file it is for any.
pub const TARGET_PATH: &str = "/usr/share/vaultberry/board";

impl Target {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        let one = BOARDS.iter().find(|board| board.key == name).map(|board| Self(Some(board.key)));
        one.or_else(|| (name == ANY).then_some(Self(None)))
    }

    /// What the tree below `root` is for.
    ///
    /// # Errors
    /// The file can't be read, or names no board.
    pub fn of_tree(root: &Path) -> Result<Self> {
        let path = root.join(&TARGET_PATH[1..]);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                let text = text.with_context(|| format!("reading {}", path.display()))?;
                Self::named(text.trim()).with_context(|| format!("{} names no board: {:?}", path.display(), text.trim()))
            }
        }
    }

    /// Its name, as `[image] board` has it.
    pub fn name(self) -> &'static str {
        self.0.unwrap_or(ANY)
    }

    /// Every name that there is, that of all boards first.
    pub fn names() -> Vec<&'static str> {
        let mut names = vec![ANY];
        names.extend(BOARDS.iter().map(|board| board.key));
        names.dedup();
        names
    }

    /// The boards.
    pub fn boards(self) -> impl Iterator<Item = &'static Board> {
        BOARDS.iter().filter(move |board| match self.0 {
            Some(key) => board.key == key,
            None => board.chip != Chip::Bcm2712,
        })
    }

    /// What root is under by default: AES-XTS where every CPU has instructions for AES.
    pub fn cipher(self) -> Cipher {
        if self.boards().all(|board| board.chip == Chip::Bcm2712) { Cipher::Aes } else { Cipher::Adiantum }
    }

    /// Whether the release's own kernel doesn't drive it, but that of its backports does.
    pub fn needs_backports(self) -> bool {
        self.boards().any(|board| board.chip == Chip::Bcm2712)
    }

    /// What somebody should know who takes it: a sentence.
    pub fn caution(self) -> Option<&'static str> {
        match self.name() {
            "pi5" => Some("experimental: kernel of backports, by its device tree; never tried on the board itself"),
            "cm3" => Some("experimental: not known whether the firmware finds Debian's device tree by its name"),
            _ => None,
        }
    }

    /// The serial consoles, as the kernel takes them.
    pub fn consoles(self) -> Vec<&'static str> {
        let mut consoles: Vec<_> = self.boards().map(|board| board.chip.console()).collect();
        consoles.dedup();
        consoles
    }

    /// Whether one of the boards boots with a file of raspi-firmware.
    pub fn starts_by(self, program: &str) -> bool {
        self.boards().any(|board| board.chip.starts_by(program))
    }

    /// What of `initramfs/modules` is for these boards: a line is a module, and behind it the chips that need it; without any
    /// all do.
    pub fn modules(self, list: &str) -> String {
        let is_for = |line: &&str| {
            let words = line.split('#').next().unwrap_or_default();
            let mut chips = words.split_whitespace().skip(1).peekable();
            chips.peek().is_none() || chips.any(|chip| self.boards().any(|board| board.chip.name() == chip))
        };
        list.lines().filter(is_for).flat_map(|line| [line, "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{BOARDS, TARGET_PATH, Target};
    use crate::luks::cipher::Cipher;

    fn target(name: &str) -> Target {
        Target::named(name).unwrap()
    }

    #[test]
    fn one_image_serves_all_boards_of_the_release_s_kernel() {
        assert_eq!(Target::names(), ["any", "pi3", "cm3", "zero2w", "pi4", "pi400", "cm4", "pi5"]);
        let any: Vec<_> = target("any").boards().map(|board| board.key).collect();
        assert_eq!(any, ["pi3", "pi3", "pi3", "cm3", "zero2w", "pi4", "pi400", "cm4"]);
        assert_eq!(target("pi5").boards().count(), 2);
        assert_eq!(Target::named("pi6"), None);
        let ciphers = ["any", "zero2w", "pi4", "pi5"].map(|name| target(name).cipher());
        assert_eq!(ciphers, [Cipher::Adiantum, Cipher::Adiantum, Cipher::Adiantum, Cipher::Aes]);
        assert_eq!(["any", "pi4", "pi5"].map(|name| target(name).needs_backports()), [false, false, true]);
        assert_eq!(target("any").consoles(), ["ttyS1,115200"]);
    }

    #[test]
    fn each_chip_starts_by_its_own_programs() {
        let programs = ["LICENCE.broadcom", "bootcode.bin", "fixup.dat", "fixup4cd.dat", "start4.elf", "start_x.elf"];
        let of = |name: &str| programs.into_iter().filter(|program| target(name).starts_by(program)).collect::<Vec<_>>();
        assert_eq!(of("any"), programs);
        assert_eq!(of("pi4"), ["LICENCE.broadcom", "fixup4cd.dat", "start4.elf"]);
        assert_eq!(of("zero2w"), ["LICENCE.broadcom", "bootcode.bin", "fixup.dat", "start_x.elf"]);
        assert_eq!(of("pi5"), ["LICENCE.broadcom"]);
    }

    #[test]
    fn modules_are_for_all_boards_or_for_the_chips_behind_them() {
        let list = "# a card\none bcm2837 bcm2711 # of some\ntwo\nthree bcm2712\n\n";
        assert_eq!(target("cm3").modules(list), "# a card\none bcm2837 bcm2711 # of some\ntwo\n\n");
        assert_eq!(target("pi5").modules(list), "# a card\ntwo\nthree bcm2712\n\n");
        let real = include_str!("../../initramfs/modules");
        let known = |word: &str| BOARDS.iter().any(|board| board.chip.name() == word);
        for line in real.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.split_whitespace().skip(1).all(known), "{line}");
        }
    }

    #[test]
    fn a_tree_says_what_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Target::of_tree(folder.path()).unwrap(), Target::default());
        let path = folder.path().join(&TARGET_PATH[1..]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "pi4\n").unwrap();
        assert_eq!(Target::of_tree(folder.path()).unwrap().name(), "pi4");
        std::fs::write(&path, "pi9\n").unwrap();
        assert!(Target::of_tree(folder.path()).unwrap_err().to_string().ends_with("names no board: \"pi9\""));
    }
}
