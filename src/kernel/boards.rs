//! The boards that an image boots on.
//!
//! One image serves all of them: the firmware reads the board's own device tree from the firmware partition, under the name
//! that Debian's kernel package gives it. A Raspberry Pi 5 isn't here: Debian 13's kernel has neither its SD host
//! (`SDHCI_BRCMSTB`) nor the chip that its USB ports hang on (RP1), so that it could read neither card nor stick.

use crate::luks::cipher::Cipher;

/// A board by its device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// What its maker calls it.
    pub name: &'static str,
    /// The file's name in `usr/lib/linux-image-*/broadcom/` of Debian's kernel package and on the firmware partition.
    pub device_tree: &'static str,
    /// Modules for what is found by asking a bus on this board only, with what each is for.
    pub modules: &'static [(&'static str, &'static str)],
}

/// The USB 3 controller of a Pi 4 is a VL805 on the PCI Express bus, which no device tree needs to name.
const PCIE_USB: &[(&str, &str)] = &[("xhci_hcd", "USB 3 ports"), ("xhci_pci", "USB 3 ports, found on PCIe")];

/// What root is under by default: none of these boards has a CPU with instructions for AES.
pub const CIPHER: Cipher = Cipher::Adiantum;

/// Every board that an image must boot on.
pub const BOARDS: &[Board] = &[
    Board { name: "Raspberry Pi 3 Model B", device_tree: "bcm2837-rpi-3-b.dtb", modules: &[] },
    Board { name: "Raspberry Pi 3 Model B+", device_tree: "bcm2837-rpi-3-b-plus.dtb", modules: &[] },
    Board { name: "Raspberry Pi 3 Model A+", device_tree: "bcm2837-rpi-3-a-plus.dtb", modules: &[] },
    Board { name: "Raspberry Pi Zero 2 W", device_tree: "bcm2837-rpi-zero-2-w.dtb", modules: &[] },
    Board { name: "Raspberry Pi 4 Model B", device_tree: "bcm2711-rpi-4-b.dtb", modules: PCIE_USB },
    Board { name: "Raspberry Pi 400", device_tree: "bcm2711-rpi-400.dtb", modules: PCIE_USB },
    // a VL805 sits on carrier boards that have USB 3; a stick in any other PCIe card comes up the same way
    Board { name: "Raspberry Pi Compute Module 4", device_tree: "bcm2711-rpi-cm4-io.dtb", modules: PCIE_USB },
];
