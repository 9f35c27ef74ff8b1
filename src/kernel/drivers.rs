//! The proof that an initramfs can drive a board: whatever stands between the boot and an open root has its driver.
//!
//! An initramfs with `MODULES=list` holds only what it was told to hold. A module that is missing shows on the real board only,
//! as a card or a stick that never appears: the SD card of a Pi 4 hangs on a `regulator-gpio`, a module in Debian, and no
//! emulator has that regulator. So [`check`] takes the board's device tree, starts at what the boot needs (card, USB, LED,
//! watchdog), follows it to everything that these need in turn ([`super::suppliers`]), and wants a driver for each: built into
//! the kernel, or a module in the initramfs that has all its dependencies there ([`super::modules`]). What no device tree
//! names, because its bus is asked for it, stands in [`MODULES`] and in each board's own list.
//!
//! What is missing is reported all at once, with the module that would help. The list that the initramfs is made from is
//! `initramfs/modules`.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};

use super::boards::Board;
use super::devicetree::{Node, Tree};
use super::modules::{Kernel, normal};
use super::suppliers::{self, follow};

/// A kind of device that a boot needs, and how its nodes are known.
struct Wanted {
    purpose: &'static str,
    compatible: &'static [&'static str],
    serves: fn(&Tree, &Node) -> bool,
    /// Whether a board has it.
    on: fn(&Board) -> bool,
}

const WANTED: &[Wanted] = &[
    // the card of a Pi 3 hangs on the sdhost, of a Pi 4 on the emmc2; the bcm2835-sdhci is wired to the radio, except where a
    // board has none, and is then a second way to the card
    Wanted {
        purpose: "the SD card",
        compatible: &["brcm,bcm2835-sdhost", "brcm,bcm2835-sdhci", "brcm,bcm2711-emmc2", "brcm,bcm2712-sdhci"],
        serves: no_radio,
        on: |_| true,
    },
    // the only USB of a Pi 3; on a Pi 4 it is the power socket, and USB is behind the PCIe bridge. The third is the Pi 4's own
    // xHCI, switched off unless the firmware is told otherwise; the last those of a Pi 5's RP1
    Wanted {
        purpose: "USB",
        compatible: &["brcm,bcm2835-usb", "brcm,bcm2711-pcie", "brcm,bcm2711-xhci", "snps,dwc3"],
        serves: is_host,
        on: |_| true,
    },
    Wanted { purpose: "the LED", compatible: &["gpio-leds"], serves: |_, _| true, on: Board::has_led },
    // also what reboots a board without PSCI, as all before the Pi 5 are
    Wanted {
        purpose: "the watchdog",
        compatible: &["brcm,bcm2835-pm-wdt", "brcm,bcm2835-pm", "brcm,bcm2711-pm"],
        serves: |_, _| true,
        on: |_| true,
    },
];

/// An SDIO function with a node of its own is a radio that is soldered on; no card fits into its host.
fn no_radio(tree: &Tree, node: &Node) -> bool {
    node.children.iter().all(|&child| tree.nodes()[child].property("compatible").is_none())
}

/// A port that is fixed to the device's side never sees a stick.
fn is_host(_: &Tree, node: &Node) -> bool {
    node.strings("dr_mode").first().is_none_or(|mode| mode != "peripheral")
}

/// Modules for what every boot needs and no device tree names, with what each is for.
///
/// The ciphers are asked for by name when root is opened, each in a general form and in the fastest one for these CPUs, which
/// have NEON but, up to the Pi 4, no AES instructions; those that depend on the kernel are the chip's ([`Chip::ciphers`]).
pub const MODULES: &[(&str, &str)] = &[
    ("mmc_block", "the SD card's partitions"),
    ("usb_storage", "USB sticks and disks"),
    ("uas", "USB disks with the newer protocol"),
    ("sd_mod", "USB sticks' and disks' partitions"),
    ("usbhid", "keyboards, for the recovery passphrase"),
    ("hid_generic", "keyboards, for the recovery passphrase"),
    ("bcm2835_wdt", "the watchdog and rebooting"),
    ("vfat", "the stick's file system"),
    ("nls_cp437", "the stick's file names"),
    ("nls_ascii", "the stick's file names"),
    ("ext4", "root's file system"),
    ("dm_crypt", "opening root"),
    ("algif_skcipher", "opening a key slot"),
    ("xts", "AES-XTS"),
    ("aes_neon_bs", "AES-XTS on CPUs without AES instructions"),
    ("aes_ce_blk", "AES-XTS on CPUs with AES instructions"),
    ("adiantum", "Adiantum"),
];

/// Compatible strings that say how to treat a node's children or registers and name no device. The kernel has them all built
/// in, so that a node which has another one beside them would always pass by them.
const GENERAL: &[&str] = &["simple-bus", "simple-mfd", "simple-pm-bus", "syscon"];

/// Something that keeps a board from booting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The device tree has nothing, or nothing that is switched on, of a kind that the boot needs.
    Device {
        /// The board's name.
        board: String,
        /// What the device is for.
        purpose: String,
    },
    /// A device has no driver.
    Driver {
        /// The board's name.
        board: String,
        /// The device's path in the device tree.
        node: String,
        /// Its compatible strings.
        compatible: Vec<String>,
        /// What it is needed for.
        because: String,
        /// The modules that would drive it; none when this kernel has no driver for it at all.
        modules: Vec<String>,
    },
    /// A module for what a bus is asked for isn't there.
    Module {
        /// The board's name.
        board: String,
        /// The module's name.
        module: String,
        /// What it is for.
        purpose: String,
    },
    /// A module in the initramfs lacks another one.
    Dependency {
        /// The module that can't be loaded, or not in full.
        module: String,
        /// What it needs: any one of these.
        needs: Vec<String>,
    },
    /// A reference in the device tree leads nowhere.
    Reference {
        /// The board's name.
        board: String,
        /// A sentence.
        fault: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { board, purpose } => write!(f, "{board}: its device tree has no device for {purpose}"),
            Self::Driver { board, node, compatible, because, modules } => {
                let names = compatible.join(", ");
                write!(f, "{board}: {node} ({names}), needed for {because}, has no driver in kernel or initramfs")?;
                match modules.as_slice() {
                    [] => write!(f, "\nhint: this kernel has no driver for it; another kernel may"),
                    modules => write!(f, "\nhint: add {} to initramfs/modules", modules.join(" or ")),
                }
            }
            Self::Module { board, module, purpose } => {
                write!(f, "{board}: the module {module}, for {purpose}, isn't in kernel or initramfs")?;
                write!(f, "\nhint: add it to initramfs/modules")
            }
            Self::Dependency { module, needs } => {
                write!(f, "the module {module} is in the initramfs without {}, which it needs", needs.join(" or "))
            }
            Self::Reference { board, fault } => write!(f, "{board}: its device tree is damaged: {fault}"),
        }
    }
}

/// Everything that keeps `board` from booting with this kernel and an initramfs that holds these modules.
///
/// `device_tree` is the blob that the firmware will read, `initramfs` the names of the modules in the initramfs. What modules
/// lack of one another is the same for every board: whoever checks several collects the answers in a set.
///
/// # Errors
/// The device tree can't be read at all.
pub fn check(kernel: &Kernel, board: &Board, device_tree: &[u8], initramfs: &BTreeSet<String>) -> Result<Vec<Missing>> {
    let tree = Tree::parse(device_tree).with_context(|| format!("reading the device tree {}", board.device_tree))?;
    let name = || board.name.to_owned();
    let initramfs: BTreeSet<String> = initramfs.iter().map(|module| normal(module)).collect();
    let mut missing = Vec::new();
    let mut starts = Vec::new();
    for wanted in WANTED.iter().filter(|wanted| (wanted.on)(board)) {
        let nodes = (0..tree.nodes().len()).filter(|&index| is_wanted(&tree, index, wanted));
        let before = starts.len();
        starts.extend(nodes.map(|index| (index, wanted.purpose.to_owned())));
        if starts.len() == before {
            missing.push(Missing::Device { board: name(), purpose: wanted.purpose.to_owned() });
        }
    }
    let suppliers::Suppliers { devices, broken } = follow(&tree, &starts);
    missing.extend(broken.into_iter().map(|fault| Missing::Reference { board: name(), fault }));
    for reached in devices {
        let node = &tree.nodes()[reached.node];
        let compatible = node.compatible();
        let special = compatible.iter().any(|compatible| !GENERAL.contains(&compatible.as_str()));
        let counts = |compatible: &&String| !special || !GENERAL.contains(&compatible.as_str());
        let modules: BTreeSet<_> = compatible.iter().filter(counts).flat_map(|compatible| kernel.drivers(compatible)).collect();
        let built_in = compatible.iter().filter(counts).any(|compatible| kernel.drives(compatible));
        if !built_in && modules.is_disjoint(&initramfs) {
            let modules = modules.into_iter().collect();
            missing.push(Missing::Driver {
                board: name(),
                node: node.path.clone(),
                compatible,
                because: reached.because,
                modules,
            });
        }
    }
    for (module, purpose) in MODULES.iter().chain(board.chip.modules()).chain(board.chip.ciphers()) {
        if !kernel.is_built_in(module) && !initramfs.contains(*module) {
            let (module, purpose) = ((*module).to_owned(), (*purpose).to_owned());
            missing.push(Missing::Module { board: name(), module, purpose });
        }
    }
    for module in &initramfs {
        for needs in kernel.needs(module) {
            if needs.is_disjoint(&initramfs) {
                missing.push(Missing::Dependency { module: module.clone(), needs: needs.into_iter().collect() });
            }
        }
    }
    Ok(missing)
}

fn is_wanted(tree: &Tree, index: usize, wanted: &Wanted) -> bool {
    let node = &tree.nodes()[index];
    let known = node.compatible().iter().any(|compatible| wanted.compatible.contains(&compatible.as_str()));
    known && tree.is_enabled(index) && (wanted.serves)(tree, node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{MODULES, check};
    use crate::kernel::boards::{BOARDS, Board, Chip, Target};
    use crate::kernel::devicetree::tests::compile;
    use crate::kernel::modules::tests::image;
    use crate::kernel::modules::{Kernel, list};

    const BOARD: Board = Board { key: "test", name: "Test", device_tree: "test.dtb", chip: Chip::Bcm2711 };

    /// The modules that no device tree names.
    fn unnamed() -> impl Iterator<Item = &'static str> {
        MODULES.iter().chain(BOARD.chip.ciphers()).map(|(name, _)| *name)
    }

    /// A board as a Pi 4 is one: a card whose lines are fed by a regulator, which is switched by the firmware's GPIO.
    const TREE: &str = r#"/ { compatible = "test,board";
        soc { compatible = "simple-bus";
          wifi@1 { compatible = "brcm,bcm2835-sdhci"; mmc-pwrseq = <&radio>; radio { compatible = "brcm,bcm4329-fmac"; }; };
          usb@2 { compatible = "brcm,bcm2835-usb"; phys = <&phy>; };
          usb@3 { compatible = "brcm,bcm2835-usb"; dr_mode = "peripheral"; phys = <&radio>; };
          watchdog@4 { compatible = "brcm,bcm2835-pm"; };
          firmware { compatible = "raspberrypi,bcm2835-firmware", "simple-mfd";
            lines: gpio { compatible = "raspberrypi,firmware-gpio"; #gpio-cells = <2>; }; };
          mmc@5 { compatible = "brcm,bcm2711-emmc2"; vqmmc-supply = <&power>; };
        };
        power: regulator { compatible = "regulator-gpio"; gpios = <&lines 4 0>; };
        phy: phy { compatible = "usb-nop-xceiv"; #phy-cells = <0>; };
        radio: pwrseq { compatible = "mmc-pwrseq-simple"; };
        leds { compatible = "gpio-leds"; act { gpios = <&lines 2 1>; }; };
    };"#;

    fn kernel(built_in: &[&str]) -> Kernel {
        let mut kernel = Kernel::default();
        kernel.add_image(&image(built_in, "regulator-gpio")).unwrap();
        let names = ["gpio-regulator", "leds-gpio", "dwc2", "phy-generic", "sdhci-iproc", "xhci-pci", "xhci-hcd", "extra"];
        let all = unnamed().chain(names);
        let dep: Vec<_> =
            all.map(|name| format!("kernel/{name}.ko.xz:{}", if name == "xhci-pci" { " xhci-hcd.ko" } else { "" })).collect();
        kernel.add_dependencies(&dep.join("\n"));
        kernel.add_soft_dependencies("softdep ext4 pre: extra-alias\n");
        kernel.add_aliases(
            "alias of:N*T*Cregulator-gpioC* gpio_regulator\nalias of:N*T*Cgpio-leds leds_gpio\nalias of:N*T*Cbrcm,bcm2835-usb dwc2\n\
             alias of:N*T*Cusb-nop-xceiv phy_generic\nalias of:N*T*Cbrcm,bcm2711-emmc2 sdhci_iproc\nalias extra-alias extra\n",
        );
        kernel
    }

    const BUILT_IN: &[&str] =
        &["simple-bus", "simple-mfd", "brcm,bcm2835-pm", "raspberrypi,bcm2835-firmware", "raspberrypi,firmware-gpio"];

    fn initramfs(kernel: &Kernel) -> BTreeSet<String> {
        let names = unnamed().chain(["gpio-regulator", "leds-gpio", "dwc2", "phy-generic", "sdhci-iproc", "xhci-pci"]);
        kernel.closure(&names.map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    fn missing(kernel: &Kernel, tree: &str, initramfs: &BTreeSet<String>) -> Vec<String> {
        let missing = check(kernel, &BOARD, &compile(tree), initramfs).unwrap();
        missing.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_initramfs_lacks_nothing() {
        let kernel = kernel(BUILT_IN);
        assert_eq!(missing(&kernel, TREE, &initramfs(&kernel)), Vec::<String>::new());
    }

    #[test]
    fn every_module_of_the_initramfs_is_missed() {
        let kernel = kernel(BUILT_IN);
        let whole = initramfs(&kernel);
        for module in &whole {
            let mut less = whole.clone();
            less.remove(module);
            let missing = missing(&kernel, TREE, &less).join("\n");
            assert!(missing.contains(module.as_str()), "without {module}: {missing:?}");
        }
    }

    #[test]
    fn the_regulator_of_the_card_is_named() {
        let kernel = kernel(BUILT_IN);
        let mut less = initramfs(&kernel);
        less.remove("gpio_regulator");
        let wanted = "Test: /regulator (regulator-gpio), needed for vqmmc-supply of /soc/mmc@5, has no driver in kernel or \
            initramfs\nhint: add gpio_regulator to initramfs/modules";
        assert_eq!(missing(&kernel, TREE, &less), [wanted]);
    }

    #[test]
    fn a_general_compatible_is_no_driver() {
        let built_in: Vec<_> = BUILT_IN.iter().copied().filter(|name| !name.ends_with("-firmware")).collect();
        let kernel = kernel(&built_in);
        let wanted = "Test: /soc/firmware (raspberrypi,bcm2835-firmware, simple-mfd), needed for the bus of /soc/firmware/gpio, has \
            no driver in kernel or initramfs\nhint: this kernel has no driver for it; another kernel may";
        assert_eq!(missing(&kernel, TREE, &initramfs(&kernel)), [wanted]);
    }

    #[test]
    fn modules_without_their_own_and_devices_that_are_off_are_named() {
        let kernel = kernel(BUILT_IN);
        let mut less = initramfs(&kernel);
        less.remove("xhci_hcd");
        less.remove("extra");
        let tree = TREE.replace("leds {", "leds { status = \"disabled\";");
        let wanted = [
            "Test: its device tree has no device for the LED",
            "Test: the module xhci_hcd, for USB 3 ports, isn't in kernel or initramfs\nhint: add it to initramfs/modules",
            "the module ext4 is in the initramfs without extra, which it needs",
            "the module xhci_pci is in the initramfs without xhci_hcd, which it needs",
        ];
        assert_eq!(missing(&kernel, &tree, &less), wanted);
    }

    #[test]
    fn the_list_of_the_initramfs_has_every_module_that_no_device_tree_names() {
        // built into Debian's kernel
        let built_in = ["mmc_block", "aes_generic"];
        for board in BOARDS {
            let listed = list(&Target::named(board.key).unwrap().modules(include_str!("../../initramfs/modules")));
            let wanted = MODULES.iter().chain(board.chip.modules()).chain(board.chip.ciphers());
            for (module, _) in wanted.filter(|(module, _)| !built_in.contains(module)) {
                assert!(listed.iter().any(|name| name == module), "initramfs/modules lacks {module} for {}", board.name);
            }
        }
    }
}
