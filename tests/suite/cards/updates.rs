//! Updates on a running appliance, from a small archive that is signed and named as Debian's own for security.

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use serde_json::Value;
use vaultberry::digest;
use vaultberry::image::emulate::{self, Machine};
use vaultberry::updates::HELD;

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::card::{scratch, tool};
use crate::support::gnupg::GnuPg;
use crate::support::guest::{Guest, Ssh, free_port};

/// A package that is upgraded by itself, and one that boots by its name, and so isn't.
const PROBE: &str = "vaultberry-probe";
const HELD_PROBE: &str = "firmware-vaultberry-probe";

const UNIT: &str = "apt-daily-upgrade.service";

/// Builds one version of a package without content, and gives what an archive's index says of it.
fn package(folder: &Path, name: &str, version: u32) -> String {
    let tree = folder.join(format!("{name}-{version}"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\nDescription: a probe\n"
    );
    fs::write(tree.join("DEBIAN/control"), &control).unwrap();
    let file = format!("{name}_{version}_all.deb");
    tool(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(folder.join(&file)));
    fs::remove_dir_all(tree).unwrap();
    let size = fs::metadata(folder.join(&file)).unwrap().len();
    let sum = digest::sha256_of(&folder.join(&file)).unwrap();
    format!("{control}Filename: pool/{file}\nSize: {size}\nSHA256: {sum}\n\n")
}

/// An archive with the second versions, and the first ones beside it, as a tar file.
fn archive(folder: &Path, owner: &GnuPg) {
    let root = folder.join("archive");
    let suite = root.join("dists/trixie-security");
    fs::create_dir_all(suite.join("main/binary-arm64")).unwrap();
    fs::create_dir_all(root.join("pool")).unwrap();
    fs::create_dir_all(root.join("first")).unwrap();
    let mut packages = String::new();
    for name in [PROBE, HELD_PROBE] {
        package(&root.join("first"), name, 1);
        packages.push_str(&package(&root.join("pool"), name, 2));
    }
    fs::write(suite.join("main/binary-arm64/Packages"), &packages).unwrap();
    let release = format!(
        "Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\nCodename: trixie-security\nDate: {}\n\
         Architectures: all arm64\nComponents: main\nSHA256:\n {} {} main/binary-arm64/Packages\n",
        Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S UTC"),
        digest::sha256_of(&suite.join("main/binary-arm64/Packages")).unwrap(),
        packages.len(),
    );
    fs::write(suite.join("Release"), release).unwrap();
    let mut gpg = Command::new("gpg");
    gpg.env("GNUPGHOME", owner.home()).args(["--batch", "--clearsign", "--output"]).arg(suite.join("InRelease"));
    tool(gpg.arg(suite.join("Release")));
    fs::write(root.join("key.asc"), owner.certificate()).unwrap();
    tool(Command::new("tar").arg("-cf").arg(folder.join("archive.tar")).arg("-C").arg(&root).arg("."));
}

fn version(ssh: &Ssh, package: &str) -> String {
    ssh.expect(&format!("dpkg-query -W -f '${{Version}}' {package}"))
}

/// What `status` knows of the appliance itself.
fn host(ssh: &Ssh) -> Value {
    let status: Value = serde_json::from_slice(&ssh.run("sudo vaultberry status --json", "").stdout).unwrap();
    status["host"].clone()
}

fn journal(ssh: &Ssh) -> String {
    ssh.expect(&format!("sudo journalctl --no-pager --output cat --unit {UNIT}"))
}

#[test]
fn security_updates_come_by_themselves_and_what_boots_only_when_somebody_asks() {
    let _turn = Turn::take();
    let (folder, owner, key, port) = (scratch(), GnuPg::new(), CARD.secret("admin_ed25519"), free_port());
    archive(folder.path(), &owner);
    let image = folder.path().join("card.img");
    tool(Command::new("cp").arg("--sparse=always").arg(CARD.image()).arg(&image));
    let mut wanted = guest(&CARD, Machine::Virt);
    (wanted.image, wanted.write, wanted.ssh_port) = (image, true, Some(port));
    let mut guest = Guest::start(emulate::command(&wanted, folder.path()).unwrap());
    let ssh = Ssh { key: &key, port };
    ssh.wait_for("systemctl is-active multi-user.target", 400);

    // As it was built, what boots is held, and the window is where the config has it by default.
    let holds = ssh.expect("apt-mark showhold");
    assert!(HELD.iter().all(|name| holds.lines().any(|held| held == *name)), "{holds}");
    let next = ssh.expect("systemctl show --property=NextElapseUSecRealtime --value apt-daily-upgrade.timer");
    assert!(next.contains(" 14:3"), "{next}");
    let checked = ssh.run("sudo vaultberry harden check", "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));

    ssh.copy(&folder.path().join("archive.tar"), "archive.tar");
    ssh.expect(&format!(
        "set -e; sudo mkdir /srv/archive; sudo tar -xf archive.tar -C /srv/archive --no-same-owner; \
         sudo dpkg -i /srv/archive/first/*.deb; sudo apt-mark hold {HELD_PROBE}; \
         sudo rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; \
         echo 'deb [signed-by=/srv/archive/key.asc] file:/srv/archive trixie-security main' | \
         sudo tee /etc/apt/sources.list.d/security.list"
    ));

    // Not while a run is at work.
    ssh.expect("sudo systemd-run -q --unit=holder flock /run/lock/vaultberry.lock sleep infinity");
    ssh.wait_for("! sudo flock -n /run/lock/vaultberry.lock true", 20);
    ssh.expect(&format!("sudo systemctl start {UNIT}"));
    assert_eq!(version(&ssh, PROBE), "1");
    assert!(journal(&ssh).contains("nothing is installed: a run or another upgrade is at work ("), "{}", journal(&ssh));
    ssh.expect("sudo systemctl stop holder");

    // In the window, one is upgraded and the other isn't. A restart that a package asks for isn't made, and is told.
    ssh.expect(
        "set -e; sudo touch /run/reboot-required; sudo cp /bin/sleep /usr/local/bin/old; \
         sudo systemd-run -q --unit=old /usr/local/bin/old infinity; sleep 1; sudo rm /usr/local/bin/old",
    );
    ssh.expect(&format!("sudo systemctl start {UNIT}"));
    assert_eq!((version(&ssh, PROBE).as_str(), version(&ssh, HELD_PROBE).as_str()), ("2", "1"), "{}", journal(&ssh));
    assert!(journal(&ssh).contains("there is none: the configuration says reboot = \"never\""), "{}", journal(&ssh));
    let told = host(&ssh);
    let upgraded = told["upgraded"].as_array().unwrap();
    assert!(upgraded.iter().any(|one| one["package"] == PROBE && one["from"] == "1" && one["to"] == "2"), "{told}");
    assert_eq!(told["updates"]["held"], serde_json::json!([HELD_PROBE]), "{told}");
    assert_eq!(told["restart_wanted"], "a package asks for it; running since before an upgrade: old");

    // An archive that is away is told, by the unit and by `status`.
    ssh.expect("sudo mv /srv/archive /srv/away");
    assert!(!ssh.run(&format!("sudo systemctl start {UNIT}"), "").status.success());
    assert!(journal(&ssh).contains("error: looking for updates: fetching the package lists: "), "{}", journal(&ssh));
    let told = host(&ssh);
    let hint = format!("look at `systemctl status` of {UNIT}");
    assert!(told["checks"].as_array().unwrap().iter().any(|check| check["hint"] == hint && check["state"] == "failed"), "{told}");
    ssh.expect(&format!("sudo mv /srv/away /srv/archive; sudo systemctl reset-failed {UNIT}"));

    // By hand, everything; and it is held again.
    let checked = ssh.run("sudo vaultberry update --check", "");
    assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    assert_eq!(String::from_utf8_lossy(&checked.stdout), format!("{HELD_PROBE}: 1 -> 2, for security, held\n"));
    let refused = ssh.run("sudo vaultberry update", "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nobody has agreed"), "{refused:?}");
    assert_eq!(version(&ssh, HELD_PROBE), "1");
    let said = ssh.expect("sudo vaultberry update --yes");
    assert_eq!(version(&ssh, HELD_PROBE), "2");
    assert!(said.contains(" boots already\n") && said.contains("the key stick is in: `sudo systemctl reboot`"), "{said}");
    let holds = ssh.expect("apt-mark showhold");
    assert!(HELD.iter().chain(&[HELD_PROBE]).all(|name| holds.lines().any(|held| held == *name)), "{holds}");

    // What the config has is mended when it was changed.
    ssh.expect(&format!(
        "sudo apt-mark unhold {}; echo 'Unattended-Upgrade::Origins-Pattern:: \"origin=*\";' | sudo tee /etc/apt/apt.conf.d/99-more",
        HELD[1]
    ));
    let checked = ssh.run("sudo vaultberry harden check", "");
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(text.matches("BROKEN").count(), 2, "{text}");
    // Also without a network, from which the clock is learnt; and a new window is the next one.
    ssh.expect(
        "set -e; sudo rm /etc/apt/apt.conf.d/99-more; \
         printf '[updates]\nat = \"10:10\"\nreboot = \"with-stick\"\n' | sudo tee -a /etc/vaultberry/appliance.toml; \
         sudo vaultberry harden apply",
    );
    let next = ssh.expect("systemctl show --property=NextElapseUSecRealtime --value apt-daily-upgrade.timer");
    assert!(next.contains(" 10:1"), "{next}");

    // Where the config allows it, the restart is made while the stick is in, and never while it isn't.
    let authorize = |yes: u8| {
        format!(
            "set -e; device=$(cat stick 2>/dev/null || readlink -f /sys/class/block/$(lsblk -nro NAME,LABEL | grep VB-KEY | cut -c1-3) | \
             sed 's|/[^/]*:1.0/.*||'); echo $device >stick; echo {yes} | sudo tee $device/authorized; sudo udevadm settle"
        )
    };
    ssh.expect(&authorize(0));
    ssh.expect(&format!("sudo systemctl start {UNIT}"));
    assert!(journal(&ssh).contains("there is none: no stick is in whose key opens root"), "{}", journal(&ssh));
    ssh.expect(&authorize(1));
    ssh.wait_for("lsblk -nro LABEL | grep VB-KEY", 30);
    let _ = ssh.run(&format!("sudo systemctl start --no-block {UNIT}"), "");
    guest.wait_for_end(400);
}
