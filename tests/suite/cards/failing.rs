//! Starts at which a service fails, in QEMU, one after another: the appliance can be reached all the same, and tells of it.

use vaultberry::image::emulate::{self, Machine};

use crate::cards::boot::{CARD, guest};
use crate::support::Turn;
use crate::support::card::scratch;
use crate::support::guest::{Guest, Ssh, free_port};

/// What an appliance starts, of systemd, Debian and its own; not systemd-networkd and sshd, without which nobody comes in.
const SERVICES: [&str; 17] = [
    "systemd-journald",
    "systemd-udevd",
    "systemd-tmpfiles-setup",
    "systemd-sysctl",
    "systemd-modules-load",
    "systemd-random-seed",
    "systemd-resolved",
    "systemd-timesyncd",
    "systemd-logind",
    "systemd-user-sessions",
    "dbus",
    "cron",
    "nftables",
    "fail2ban",
    "vaultberry-first-boot",
    "vaultberry-grow",
    "vaultberry-kernel",
];

#[test]
#[ignore = "a quarter of an hour of starts: `make test-guests`"]
fn no_service_that_fails_keeps_the_admin_out_or_goes_untold() {
    let _turn = Turn::take();
    let (files, port) = (scratch(), free_port());
    let mut wanted = guest(&CARD, Machine::Virt);
    wanted.ssh_port = Some(port);
    let _guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    let key = CARD.secret("admin_ed25519");
    let ssh = Ssh { key: &key, port };
    ssh.wait_for("systemctl is-active multi-user.target", 400);
    for (before, service) in SERVICES.iter().enumerate() {
        let failing = "[Service]\\nExecStart=\\nExecStart=/bin/false\\nExecStop=\\nRestart=no\\n";
        let folder = format!("/run/systemd/system/{service}.service.d");
        ssh.expect(&format!(
            "sudo mkdir -p {folder} && printf '{failing}' | sudo tee {folder}/failing.conf && sudo systemctl daemon-reload"
        ));
        // The kernel runs on, and root stays open; all else is as at any start. Of what the kernel keeps, the firewall goes.
        let _ = ssh.run("sudo nft flush ruleset; sudo systemctl soft-reboot", "");
        let begun = std::time::Instant::now();
        let again = format!("test $(sudo systemctl show --property=SoftRebootsCount --value) = {}", before + 1);
        ssh.wait_for(&format!("{again} && sudo systemctl is-active multi-user.target"), 120);
        let state = ssh.run(&format!("sudo systemctl is-failed {service}"), "");
        let status = ssh.run("sudo vaultberry status", "");
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        eprintln!("{service}: {:?} after {:.0} s", String::from_utf8_lossy(&state.stdout).trim(), begun.elapsed().as_secs_f64());
        assert!(state.status.success(), "{service}: {state:?}");
        assert!(status.contains(&format!("{service}.service")), "{service}: {status}");
        ssh.expect(&format!("sudo rm {folder}/failing.conf"));
    }
}
