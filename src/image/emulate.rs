//! Booting an image in QEMU, with the stick plugged in: for a look before flashing, and for the tests.
//!
//! QEMU runs no Pi firmware, so what that would load is read out of the image's own firmware partition: the boot loader, its
//! device tree and command line. On QEMU's own board it can't run, so kernel and initramfs are read out for that one.
//! The image itself is never written to: the guest's writes go to a temporary file, unless asked for.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::disk::{ROOT_START, read_firmware};
use crate::kernel::boot_loader;
use crate::kernel::pair::{COMMAND_LINE, INITRD, KERNEL};
use crate::kernel::switch::{self, Switch};
use crate::keys::secrets::SecretsFolder;
use crate::stop::Stop;
use crate::{luks, process};

/// A machine that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// QEMU's own board: quick, with a network and room for a backup disk.
    Virt,
    /// A Raspberry Pi 3B: SD card on the Broadcom host, stick on dwc2, no network.
    Raspi3b,
}

/// What to boot, and with what plugged in.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The image.
    pub image: PathBuf,
    /// The board.
    pub machine: Machine,
    /// The stick's image; none boots without a stick.
    pub stick: Option<PathBuf>,
    /// The backup disk's image and its serial number; `virt` only.
    pub disk: Option<(PathBuf, String)>,
    /// The port of the host's loopback that leads to the guest's ssh; `virt` only.
    pub ssh_port: Option<u16>,
    /// Let the guest change the image, so that the next boot finds what this one left.
    pub write: bool,
    /// Further arguments for QEMU, as they are.
    pub extra: Vec<String>,
}

/// The LUKS UUID of an image's root: names its keys.
pub fn root_uuid(image: &Path) -> Result<uuid::Uuid> {
    ensure!(image.is_file(), "there is no image {}\nhint: `make image` builds one", image.display());
    // libcryptsetup takes no offset into a file; the header's text fields do (LUKS2 specification, binary header).
    ensure_whole(image)?;
    let header = read_at(image, ROOT_START, luks::BINARY_HEADER_SIZE)?;
    luks::uuid_of_header(&header)
        .with_context(|| format!("{} holds no LUKS2 volume where a vaultberry image has root", image.display()))
}

/// The stick's image that the build of `image` left in the secrets folder.
pub fn stick_of(image: &Path, secrets: &Path) -> Result<PathBuf> {
    let uuid = root_uuid(image)?;
    let stick = SecretsFolder::at(secrets).stick_image(uuid);
    ensure!(
        stick.exists(),
        "the key of this image, {}, isn't there\nhint: name its folder with --secrets, or a stick's image with --stick",
        stick.display()
    );
    Ok(stick)
}

/// How often the stop flag is looked at while the guest runs.
const LOOK: Duration = Duration::from_millis(200);

/// Boots the guest on this terminal and waits for its end, or ends it when a stop is asked for.
pub fn boot(guest: &Guest, stop: &Stop) -> Result<ExitStatus> {
    process::require(&["qemu-system-aarch64", "setpriv", "mtype"])?;
    for file in [guest.stick.as_ref(), guest.disk.as_ref().map(|(disk, _)| disk)].into_iter().flatten() {
        ensure!(file.is_file(), "there is no image {} to plug in", file.display());
    }
    let files = tempfile::Builder::new().prefix("vaultberry-boot-").tempdir().context("making a folder for the kernel")?;
    let mut qemu = command(guest, files.path())?.spawn().context("starting `qemu-system-aarch64`")?;
    loop {
        if let Some(status) = qemu.try_wait().context("waiting for `qemu-system-aarch64`")? {
            return Ok(status);
        }
        if stop.requested() {
            qemu.kill().context("ending `qemu-system-aarch64`")?;
            return qemu.wait().context("waiting for `qemu-system-aarch64`");
        }
        sleep(LOOK);
    }
}

/// The QEMU command of a guest. What the firmware would load is put into `files`, which must outlive the guest.
pub fn command(guest: &Guest, files: &Path) -> Result<Command> {
    let firmware = Firmware::of(guest, files)?;
    // The guest ends with whoever started it.
    let mut command = process::tied("qemu-system-aarch64");
    command.args(["-nographic", "-no-reboot", "-kernel"]);
    let snapshot = if guest.write { "off" } else { "on" };
    let image = format!("file={},format=raw,snapshot={snapshot}", escaped(&guest.image));
    match guest.machine {
        Machine::Virt => {
            command.arg(firmware.copy(KERNEL)?).arg("-initrd").arg(firmware.copy(INITRD)?);
            command.arg("-append").arg(on_virt(&firmware.command_line()?));
            command.args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024"]);
            command.arg("-drive").arg(format!("{image},if=none,id=card")).args(["-device", "virtio-blk-pci,drive=card"]);
            command.args(["-device", "qemu-xhci"]);
            network(&mut command, guest.ssh_port);
            if let Some((disk, serial)) = &guest.disk {
                command.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", escaped(disk)));
                command.arg("-device").arg(format!("virtio-blk-pci,drive=disk,serial={}", serial.replace(',', ",,")));
            }
        }
        Machine::Raspi3b => {
            ensure!(
                guest.disk.is_none() && guest.ssh_port.is_none(),
                "the emulated raspi3b has no network and one USB port, for the stick\nhint: --machine virt has a network and a backup disk"
            );
            command.arg(firmware.copy(boot_loader::NAME)?).arg("-dtb").arg(firmware.copy("bcm2837-rpi-3-b.dtb")?);
            // QEMU resets the machine as soon as its watchdog is set.
            command.arg("-append").arg(format!("{} systemd.watchdog_sec=off", firmware.command_line()?));
            command.args(["-M", "raspi3b", "-serial", "null", "-serial", "mon:stdio"]);
            command.arg("-drive").arg(format!("{image},if=sd"));
        }
    }
    if let Some(stick) = &guest.stick {
        command.arg("-drive").arg(format!("file={},format=raw,if=none,id=stick,readonly=on", escaped(stick)));
        command.args(["-device", "usb-storage,drive=stick"]);
    }
    command.args(&guest.extra);
    Ok(command)
}

/// The command line with this board's console. Of several that one driver has, as on a Pi 5's line, the kernel would try the first
/// one alone, which isn't here.
fn on_virt(command_line: &str) -> String {
    let words = command_line.split_whitespace().filter(|word| !word.starts_with("console=ttyAMA"));
    words.chain(["console=ttyAMA0"]).collect::<Vec<_>>().join(" ")
}

fn network(command: &mut Command, ssh_port: Option<u16>) {
    let mut user = String::from("user,id=net");
    if let Some(port) = ssh_port {
        let _ = write!(user, ",hostfwd=tcp:127.0.0.1:{port}-:22");
    }
    // No option ROM: the guest doesn't boot from the network.
    command.args(["-netdev", &user, "-device", "virtio-net-pci,netdev=net,romfile="]);
}

/// A path as QEMU's option lists take it: absolute, since what stands before a colon is taken for a protocol; and a comma,
/// which ends a value, doubled.
fn escaped(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string().replace(',', ",,")
}

/// The pair that the Pi's firmware would load.
struct Firmware<'a> {
    image: &'a Path,
    pair: String,
    /// Where copies of its files are put.
    files: &'a Path,
}

impl<'a> Firmware<'a> {
    fn of(guest: &'a Guest, files: &'a Path) -> Result<Self> {
        let image = &guest.image;
        ensure!(image.is_file(), "there is no image {}\nhint: `make image` builds one", image.display());
        let switch = Switch::parse(&text(image, switch::NAME)?).context("config.txt names no pair")?;
        Ok(Self { image, pair: switch.boots, files })
    }

    fn copy(&self, name: &str) -> Result<PathBuf> {
        let path = self.files.join(name);
        let content = read_firmware(self.image, &format!("{}/{name}", self.pair))?;
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn command_line(&self) -> Result<String> {
        Ok(text(self.image, &format!("{}/{COMMAND_LINE}", self.pair))?.trim().to_owned())
    }
}

/// Is the file as long as its partition table says? The table's second entry, root, ends the disk.
fn ensure_whole(image: &Path) -> Result<()> {
    const SECOND: usize = 446 + 16;
    let length = fs::metadata(image).with_context(|| format!("looking at {}", image.display()))?.len();
    let sector = if length < 512 { Vec::new() } else { read_at(image, 0, 512)? };
    ensure!(
        sector.ends_with(&[0x55, 0xaa]),
        "{} is not a disk image\nhint: name the .img; `zstd -d` unpacks an .img.zst",
        image.display()
    );
    let number = |at: usize| u64::from(u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes")));
    let end = (number(SECOND + 8) + number(SECOND + 12)) * 512;
    ensure!(length >= end, "{} is cut short: it has {length} of {end} bytes", image.display());
    Ok(())
}

fn text(image: &Path, name: &str) -> Result<String> {
    String::from_utf8(read_firmware(image, name)?).with_context(|| format!("reading {name}"))
}

fn read_at(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length];
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.read_exact_at(&mut bytes, offset).with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}
