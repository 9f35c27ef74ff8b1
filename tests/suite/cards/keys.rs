//! `vaultberry key` on the root of a built image, by the program, with sticks as people make them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use vaultberry::image::emulate::{self, Machine};

use crate::cards::boot::{CARD, SERIAL, guest};
use crate::support::Turn;
use crate::support::appliance::Run;
use crate::support::card::{scratch, tool};
use crate::support::guest::{Guest, Ssh, free_port};
use crate::support::ports::Ports;

/// A copy of the card's image.
struct Scene {
    folder: TempDir,
    image: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = scratch();
        let image = folder.path().join("card.img");
        tool(Command::new("cp").arg("--sparse=always").arg(CARD.image()).arg(&image));
        Self { folder, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A stick without partitions.
    fn plain_stick(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        tool(Command::new("/usr/sbin/mkfs.vfat").args(["-n", "SPARE"]).arg(&path));
        path
    }

    fn key(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
        command.arg("key").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !arguments.contains(&"make") {
            command.arg("--root").arg(&self.image);
        }
        let mut child = command.spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Run::of(child.wait_with_output().unwrap())
    }

    fn works(&self, arguments: &[&str], input: &str) -> String {
        let run = self.key(arguments, input);
        assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        run.stdout
    }

    fn refused(&self, arguments: &[&str], input: &str, told: &str) {
        let run = self.key(arguments, input);
        assert!(run.code == Some(1) && run.stderr.contains(told), "{arguments:?}: {run:?}");
    }

    /// The names of those who hold a key, by keyslot.
    fn names(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.works(&["stick", "list", "--json"], "")).unwrap();
        let keys = list["keys"].as_array().unwrap().iter().map(|key| {
            let holder = &key["holder"];
            holder["name"].as_str().or(holder["kind"].as_str()).unwrap().to_owned()
        });
        keys.collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_keys_of_an_image_are_added_rotated_and_revoked() {
    let scene = Scene::new();
    let (stick, spare) = (scene.path("stick.img"), scene.plain_stick("spare.img"));
    let (secrets, image) = (CARD.secrets(), CARD.image());
    scene.works(&["stick", "make", text(&stick), "--image", text(&image), "--secrets", text(&secrets)], "");
    assert!(scene.works(&["check", text(&stick)], "").contains(" opens this appliance: keyslot 0, key "));
    scene.refused(&["check", text(&spare)], "", "holds no key for this appliance");

    let phrase = format!("{}\n", CARD.passphrase().expose());
    scene.refused(&["stick", "add", text(&spare)], "not this one\n", "this passphrase doesn't open this appliance\nhint: ");
    // Its firmware partition would take a key, in clear, and no boot would look there.
    scene.refused(&["stick", "add", text(&scene.image)], &phrase, "is where root is: a key there would go with it to the thief");
    scene.works(&["stick", "add", text(&spare), "--name", "spare"], &phrase);
    assert_eq!(scene.names(), ["key", "recovery", "spare"]);
    scene.works(&["check", text(&spare)], "");
    scene.works(&["rotate", text(&stick)], "");
    scene.works(&["check", text(&stick)], "");
    // The one that the build has made.
    let folder = scene.path("mounted/vaultberry");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(CARD.key(), folder.join(CARD.key().file_name().unwrap())).unwrap();
    scene.refused(&["check", text(&scene.path("mounted"))], "", "doesn't open this appliance\nhint: ");

    // A header from before, and what it does.
    let header = scene.path("header.luks");
    scene.works(&["header", "backup", text(&header)], "");
    assert_eq!(fs::metadata(&header).unwrap().permissions().mode() & 0o777, 0o600);
    scene.refused(&["header", "backup", text(&header)], "", "is there already\nhint: ");
    assert!(scene.works(&["stick", "revoke", "spare"], "").starts_with("opens this appliance no more: keyslot 2, key "));
    scene.refused(&["check", text(&spare)], "", "doesn't open this appliance");
    scene.refused(&["header", "restore", text(&header)], "", "hint: say --yes");
    scene.works(&["header", "restore", text(&header), "--yes"], "");
    scene.works(&["check", text(&spare)], "");
    scene.works(&["stick", "revoke", "spare"], "");
    let id = scene.works(&["check", text(&stick)], "").trim().rsplit(' ').next().unwrap().to_owned();
    scene.refused(&["stick", "revoke", &id], "", "is the last key on a stick");

    let sheet = scene.path("sheet.txt");
    scene.works(&["recovery", "rotate", "--with", text(&stick), "--sheet", text(&sheet)], "");
    assert_eq!(fs::metadata(&sheet).unwrap().permissions().mode() & 0o777, 0o600);
    // A key that may open something stays.
    scene.refused(&["stick", "add", text(&spare)], &phrase, "has another key for this root, ");
    tool(Command::new("mdel").arg("-i").arg(&spare).arg(format!("::vaultberry/{}.key", CARD.uuid)));
    scene.refused(&["stick", "add", text(&spare)], &phrase, "this passphrase doesn't open this appliance");
    let printed = fs::read_to_string(&sheet).unwrap();
    let new = printed.lines().skip_while(|line| *line != "Recovery passphrase:").nth(2).unwrap();
    scene.works(&["stick", "add", text(&spare), "--name", "again"], &format!("{new}\n"));
    assert_eq!(scene.names().len(), 3);
    // The rest of the image is as it was.
    let last = |path: &Path| tool(Command::new("sh").args(["-c", "tail -c +600000000 \"$0\" | sha256sum"]).arg(path)).stdout;
    assert_eq!(last(&scene.image), last(&image));
}

/// The same on an appliance that runs, where sticks are devices: written, mounted anew and read back. One with the image's key is
/// in it from the beginning and can't be written: `/dev/sda`.
#[test]
#[ignore = "takes many minutes of emulation: make test-guests"]
fn keys_change_on_an_appliance_that_runs() {
    let _turn = Turn::take();
    let (files, port) = (scratch(), free_port());
    let (folder, socket) = (files.path(), files.path().join("qmp"));
    let disk = folder.join("disk");
    File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let mut wanted = guest(&CARD, Machine::Virt);
    wanted.disk = Some((disk, SERIAL.to_owned()));
    wanted.ssh_port = Some(port);
    wanted.extra = Ports::arguments(&socket).into();
    let _guest = Guest::start(emulate::command(&wanted, folder).unwrap());
    let mut ports = Ports::connect(&socket);
    let key = CARD.secret("admin_ed25519");
    let ssh = Ssh { key: &key, port };
    ssh.wait_for("findmnt /mnt/backup", 400);

    let (stick, spare) = (folder.join("stick"), folder.join("spare"));
    fs::copy(CARD.secret("stick.img"), &stick).unwrap();
    File::create(&spare).unwrap().set_len(8 << 20).unwrap();
    tool(Command::new("/usr/sbin/mkfs.vfat").args(["-n", "SPARE"]).arg(&spare));
    let mut device = |image: &Path, id: &str| {
        ports.plug_in_disk(image, id);
        ssh.wait_for(&format!("readlink -f /dev/disk/by-id/usb-*_{id}-0:0 | grep /dev/sd"), 60).trim().to_owned()
    };
    let (stick, spare) = (device(&stick, "STICK"), device(&spare, "SPARE"));
    let opens = |stick: &str| ssh.run(&format!("sudo vaultberry key check {stick}"), "").status.success();
    assert!(opens("/dev/sda") && opens(&stick) && !opens(&spare));
    ssh.expect(&format!("sudo vaultberry key rotate {stick}"));
    assert!(opens(&stick) && !opens("/dev/sda"), "the old key is dead");

    let phrase = CARD.passphrase();
    let added = ssh.run(&format!("sudo vaultberry key stick add {spare} --name spare"), &format!("{}\n", phrase.expose()));
    assert!(added.status.success(), "{added:?}");
    assert!(opens(&spare));
    ssh.expect("sudo vaultberry key stick revoke spare");
    assert!(!opens(&spare) && opens(&stick));

    // Root and the open disk take it.
    ssh.expect(&format!("sudo vaultberry key recovery rotate --with {stick} --sheet /run/sheet"));
    let new = "sudo sed -n '/^Recovery passphrase:/{n;n;s/^ *//;p}' /run/sheet";
    for volume in ["root", "vaultberry-backup"] {
        let device = format!("$(sudo cryptsetup status {volume} | awk '$1 == \"device:\" {{ print $2 }}')");
        let open = format!("sudo cryptsetup open --test-passphrase {device} --key-file -");
        ssh.expect(&format!("{new} | tr -d '\\n' | {open}"));
        let old = ssh.run(&open, phrase.expose());
        assert_eq!(old.status.code(), Some(2), "{volume}: {old:?}");
    }
}
