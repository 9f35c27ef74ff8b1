//! The boot loader on the emulated Pi, with kernels that die as soon as they are started.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use vaultberry::digest::sha256_of;
use vaultberry::image::disk::{self, Layout, read_firmware};
use vaultberry::image::emulate::{self, Machine};
use vaultberry::kernel::boot_loader;
use vaultberry::kernel::pair::{COMMAND_LINE, INITRD, KERNEL};
use vaultberry::kernel::switch::{self, FALLBACK, Switch, Trial};

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::card::scratch;
use crate::support::firmware::Firmware;
use crate::support::guest::Guest;

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
        let real = String::from_utf8(read_firmware(&CARD.image(), switch::NAME).unwrap()).unwrap();
        let real = Switch::parse(&real).unwrap().boots;
        let copy = |name: &str| read_firmware(&CARD.image(), &format!("{real}/{name}")).unwrap();
        for (pair, kernel) in [("old", dead_kernel(4096)), ("new", new_kernel.to_vec())] {
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
        disk::create(&pairs.image(), &Layout { size: 1 << 30, disk_id: 0x7662_0001 }).unwrap();
        disk::fill_firmware(&pairs.image(), &firmware).unwrap();
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
        let names = firmware.names("new");
        assert!(names.contains(KERNEL) && !names.contains(FALLBACK), "{names}");
    }
}

fn armed() -> Switch {
    Switch { boots: "new".to_owned(), trial: Some(Trial::of("new", "old")) }
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
