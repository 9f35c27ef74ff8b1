//! Each board by its device tree, with the kernels that Debian has today: an image for that board alone drives what a boot needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use vaultberry::config::{Config, EXAMPLE, parse};
use vaultberry::image::base;
use vaultberry::image::cache::Cache;
use vaultberry::image::emulate::{self, Machine};
use vaultberry::image::lock::Lock;
use vaultberry::image::packages::{FOLDER, Store};
use vaultberry::kernel::boards::Target;
use vaultberry::kernel::drivers::{Missing, check};
use vaultberry::kernel::modules::{Kernel, list};

use crate::cards::boot::guest;
use crate::support::Turn;
use crate::support::card::{Card, scratch, tool};
use crate::support::guest::{Guest, Ssh, free_port};

const MODULES: &str = include_str!("../../../initramfs/modules");

/// Unpacks the kernel that an image of this config has; gives its version.
fn unpack(config: &Config, tree: &Path) -> String {
    let cache = Cache::open(None).unwrap();
    let store = Store { cache: &cache, offline: false };
    let lock = Lock::read(&store.lock(config, false).unwrap()).unwrap();
    let archive = store.archive(&base::set(config), &lock.packages).unwrap();
    tool(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(tree));
    let kernels = lock.packages.iter().filter(|(name, _)| name.starts_with("linux-") && name.contains("deb13"));
    for (_, package) in kernels {
        let file = tree.join(FOLDER).join(format!("{}.deb", package.sha256));
        tool(Command::new("dpkg-deb").arg("-x").arg(file).arg(tree));
    }
    let folder = fs::read_dir(tree.join("usr/lib/modules")).unwrap().next().unwrap().unwrap();
    let version = folder.file_name().into_string().unwrap();
    symlink("usr/lib", tree.join("lib")).unwrap();
    tool(Command::new("/usr/sbin/depmod").arg("-b").arg(tree).arg(&version));
    // Where newer kernels have it until they are installed.
    let boot = tree.join("boot").join(format!("vmlinuz-{version}"));
    if !boot.exists() {
        fs::create_dir_all(boot.parent().unwrap()).unwrap();
        fs::copy(folder.path().join("vmlinuz"), boot).unwrap();
    }
    version
}

/// What the boards of a target lack of an initramfs with these modules.
fn missing(tree: &Path, version: &str, target: Target, initramfs: &BTreeSet<String>) -> Vec<Missing> {
    let kernel = Kernel::read(tree, version).unwrap();
    let folder = tree.join(format!("usr/lib/linux-image-{version}/broadcom"));
    let device_tree = |name: &str| -> PathBuf { folder.join(name) };
    let of = |board| check(&kernel, board, &fs::read(device_tree(board.device_tree)).unwrap(), initramfs).unwrap();
    target.boards().flat_map(of).collect()
}

fn initramfs(tree: &Path, version: &str, target: Target) -> BTreeSet<String> {
    Kernel::read(tree, version).unwrap().closure(&list(&target.modules(MODULES))).unwrap()
}

fn for_a_pi_5() -> String {
    EXAMPLE.replace("\n# board = \"any\"\n", "\nboard = \"pi5\"\n")
}

#[test]
fn an_image_for_one_board_drives_what_that_board_boots_by() {
    let folder = scratch();
    let version = unpack(&parse(EXAMPLE).unwrap(), folder.path());
    for name in Target::names() {
        let target = Target::named(name).unwrap();
        if !target.needs_backports() {
            let modules = initramfs(folder.path(), &version, target);
            assert_eq!(missing(folder.path(), &version, target, &modules), [], "{name} with {version}");
        }
    }
    // What no Pi 3 has, its image hasn't either.
    assert!(!initramfs(folder.path(), &version, Target::named("pi3").unwrap()).contains("sdhci_iproc"));
}

#[test]
fn the_kernel_of_backports_drives_card_and_usb_of_a_pi_5() {
    let folder = scratch();
    let config = parse(&for_a_pi_5()).unwrap();
    let version = unpack(&config, folder.path());
    let target = config.image.board;
    let whole = initramfs(folder.path(), &version, target);
    assert_eq!(missing(folder.path(), &version, target, &whole), [], "{version}");
    // Each link of the chains to card and stick is missed.
    for module in
        ["sdhci_brcmstb", "gpio_brcmstb", "pinctrl_brcmstb_bcm2712", "irq_bcm2712_mip", "rp1_pci", "pinctrl_rp1", "dwc3"]
    {
        let mut less = whole.clone();
        assert!(less.remove(module), "{module}");
        let told = missing(folder.path(), &version, target, &less);
        assert!(told.iter().any(|missing| missing.to_string().contains(module)), "without {module}: {told:?}");
    }
}

#[test]
#[ignore = "makes a base tree of its own: `make test-guests`"]
fn an_image_for_a_pi_5_boots_by_the_kernel_of_backports() {
    let _turn = Turn::take();
    let card = Card::build(&for_a_pi_5(), &[]);
    let (port, files) = (free_port(), scratch());
    let wanted = emulate::Guest { ssh_port: Some(port), ..guest(&card, Machine::Virt) };
    let mut guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    guest.wait_for("root is open, by the key on VB-KEY", 120);
    let ssh = Ssh { key: &card.secret("admin_ed25519"), port };
    ssh.wait_for("true", 400);
    for (command, told) in [
        ("dpkg-query -W -f '${Version}' linux-image-arm64", "~bpo"),
        ("cat /boot/pi/*/cmdline.txt", "console=ttyAMA10,115200"),
        ("sudo cryptsetup status root", "aes-xts-plain64"),
        ("cat /etc/apt/sources.list.d/backports.list", "trixie-backports"),
        ("sudo vaultberry kernel list", "boots next"),
        ("ls /boot/pi/*/", "bcm2712-d-rpi-5-b.dtb"),
    ] {
        let said = ssh.expect(command);
        assert!(said.contains(told), "{command}: {said}");
    }
    assert!(!ssh.expect("ls /boot/pi").contains("start"), "its boot programs aren't on the card");
}
