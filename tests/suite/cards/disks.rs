//! Backup disks that come and go, in QEMU: plugged in late, pulled out, put back, in turn.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use vaultberry::image::emulate::{self, Machine};

use crate::cards::boot::{CARD, OTHER, SERIAL, guest};
use crate::support::Turn;
use crate::support::card::{scratch, tool};
use crate::support::guest::{Guest, Ssh, free_port};
use crate::support::ports::Ports;

/// What the command says when it fails.
fn refusal(ssh: &Ssh, command: &str) -> String {
    let output = ssh.run(command, "");
    assert!(!output.status.success(), "{command}: {output:?}");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn disks_that_come_and_go_are_opened_one_at_a_time_and_a_run_writes_to_nothing_else() {
    let _turn = Turn::take();
    let (files, port) = (scratch(), free_port());
    let socket = files.path().join("qmp");
    let disk = |name: &str| -> PathBuf {
        let path = files.path().join(name);
        File::create(&path).unwrap().set_len(256 << 20).unwrap();
        path
    };
    let (home, away) = (disk("home"), disk("away"));
    // As it comes from the shop.
    tool(Command::new("/usr/sbin/mkfs.vfat").args(["-n", "EASYSTORE"]).arg(&away));
    let mut wanted = guest(&CARD, Machine::Virt);
    wanted.ssh_port = Some(port);
    wanted.extra = Ports::arguments(&socket).into();
    let _guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    let mut ports = Ports::connect(&socket);
    let key = CARD.secret("admin_ed25519");
    let ssh = Ssh { key: &key, port };
    ssh.wait_for("systemctl is-active multi-user.target", 400);

    // No disk: nothing is written to the mount point.
    let listed = ssh.expect("sudo vaultberry disk list");
    assert!(listed.contains(&format!("{SERIAL}: backup disk, not here, never used")), "{listed}");
    assert!(refusal(&ssh, "sudo vaultberry backup run").contains("the backup disk is not mounted at /mnt/backup"));
    assert_eq!(ssh.expect("sudo ls -A /mnt/backup").trim(), "");
    assert!(refusal(&ssh, "sudo vaultberry disk open").contains(&format!("the backup disk {SERIAL} or {OTHER} isn't there")));

    // A blank one is formatted and opened; this CPU has instructions for AES.
    ports.plug_in_disk(&home, SERIAL);
    let mounted = "findmnt -n -o SOURCE /mnt/backup";
    ssh.wait_for(mounted, 120);
    let status = ssh.expect("sudo cryptsetup status vaultberry-backup; sudo cryptsetup status root");
    assert!(status.contains("aes-xts-plain64") && status.contains("xchacha12,aes-adiantum-plain64"), "{status}");
    ssh.expect("echo kept | sudo tee /mnt/backup/note && sync");

    // Pulled out while it is in use, and put back.
    ssh.expect("sudo systemd-run -q --unit=reader sh -c 'exec 3>/mnt/backup/open; sleep 20'");
    ports.pull(SERIAL);
    ssh.wait_for("! findmnt /mnt/backup", 60);
    assert!(refusal(&ssh, "sudo vaultberry backup run").contains("the backup disk is not mounted at /mnt/backup"));
    ports.plug_in_disk(&home, SERIAL);
    ssh.wait_for(mounted, 150);
    assert_eq!(ssh.expect("sudo cat /mnt/backup/note").trim(), "kept");

    // A run says which disk it has written to; meanwhile the disk stays.
    let _ = ssh.run("sudo vaultberry backup run", "");
    let held = refusal(&ssh, "sudo flock /run/lock/vaultberry.lock vaultberry disk detach");
    assert!(held.contains("a run is at work"), "{held}");
    let detached = ssh.expect("sudo vaultberry disk detach");
    assert!(detached.contains(&format!("the disk {SERIAL} is closed: it can be pulled out")), "{detached}");
    ports.pull(SERIAL);

    // The other one is as it came: it isn't touched before a person says so.
    ports.plug_in_disk(&away, OTHER);
    ssh.wait_for(&format!("sudo vaultberry disk list | grep -F {OTHER} | grep -F 'not open; it holds a '"), 60);
    let refused = refusal(&ssh, "sudo vaultberry disk init </dev/null");
    assert!(refused.contains(&format!("`vaultberry disk init --yes-really {OTHER}` erases it")), "{refused}");
    assert!(refusal(&ssh, "sudo vaultberry disk init --yes-really VBTEST03").contains("the config names VBTEST01, VBTEST02"));
    assert!(refusal(&ssh, "sudo vaultberry disk open").contains("it holds a "));
    ssh.expect(&format!("sudo vaultberry disk init --yes-really {OTHER} && sudo vaultberry disk open"));
    let status = ssh.run("sudo vaultberry status --json", "");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let disks = status["disks"].as_array().unwrap();
    assert!(disks[0]["serial"] == SERIAL && disks[0]["open"] == false && disks[0]["last_used"].is_string(), "{status}");
    assert!(disks[1]["serial"] == OTHER && disks[1]["open"] == true && disks[1]["last_used"].is_null(), "{status}");

    // Both are in: the first stays open. What was opened can't be erased.
    ports.plug_in_disk(&home, SERIAL);
    ssh.wait_for(&format!("sudo vaultberry disk list | grep -F {SERIAL} | grep -F 'backup disk, not open'"), 60);
    assert!(refusal(&ssh, &format!("sudo vaultberry disk init --yes-really {OTHER}")).contains("is open"));
    let open = ssh.expect("sudo vaultberry disk list");
    assert!(open.lines().any(|line| line.contains(OTHER) && line.contains("backup disk, open")), "{open}");

    // Its copy on a larger disk takes all of that.
    ssh.expect("sudo vaultberry disk detach");
    ports.pull(OTHER);
    ports.pull(SERIAL);
    File::options().write(true).open(&away).unwrap().set_len(512 << 20).unwrap();
    ports.plug_in_disk(&away, OTHER);
    ssh.wait_for(mounted, 60);
    ssh.expect("sudo vaultberry disk grow");
    let size: u64 = ssh.expect("df --output=size -B1 /mnt/backup | tail -n 1").trim().parse().unwrap();
    assert!(size > 400 << 20, "{size}");

    // Both are in when their units start, as at boot: the config's order counts.
    ports.plug_in_disk(&home, SERIAL);
    ssh.wait_for(&format!("sudo vaultberry disk list | grep -F {SERIAL} | grep -F 'backup disk, not open'"), 60);
    ssh.expect("sudo systemctl restart 'vaultberry-disk@*'");
    ssh.wait_for(&format!("sudo vaultberry disk list | grep -F {SERIAL} | grep -F 'backup disk, open'"), 60);
    assert_eq!(ssh.expect("sudo cat /mnt/backup/note").trim(), "kept");
    let failed = ssh.expect("systemctl list-units --failed --plain --no-legend");
    assert!(!failed.contains("vaultberry-disk@"), "{failed}");
}
