//! Kernels and the firmware partition: whatever is cut short, refused or fails, a whole pair boots.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use vaultberry::image::disk::{FIRMWARE_START, ROOT_START};
use vaultberry::image::emulate::{self, Machine};
use vaultberry::kernel::cpio::{self, Entry};
use vaultberry::kernel::pair::verify;
use vaultberry::kernel::switch::Switch;

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::appliance::Run;
use crate::support::card::{cached, decipher, scratch, tool};
use crate::support::firmware::Firmware;
use crate::support::guest::{Guest, Ssh, free_port};
use crate::support::ports::Ports;

/// The card of an appliance in a reader: its firmware partition, and of its root what a kernel's installation reads.
struct Reader {
    folder: TempDir,
    version: String,
}

impl Reader {
    fn new() -> Self {
        let folder = scratch();
        let path = |name: &str| folder.path().join(name);
        for name in ["root/usr/lib", "root/etc", "root/var/lib/vaultberry", "firmware"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let drive = format!("{}@@{FIRMWARE_START}", CARD.image().display());
        tool(Command::new("mcopy").args(["-s", "-Q", "-i", &drive, "::*"]).arg(path("firmware")));
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", CARD.image().display())).arg(format!("of={}", path("root.luks").display()));
        tool(dd.args(["bs=1M", "conv=sparse", "status=none"]).arg(format!("skip={}", ROOT_START >> 20)));
        decipher(&path("root.luks"), &CARD.passphrase(), &path("root.ext4"));
        fs::remove_file(path("root.luks")).unwrap();
        let reader = Self { version: kernel_in(&path("firmware")), folder };
        reader.fetch(&format!("rdump /boot {}", reader.path("root").display()));
        reader.fetch(&format!("rdump /etc/vaultberry {}", reader.path("root/etc").display()));
        let lib = reader.path("root/usr/lib");
        reader.fetch(&format!("rdump /usr/lib/raspi-firmware {}", lib.display()));
        reader.fetch(&format!("rdump /usr/lib/linux-image-{} {}", reader.version, lib.display()));
        let modules = format!("usr/lib/modules/{}", reader.version);
        fs::create_dir_all(reader.path("root").join(&modules)).unwrap();
        for name in ["alias", "builtin", "builtin.modinfo", "dep", "softdep"] {
            let to = reader.path("root").join(&modules).join(format!("modules.{name}"));
            reader.fetch(&format!("dump /{modules}/modules.{name} {}", to.display()));
        }
        fs::remove_file(reader.path("root.ext4")).unwrap();
        reader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fetch(&self, request: &str) {
        tool(Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(self.path("root.ext4")));
    }

    fn initrd(&self) -> PathBuf {
        self.path("root/boot").join(format!("initrd.img-{}", self.version))
    }

    /// Another initramfs, as after each update: with one file more.
    fn update(&self, content: &str) {
        let mut initrd = fs::read(self.initrd()).unwrap();
        cpio::append(&mut initrd, &[Entry::file("update", 0o644, 0, content.as_bytes())]).unwrap();
        fs::write(self.initrd(), initrd).unwrap();
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        command.args(["kernel", verb, "--root"]).arg(self.path("root")).arg("--firmware").arg(self.path("firmware"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command("install").args(arguments).output().unwrap())
    }

    fn refused(&self, told: &str) {
        let before = self.boots();
        let run = self.run(&[]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(told), "{run:?}");
        assert_eq!(self.boots(), before);
        assert!(self.list()["problem"].as_str().unwrap().contains(told.lines().next().unwrap()), "{}", self.list());
    }

    fn list(&self) -> Value {
        serde_json::from_slice(&tool(self.command("list").arg("--json")).stdout).unwrap()
    }

    /// What the firmware would boot, which must be whole.
    fn boots(&self) -> String {
        whole(&self.path("firmware"))
    }
}

/// The pair that a firmware partition boots, if each of its files is as it was written.
fn whole(firmware: &Path) -> String {
    let switch = Switch::read(firmware).unwrap().expect("config.txt names a pair");
    verify(&firmware.join(&switch.boots)).unwrap();
    switch.boots
}

/// The version of the kernel that a firmware partition boots.
fn kernel_in(firmware: &Path) -> String {
    let pair = whole(firmware);
    pair.rsplit_once('-').unwrap().0.to_owned()
}

/// What changes names or makes them last, and what content is written with.
const STEPS: [&str; 7] = ["fsync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "copy_file_range"];

#[test]
fn a_kernel_s_installation_that_is_killed_at_any_step_leaves_a_whole_pair_and_the_next_one_ends_it() {
    let reader = Reader::new();
    let first = reader.boots();
    assert_eq!(reader.run(&[]).stdout, format!("{first} boots already\n"));
    // A boot program that changes, a new pair, and an older one that makes room.
    let mut kills = 0;
    for step in STEPS {
        for number in 1..100 {
            reader.update(&format!("{step} {number}"));
            fs::write(reader.path("root/usr/lib/raspi-firmware/fixup.dat"), format!("{step} {number}")).unwrap();
            let log = reader.path("strace");
            let install = reader.command("install");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-q", "-o"]).arg(&log).arg("-e").arg(format!("trace={step}"));
            strace.arg("-e").arg(format!("inject={step}:signal=KILL:when={number}"));
            let output = strace.arg("--").arg(install.get_program()).args(install.get_args()).output().unwrap();
            let boots = reader.boots();
            if output.status.signal() == Some(9) {
                kills += 1;
                // A step after the switch finds the new pair on trial.
                assert!(boots == first || reader.list()["pairs"].as_array().unwrap().iter().any(|pair| pair["on_trial"] == true));
                continue;
            }
            assert!(output.status.success(), "{output:?}");
            assert_ne!(boots, first);
            break;
        }
    }
    eprintln!("{kills} kills");
    assert!(kills > 25, "{kills}");
    assert!(reader.run(&[]).stdout.contains(" is there already, and tried at the next start"));
    let names: Vec<String> = fs::read_dir(reader.path("firmware"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(&reader.version) || name.contains(".part"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_kernel_that_could_not_open_root_is_refused_and_the_report_has_the_reason() {
    let reader = Reader::new();
    let whole = fs::read(reader.initrd()).unwrap();
    // Cut short, as by a full disk.
    fs::write(reader.initrd(), &whole[..whole.len() / 2]).unwrap();
    reader.refused("would open root");
    // Made for another root.
    let mut other = whole.clone();
    let settings = "luks_uuid = \"00000000-0000-4000-8000-000000000000\"\nwait_seconds = 5\nreboot_after_seconds = 60\n";
    let folders = ["etc", "etc/vaultberry"].map(|path| Entry::folder(path, 0o755, 0));
    let file = Entry::file("etc/vaultberry/unlock.toml", 0o644, 0, settings.as_bytes());
    cpio::append(&mut other, &[&folders[..], &[file]].concat()).unwrap();
    fs::write(reader.initrd(), other).unwrap();
    reader.refused("is for the root 00000000-0000-4000-8000-000000000000");
    // With a key of the appliance in it.
    let mut leaking = whole.clone();
    let phrase = fs::read(reader.path("root/etc/vaultberry/keys/recovery")).unwrap();
    cpio::append(&mut leaking, &[Entry::file("note", 0o600, 0, &phrase)]).unwrap();
    fs::write(reader.initrd(), leaking).unwrap();
    reader.refused("/note holds a secret");
    // Without what opens root.
    let mut without: Vec<Entry> = cpio::read(&whole).unwrap();
    without.retain(|entry| {
        entry.path != "." && !entry.path.ends_with("/dm-crypt.ko.xz") && !entry.path.ends_with("/libcryptsetup.so.12")
    });
    fs::write(reader.initrd(), cpio::write(&without).unwrap()).unwrap();
    reader.refused("the module dm_crypt isn't in the initramfs");
    reader.refused("libcryptsetup.so.12 isn't in the initramfs");
    // What is right again is installed, and the reason forgotten.
    fs::write(reader.initrd(), whole).unwrap();
    reader.update("right");
    assert_eq!(reader.run(&[]).code, Some(0));
    assert_eq!(reader.list()["problem"], Value::Null);
    let run = reader.run(&["7.0"]);
    assert!(run.code == Some(1) && run.stderr.contains("there is no Linux 7.0 with an initramfs"), "{run:?}");
}

/// A copy of the card on a larger one, which remembers what was written to it.
struct Written {
    folder: TempDir,
    port: u16,
}

impl Written {
    fn new() -> Self {
        let folder = scratch();
        let image = folder.path().join("card.img");
        tool(Command::new("cp").arg("--sparse=always").arg(CARD.image()).arg(&image));
        File::options().write(true).open(&image).unwrap().set_len(5 << 30).unwrap();
        Self { folder, port: free_port() }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("card.img")
    }

    /// Starts what `config.txt` says now.
    fn start(&self) -> Running {
        let files = scratch();
        let socket = files.path().join("qmp");
        let mut wanted = guest(&CARD, Machine::Virt);
        (wanted.image, wanted.write, wanted.ssh_port) = (self.image(), true, Some(self.port));
        wanted.extra = Ports::arguments(&socket).into();
        let guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
        Running { guest, ports: Ports::connect(&socket), _files: files }
    }

    /// The firmware partition, as it is now.
    fn firmware(&self) -> Firmware {
        Firmware::of(&self.image())
    }
}

/// A card's guest that runs.
struct Running {
    guest: Guest,
    ports: Ports,
    _files: TempDir,
}

/// How the appliance sees its kernels.
fn check(ssh: &Ssh) -> Value {
    let status = ssh.run("sudo vaultberry status --json", "");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let checks = status["host"]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "the newest kernel boots").unwrap().clone()
}

/// Reboots, by the system itself.
fn reboot(ssh: &Ssh, running: &mut Running) {
    let _ = ssh.run("sudo systemctl reboot", "");
    running.guest.wait_for_end(180);
}

#[test]
fn an_updated_kernel_is_tried_and_stays_when_it_comes_up_and_else_the_old_one_boots_again() {
    let _turn = Turn::take();
    let key = CARD.secret("admin_ed25519");
    let card = Written::new();
    let ssh = Ssh { key: &key, port: card.port };
    let first = card.firmware().boots();
    let mut running = card.start();
    ssh.wait_for("systemctl is-active multi-user.target", 400);

    // Without its partition, or without room on it, nothing changes, and the report says so.
    ssh.expect("echo quiet | sudo tee /etc/default/raspi-extra-cmdline && sudo umount /boot/pi");
    let refused = ssh.run("sudo vaultberry kernel install", "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("isn't mounted at /boot/pi"), "{refused:?}");
    assert_eq!(check(&ssh)["state"], "failed");
    ssh.expect("sudo mount /boot/pi && sudo fallocate -l 380M /boot/pi/junk");
    let refused = ssh.run("sudo vaultberry kernel install", "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("MiB free, and"), "{refused:?}");
    let told = check(&ssh);
    assert!(told["state"] == "failed" && told["hint"].as_str().unwrap().contains("MiB free, and"), "{told}");
    ssh.expect("sudo rm /boot/pi/junk");

    // A kernel package of Debian's, with its own scripts, up to the hook.
    let old = ssh.expect("uname -r").trim().to_owned();
    ssh.copy(&cached("kernel-rt/kernel.deb"), "kernel.deb");
    let updated = ssh.run("sudo dpkg --install kernel.deb 2>&1", "");
    let said = String::from_utf8_lossy(&updated.stdout).into_owned();
    assert!(updated.status.success() && said.contains(&format!("unless it comes up, {first} boots again")), "{said}");
    assert_eq!(ssh.expect("ls /boot/firmware").trim(), "", "nothing is written past vaultberry");
    reboot(&ssh, &mut running);

    // It comes up, and stays.
    let second = card.firmware().boots();
    assert_ne!(second, first);
    let mut running = card.start();
    running.guest.wait_for(&format!("this kernel is on trial: unless the system comes up, {first} boots next"), 120);
    ssh.wait_for("systemctl is-active multi-user.target", 400);
    ssh.wait_for(&format!("sudo vaultberry kernel list --json | grep -F '\"boots_next\":true' | grep -qF {second}"), 60);
    let listed: Value = serde_json::from_str(&ssh.expect("sudo vaultberry kernel list --json")).unwrap();
    let row = listed["pairs"].as_array().unwrap().iter().find(|row| row["name"] == second.as_str()).unwrap().clone();
    assert!(row["boots_next"] == true && row["on_trial"] == false, "{listed}");
    assert_eq!(check(&ssh)["state"], "ok");
    let new = ssh.expect("uname -r").trim().to_owned();
    assert!(new != old && second.starts_with(&new), "{new}");

    // One whose init ends at once; whenever the power fails meanwhile, a whole pair boots.
    ssh.expect("echo init=/bin/false | sudo tee /etc/default/raspi-extra-cmdline");
    ssh.expect("sudo systemd-run -q --unit=third vaultberry kernel install && until ls -d /boot/pi/*.part; do :; done");
    let cut = running.ports.frozen(|| card.firmware());
    assert!(cut.names("").contains(".part/"), "in the midst of writing: {}", cut.names(""));
    assert_eq!(cut.boots(), second);
    cut.assert_sound();
    ssh.expect("while systemctl is-active --quiet third; do sleep 0.1; done");
    let cut = running.ports.frozen(|| card.firmware());
    let third = cut.boots();
    assert!(![&first, &second].contains(&&third), "{third}");
    cut.assert_sound();
    reboot(&ssh, &mut running);

    // It doesn't come up.
    let mut running = card.start();
    running.guest.wait_for("this kernel is on trial", 120);
    running.guest.wait_for("Kernel panic", 120);
    running.guest.wait_for_end(60);
    let _running = card.start();
    ssh.wait_for("systemctl is-active multi-user.target", 400);
    ssh.wait_for("sudo vaultberry kernel list | grep -qF \"didn't come up\"", 60);
    assert_eq!(ssh.expect("sed -n 's/.*vaultberry.pair=\\([^ ]*\\).*/\\1/p' /proc/cmdline").trim(), second);
    let told = check(&ssh);
    assert!(told["hint"].as_str().unwrap().starts_with(&format!("{third} didn't come up, and {second} boots again")), "{told}");
    let refused = ssh.run("sudo vaultberry kernel install", "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("was tried and didn't come up"), "{refused:?}");
}

#[test]
fn a_larger_card_is_used_whole_though_the_power_fails() {
    let _turn = Turn::take();
    let key = CARD.secret("admin_ed25519");
    let card = Written::new();
    let ssh = Ssh { key: &key, port: card.port };
    let mut cut = card.start();
    cut.guest.wait_for("root's partition has the whole card now", 120);
    // The kernel's own word, in the midst of resize2fs.
    cut.guest.wait_for("resizing filesystem from", 300);
    drop(cut);
    let mut running = card.start();
    ssh.wait_for("systemctl is-active multi-user.target", 400);
    let size: u64 = ssh.expect("df --output=size -B1 / | tail -n 1").trim().parse().unwrap();
    assert!(size > 4 << 30, "{size}");
    let _ = ssh.run("sudo systemctl poweroff", "");
    running.guest.wait_for_end(180);
    let (volume, plain) = (card.folder.path().join("root.luks"), card.folder.path().join("plain"));
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", card.image().display())).arg(format!("of={}", volume.display()));
    tool(dd.args(["bs=1M", "conv=sparse", "status=none"]).arg(format!("skip={}", ROOT_START >> 20)));
    decipher(&volume, &CARD.passphrase(), &plain);
    tool(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&plain));
}
