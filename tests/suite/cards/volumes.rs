//! What the builder encrypts, read by the real kernel.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;
use vaultberry::image::emulate::{self, Machine};
use vaultberry::image::payload::{Blocks, Direction, VolumeKey, convert};
use vaultberry::image::root::used_blocks;
use vaultberry::keys::keyfile::random;
use vaultberry::luks::cipher::Cipher;
use vaultberry::luks::{self, HEADER_SIZE, Key};

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::card::{scratch, tool};
use crate::support::guest::{Guest, Ssh, free_port};

/// Bytes of the file systems: several block groups, so that there are some whose bitmaps were never written (`BLOCK_UNINIT`).
const SIZE: u64 = 640 << 20;

/// Numbers that look random and are the same each time (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn write(&mut self, path: &Path, length: u64) {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
        for _ in 0..length.div_ceil(8) {
            file.write_all(&self.next().to_le_bytes()).unwrap();
        }
        file.into_inner().unwrap().set_len(length).unwrap();
    }
}

/// Files of many sizes, in folders, with links.
fn fill(tree: &Path) {
    let mut noise = Noise(88_172_645_463_325_252);
    for number in 0..200_u64 {
        let folder = tree.join(format!("folder{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        let length = noise.next() % [10, 5_000, 400_000][usize::try_from(number % 3).unwrap()];
        noise.write(&folder.join(format!("file{number}")), length);
    }
    noise.write(&tree.join("large"), 30 << 20);
    fs::hard_link(tree.join("large"), tree.join("folder1/again")).unwrap();
    symlink("large", tree.join("link")).unwrap();
}

/// A volume of the file system `plain`, with noise wherever the file system has nothing.
fn volume(cipher: Cipher, plain: &Path, path: &Path, key: Key) {
    Noise(1_181_783_497_276_652_981).write(path, HEADER_SIZE + SIZE);
    luks::format(path, Uuid::new_v4(), "test", cipher, None, &[key]).unwrap();
    let volume_key = luks::volume_key(path, key).unwrap();
    let used = used_blocks(Command::new("/usr/sbin/dumpe2fs"), plain, SIZE).unwrap();
    let blocks: u64 = used.iter().map(|range| range.end - range.start).sum();
    assert!(blocks * 4096 < SIZE / 2, "most of it is noise");
    let (from, to) = (File::open(plain).unwrap(), File::options().write(true).open(path).unwrap());
    let (from, to) = (Blocks { file: &from, start: 0 }, Blocks { file: &to, start: HEADER_SIZE });
    convert(Direction::Encrypt, &VolumeKey { cipher, key: &volume_key }, from, to, &used).unwrap();
}

#[test]
fn the_kernel_finds_every_file_under_either_cipher_though_the_rest_is_noise() {
    let _turn = Turn::take();
    let (folder, port) = (scratch(), free_port());
    let here = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::create_dir(here("tree")).unwrap();
    fill(&here("tree"));
    File::create(here("plain")).unwrap().set_len(SIZE).unwrap();
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    tool(mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=1", "-d"]).arg(here("tree")).arg(here("plain")));
    let groups = String::from_utf8(tool(Command::new("/usr/sbin/dumpe2fs").arg(here("plain"))).stdout).unwrap();
    assert!(groups.contains("BLOCK_UNINIT"), "{groups}");

    let key = random(64).unwrap();
    let mut wanted = guest(&CARD, Machine::Virt);
    wanted.ssh_port = Some(port);
    for (name, cipher) in [("aes", Cipher::Aes), ("adiantum", Cipher::Adiantum)] {
        volume(cipher, &here("plain"), &here(name), Key::Random(&key));
        let drive = format!("file={},format=raw,if=none,id={name},readonly=on", here(name).display());
        let device = format!("virtio-blk-pci,drive={name},serial={name}");
        wanted.extra.extend(["-drive".into(), drive, "-device".into(), device]);
    }
    let _guest = Guest::start(emulate::command(&wanted, folder.path()).unwrap());
    let secret = CARD.secret("admin_ed25519");
    let ssh = Ssh { key: &secret, port };
    ssh.wait_for("systemctl is-active multi-user.target", 400);

    let list = "find . -type f -print0 | sort -z | xargs -0 sha256sum; readlink link; stat -c %h large";
    let expected = String::from_utf8(tool(Command::new("sh").args(["-c", list]).current_dir(here("tree"))).stdout).unwrap();
    let digits = vaultberry::digest::hex(key.expose());
    for name in ["aes", "adiantum"] {
        let open = format!(
            "sed 's/../\\\\x&/g' | xargs -0 printf | sudo cryptsetup open --readonly --key-file - \
             --keyfile-size 64 /dev/disk/by-id/virtio-{name} {name}"
        );
        let opened = ssh.run(&open, &digits);
        assert!(opened.status.success(), "{name}: {opened:?}");
        ssh.expect(&format!("sudo e2fsck -fn /dev/mapper/{name} && sudo mount -o ro,noload /dev/mapper/{name} /mnt"));
        let found = ssh.expect(&format!("sudo sh -c 'cd /mnt && {list}'"));
        assert_eq!(found.trim(), expected.trim(), "{name}");
        ssh.expect(&format!("sudo umount /mnt && sudo cryptsetup close {name}"));
    }
}
