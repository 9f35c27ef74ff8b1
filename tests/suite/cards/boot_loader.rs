//! The boot loader on the emulated Pi: with kernels that die as soon as they are started, and with one that comes up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vaultberry::digest::sha256_of;
use vaultberry::image::disk::{self, FIRMWARE_START, Layout, read_firmware};
use vaultberry::image::emulate::{self, Machine};
use vaultberry::kernel::boot_loader;
use vaultberry::kernel::pair::{COMMAND_LINE, INITRD, KERNEL};
use vaultberry::kernel::switch::{self, Switch, Trial};

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::card::{scratch, tool, tools};
use crate::support::firmware::Firmware;
use crate::support::guest::Guest;

/// Names as real pairs have them.
const OLD: &str = "6.12.90+deb13-arm64-0a1b2c3d";
const NEW: &str = "6.12.118+deb13-arm64-8910325a";

/// What a real card's boot loader and the emulated board need of a pair.
const BOARD: &str = "bcm2837-rpi-3-b.dtb";

/// A kernel by its header (Linux, Documentation/arch/arm64/booting.rst), whose only instruction is a jump to itself.
fn dead_kernel(size: usize) -> Vec<u8> {
    const JUMP_TO_ITSELF: [u8; 4] = 0x1400_0000_u32.to_le_bytes();
    /// 4 KiB pages, and it may lie anywhere.
    const FLAGS: u64 = 0b1010;
    let mut kernel = vec![0; size];
    kernel[..4].copy_from_slice(&JUMP_TO_ITSELF);
    kernel[16..24].copy_from_slice(&(size as u64).to_le_bytes());
    kernel[24..32].copy_from_slice(&FLAGS.to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    kernel
}

/// A card with an old pair and a new one, on which the switch is as given.
struct Pairs {
    folder: TempDir,
}

impl Pairs {
    fn new(new_kernel: &[u8], switch: &Switch) -> Self {
        let folder = scratch();
        let firmware = folder.path().join("firmware");
        let real = switch_on(&CARD.image()).boots;
        let copy = |name: &str| read_firmware(&CARD.image(), &format!("{real}/{name}")).unwrap();
        for (pair, kernel) in [(OLD, dead_kernel(4096)), (NEW, new_kernel.to_vec())] {
            fs::create_dir_all(firmware.join(pair)).unwrap();
            let files = [
                (boot_loader::NAME, copy(boot_loader::NAME)),
                (BOARD, copy(BOARD)),
                (KERNEL, kernel),
                (INITRD, b"none".to_vec()),
                (COMMAND_LINE, b"quiet".to_vec()),
            ];
            for (name, content) in files {
                fs::write(firmware.join(pair).join(name), content).unwrap();
            }
        }
        switch.write(&firmware).unwrap();
        let pairs = Self { folder };
        let tools = tools(pairs.folder.path());
        disk::create(&tools, &pairs.image(), &Layout { size: 1 << 30, disk_id: 0x7662_0001 }).unwrap();
        disk::fill_firmware(&tools, &pairs.image(), &firmware, 1_764_000_000).unwrap();
        pairs
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("card.img")
    }

    /// Starts the emulated Pi by what `config.txt` says now.
    fn start(&self) -> (Guest, TempDir) {
        let files = scratch();
        let mut wanted = guest(&CARD, Machine::Raspi3b);
        (wanted.image, wanted.write, wanted.stick) = (self.image(), true, None);
        (Guest::start(emulate::command(&wanted, files.path()).unwrap()), files)
    }

    /// Starts it, and cuts the power when the kernel has died. This many bytes tell which kernel it was.
    fn dies(&self, size: usize) {
        let (mut guest, _files) = self.start();
        guest.wait_for(&format!("{size} bytes read"), 60);
        guest.wait_for("Starting kernel", 60);
    }

    fn firmware(&self) -> Firmware {
        Firmware::of(&self.image())
    }

    /// The new pair has begun its trial, which its kernel can't have noticed.
    fn assert_given_back(&self) {
        let firmware = self.firmware();
        firmware.assert_sound();
        assert_eq!(firmware.switch(), armed().given_back());
    }
}

fn armed() -> Switch {
    Switch { boots: NEW.to_owned(), trial: Some(Trial::of(NEW, OLD)) }
}

/// What boots from an image now.
fn switch_on(image: &Path) -> Switch {
    Firmware::of(image).switch()
}

#[test]
fn a_kernel_that_dies_before_its_initramfs_gives_way_to_the_old_one() {
    let _turn = Turn::take();
    let pairs = Pairs::new(&dead_kernel(8192), &armed());
    pairs.dies(8192);
    pairs.assert_given_back();
    let digest = || sha256_of(&pairs.firmware().partition()).unwrap();
    let before = digest();
    pairs.dies(4096);
    assert_eq!(digest(), before, "a boot without a trial writes nothing");
}

#[test]
fn a_kernel_that_is_none_gives_way_to_the_old_one() {
    let _turn = Turn::take();
    let pairs = Pairs::new(&[0; 8192], &armed());
    let (mut guest, _files) = pairs.start();
    guest.wait_for("8192 bytes read", 60);
    // The board is reset, which ends QEMU.
    guest.wait_for_end(60);
    pairs.assert_given_back();
    pairs.dies(4096);
}

#[test]
fn the_emulated_pi_boots_from_card_and_stick_and_a_new_pair_that_comes_up_stays() {
    // The emulated Pi's USB host has lost the stick ("Not connected") beside another guest.
    let _turn = Turn::alone();
    // The card's own pair, under another name beside the first, is on trial.
    let folder = scratch();
    let (image, tree) = (folder.path().join("card.img"), folder.path().join("firmware"));
    tool(Command::new("cp").arg("--sparse=always").arg(CARD.image()).arg(&image));
    fs::create_dir(&tree).unwrap();
    let drive = format!("{}@@{FIRMWARE_START}", image.display());
    let old = switch_on(&image).boots;
    tool(Command::new("mcopy").args(["-s", "-Q", "-i", &drive, &format!("::{old}")]).arg(&tree));
    fs::rename(tree.join(&old), tree.join(NEW)).unwrap();
    let line = tree.join(NEW).join(COMMAND_LINE);
    fs::write(&line, fs::read_to_string(&line).unwrap().replace(&old, NEW)).unwrap();
    Switch { boots: NEW.to_owned(), trial: Some(Trial::of(NEW, &old)) }.write(&tree).unwrap();
    tool(Command::new("mcopy").args(["-s", "-Q", "-o", "-i", &drive]).args([tree.join(NEW), tree.join(switch::NAME)]).arg("::"));

    // As a person does it.
    let mut boot = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    boot.arg("boot").arg(&image).args(["--write", "--machine", "raspi3b", "--secrets"]).arg(CARD.secrets());
    let mut guest = Guest::start(boot);
    guest.wait_for("Starting kernel", 240);
    assert_eq!(switch_on(&image).boots, old, "before anything of the new pair has run");
    guest.wait_for(&format!("this kernel is on trial: unless the system comes up, {old} boots next"), 120);
    guest.wait_for("root is open, by the key on VB-KEY", 120);
    guest.wait_for("vaultberry login:", 400);
    let deadline = Instant::now() + Duration::from_mins(5);
    while switch_on(&image) != Switch::to(NEW) {
        assert!(Instant::now() < deadline, "it came up and doesn't stay: {:?}", switch_on(&image));
        sleep(Duration::from_secs(2));
    }
    Firmware::of(&image).assert_sound();
    // QEMU's own key: the end.
    guest.type_in("\u{1}x");
    guest.wait_for_end(30);
}
