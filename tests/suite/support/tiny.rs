//! Tiny guests: the real kernel and initramfs of an image, and a root of some megabytes whose init says one line. They are
//! up in seconds, so that there can be many.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use uuid::Uuid;
use vaultberry::image::disk::read_firmware;
use vaultberry::image::payload::{BLOCK_SIZE, Blocks, Direction, VolumeKey, convert};
use vaultberry::kernel::boards::Target;
use vaultberry::kernel::cpio::{self, Entry};
use vaultberry::keys::keyfile::{KeyFile, path_on_stick};
use vaultberry::luks::cipher::Cipher;
use vaultberry::luks::{self, HEADER_SIZE, Key};
use vaultberry::secret::Secret;
use vaultberry::unlock::settings::Settings;

use super::card::{scratch, tool};
use super::guest::Guest;
use super::ports::Ports;

/// Bytes of the file system in a tiny root.
const ROOT: u64 = 8 << 20;

/// What init says.
pub const UP: &str = "the tiny root is up";

/// An appliance of some megabytes: its root, and what its initramfs knows.
pub struct Tiny {
    folder: TempDir,
    /// Its settings, which can be changed before a start.
    pub settings: Settings,
    /// The key that belongs on its stick.
    pub key: KeyFile,
    /// Its recovery passphrase.
    pub passphrase: Secret<String>,
    /// What its kernel is told beside the usual.
    pub words: &'static str,
    /// What is put behind its initramfs beside the settings.
    pub more: Vec<Entry>,
    /// The card that root is a partition of; none where root is a whole disk that forgets what is written.
    card: Option<PathBuf>,
}

/// Where root's partition begins on a card.
pub const CARD_START: u64 = 2 << 20;

impl Tiny {
    /// Makes one that boots with kernel and initramfs of the image `card`.
    pub fn new(card: &Path) -> Self {
        Self::under(Target::default().cipher(), card)
    }

    /// The same, with root under this cipher.
    pub fn under(cipher: Cipher, card: &Path) -> Self {
        let folder = scratch();
        let uuid = Uuid::new_v4();
        let key = KeyFile::generate(uuid).unwrap();
        let passphrase = Secret::new(String::from("abandon ability able about above absent absorb abstract"));
        let settings = Settings { luks_uuid: uuid, wait_seconds: 5, reboot_after_seconds: 60, sticks: Vec::new() };
        let config = String::from_utf8(read_firmware(card, "config.txt").unwrap()).unwrap();
        let pair = config.lines().find_map(|line| line.strip_prefix("os_prefix=")).unwrap();
        for (from, to) in [("vmlinuz", "kernel"), ("initrd.img", "initrd")] {
            fs::write(folder.path().join(to), read_firmware(card, &format!("{pair}{from}")).unwrap()).unwrap();
        }
        let tiny = Self { folder, settings, key, passphrase, words: "", more: Vec::new(), card: None };
        tiny.make_root(cipher);
        tiny
    }

    /// Takes the signatures off the modules in its initramfs: most of a start, an emulated kernel checks them.
    pub fn strip_modules(self) -> Self {
        let mut initrd = fs::read(self.path("initrd")).unwrap();
        let is_module = |entry: &Entry| entry.path.ends_with(".ko.xz");
        let mut entries = cpio::read(&initrd).unwrap();
        entries.retain(|entry| is_module(entry) || entry.is_folder() && entry.path != ".");
        let modules = entries.iter().filter(|entry| is_module(entry)).count();
        let folder = scratch();
        let file = |number: usize, end: &str| folder.path().join(format!("{number}.ko{end}"));
        let xz = |arguments: &str| {
            tool(Command::new("sh").args(["-c", &format!("xz {arguments}")]).current_dir(folder.path()));
        };
        for (number, module) in entries.iter().filter(|entry| is_module(entry)).enumerate() {
            fs::write(file(number, ".xz"), &module.content).unwrap();
        }
        xz("--decompress *.xz");
        for number in 0..modules {
            let module = fs::read(file(number, "")).unwrap();
            fs::write(file(number, ""), unsigned(&module)).unwrap();
        }
        xz("-1 --check=crc32 *.ko");
        for (number, module) in entries.iter_mut().filter(|entry| is_module(entry)).enumerate() {
            module.content = fs::read(file(number, ".xz")).unwrap();
        }
        cpio::append(&mut initrd, &entries).unwrap();
        fs::write(self.path("initrd"), initrd).unwrap();
        self
    }

    /// A file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_root(&self, cipher: Cipher) {
        let tree = self.path("tree");
        for name in ["dev", "proc", "run", "sys", "sbin", "etc", "tmp"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/support/init.c");
        tool(Command::new("aarch64-linux-gnu-gcc").args(["-Os", "-static", "-o"]).arg(tree.join("sbin/init")).arg(source));
        let (plain, root) = (self.path("plain"), self.path("root.luks"));
        File::create(&plain).unwrap().set_len(ROOT).unwrap();
        tool(Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4", "-b", "4096", "-d"]).arg(&tree).arg(&plain));
        File::create(&root).unwrap().set_len(HEADER_SIZE + ROOT).unwrap();
        let keys = [Key::Random(&self.key.key), Key::Passphrase(&self.passphrase)];
        luks::format(&root, self.settings.luks_uuid, "tiny", cipher, None, &keys).unwrap();
        let volume_key = luks::volume_key(&root, keys[0]).unwrap();
        let to = File::options().write(true).open(&root).unwrap();
        let (from, to) = (Blocks { file: &File::open(&plain).unwrap(), start: 0 }, Blocks { file: &to, start: HEADER_SIZE });
        let volume_key = VolumeKey { cipher, key: &volume_key };
        convert(Direction::Encrypt, &volume_key, from, to, std::slice::from_ref(&(0..ROOT / BLOCK_SIZE as u64))).unwrap();
    }

    /// Makes root the second partition of a card with so many bytes, which is written to; gives the card.
    pub fn put_on_card(&mut self, size: u64) -> PathBuf {
        let card = self.path("card.img");
        File::create(&card).unwrap().set_len(size).unwrap();
        let sectors = (HEADER_SIZE + ROOT) / 512;
        let table = format!("label: dos\nstart=2048, size=2048, type=c\nstart={}, size={sectors}, type=83\n", CARD_START / 512);
        let mut sfdisk = Command::new("/usr/sbin/sfdisk");
        let mut child = sfdisk.arg("-q").arg(&card).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let mut copy = Command::new("dd");
        copy.arg(format!("if={}", self.path("root.luks").display())).arg(format!("of={}", card.display()));
        tool(copy.args(["bs=1M", "conv=notrunc", "status=none"]).arg(format!("seek={}", CARD_START >> 20)));
        self.card = Some(card.clone());
        card
    }

    /// Makes a stick's image of this name with this file system and these files.
    pub fn stick(&self, name: &str, label: &str, files: &[(PathBuf, Vec<u8>)], ext4: bool) -> PathBuf {
        let (image, tree) = (self.path(name), self.path(&format!("{name}.tree")));
        fs::create_dir(&tree).unwrap();
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        for (path, content) in files {
            fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
            fs::write(tree.join(path), content).unwrap();
        }
        if ext4 {
            tool(Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4", "-L", label, "-d"]).arg(&tree).arg(&image));
        } else {
            tool(Command::new("/usr/sbin/mkfs.vfat").args(["-n", label]).arg(&image));
            for entry in fs::read_dir(&tree).unwrap() {
                tool(Command::new("mcopy").arg("-s").arg("-i").arg(&image).arg(entry.unwrap().path()).arg("::/"));
            }
        }
        image
    }

    /// The stick with the right key.
    pub fn right_stick(&self) -> PathBuf {
        self.stick("right", "VB-KEY", &self.right_files(), false)
    }

    /// What is on it.
    pub fn right_files(&self) -> [(PathBuf, Vec<u8>); 1] {
        [(path_on_stick(self.key.uuid), self.key.encode().expose().clone())]
    }

    /// Starts the guest with these sticks in it from the beginning.
    pub fn start(&self, sticks: &[&Path], arguments: &[&str]) -> Running {
        let initrd = self.path("initrd.tiny");
        let mut archive = fs::read(self.path("initrd")).unwrap();
        let text = self.settings.encode().unwrap();
        let entries = ["etc", "etc/vaultberry"].map(|path| Entry::folder(path, 0o755, 0));
        let file = Entry::file("etc/vaultberry/unlock.toml", 0o644, 0, text.as_bytes());
        cpio::append(&mut archive, &[&entries[..], &[file], &self.more].concat()).unwrap();
        fs::write(&initrd, archive).unwrap();

        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "TERM", "qemu-system-aarch64", "-nographic", "-no-reboot", "-M", "virt", "-cpu", "cortex-a72"]);
        qemu.args(["-smp", "2", "-nic", "none", "-device", "qemu-xhci,id=usb"]);
        qemu.arg("-kernel").arg(self.path("kernel")).arg("-initrd").arg(&initrd);
        qemu.arg("-append").arg(format!("root=/dev/mapper/root rw console=ttyAMA0 panic=10 quiet {}", self.words));
        let (disk, snapshot) = match &self.card {
            Some(card) => (card.clone(), "off"),
            None => (self.path("root.luks"), "on"),
        };
        qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=card,snapshot={snapshot}", disk.display()));
        qemu.args(["-device", "virtio-blk-pci,drive=card"]);
        let socket = self.path("qmp");
        let _ = fs::remove_file(&socket);
        qemu.args(Ports::arguments(&socket));
        if !arguments.contains(&"-m") {
            qemu.args(["-m", "512"]);
        }
        for (number, stick) in sticks.iter().enumerate() {
            qemu.arg("-drive").arg(drive(stick, &format!("first{number}")));
            qemu.arg("-device").arg(format!("usb-storage,drive=first{number},id=in{number},serial=STICK{number}"));
        }
        qemu.args(arguments);
        Running { guest: Guest::start(qemu), ports: Ports::connect(&socket) }
    }
}

/// A module without its signature (the kernel's `scripts/sign-file.c`: the signature, twelve bytes that end with its length,
/// and a mark).
fn unsigned(module: &[u8]) -> &[u8] {
    let signed = module.strip_suffix(b"~Module signature appended~\n").expect("Debian signs its modules");
    let (rest, length) = signed.split_last_chunk().unwrap();
    &rest[..rest.len() - 8 - usize::try_from(u32::from_be_bytes(*length)).unwrap()]
}

fn drive(image: &Path, id: &str) -> String {
    format!("file={},format=raw,if=none,id={id},readonly=on", image.display())
}

/// A guest that runs.
pub struct Running {
    /// Its console.
    pub guest: Guest,
    /// The way to plug sticks in and out.
    pub ports: Ports,
}
