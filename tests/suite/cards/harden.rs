//! What keeps others out, in QEMU: real logins that fail, a scan of all ports, and an audit of sshd, from machines of a network
//! of the guest's own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use vaultberry::image::emulate::{self, Machine};

use crate::cards::boot::{CARD, guest};
use crate::support::card::{scratch, tool};
use crate::support::guest::{Guest, client};
use crate::support::lan::{Lan, until};
use crate::support::{Turn, cached};

/// The appliance's address in the network, and in a foreign one that the same cable carries.
const APPLIANCE: &str = "10.9.0.1";
const APPLIANCE_ABROAD: &str = "198.51.100.1";

/// What the second card of QEMU's has by itself (RFC 4291 appendix A).
const LINK_LOCAL: &str = "fe80::5054:ff:fe12:3457";

/// The admin's own machine, which is never banned; others in the network; one that isn't let in.
const ADMIN: &str = "10.9.0.9";
const NEIGHBOUR: &str = "10.9.0.2";
const ANOTHER: &str = "10.9.0.3";
const HASTY: &str = "10.9.0.4";
const STRANGER: &str = "198.51.100.2";

/// An appliance that can be started again, and the network that it is in.
struct Scene {
    lan: Lan,
    folder: TempDir,
    begun: Instant,
}

impl Scene {
    fn new() -> Self {
        let addresses = [ADMIN, NEIGHBOUR, ANOTHER, HASTY, STRANGER].map(|address| format!("{address}/24"));
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let scene = Self { lan: Lan::new(&addresses), folder: scratch(), begun: Instant::now() };
        tool(Command::new("cp").arg("--sparse=always").arg(CARD.image()).arg(scene.image()));
        tool(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(scene.path("wrong")));
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("card.img")
    }

    fn boot(&self) -> Guest {
        let mut wanted = guest(&CARD, Machine::Virt);
        wanted.image = self.image();
        wanted.write = true;
        wanted.extra = Lan::plug();
        wanted.extra.extend(["-device", "i6300esb", "-action", "watchdog=reset"].map(str::to_owned));
        let command = emulate::command(&wanted, self.folder.path()).unwrap();
        let mut guest = Guest::start(self.lan.inside(&command));
        guest.wait_for("vaultberry login:", 400);
        guest
    }

    /// Says how far it is.
    fn tell(&self, what: &str) {
        eprintln!("{:5.1} s after the beginning: {what}", self.begun.elapsed().as_secs_f64());
    }

    /// What the admin's command comes to.
    fn run(&self, command: &str) -> Output {
        self.lan.ssh(ADMIN, &CARD.secret("admin_ed25519"), &format!("admin@{APPLIANCE}"), command)
    }

    fn expect(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn wait(&self, command: &str, seconds: u64) {
        until(command, seconds, || self.run(command).status.success());
    }

    /// The names of the rules that aren't kept, which the exit code agrees with.
    fn broken(&self, command: &str) -> Vec<String> {
        let output = self.run(&format!("sudo vaultberry harden {command} --json"));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let rules = record["rules"].as_array().unwrap();
        let broken = rules.iter().filter(|rule| rule["found"] != rule["wanted"]);
        let names: Vec<String> = broken.map(|rule| format!("{}: {}", rule["name"].as_str().unwrap(), rule["found"])).collect();
        assert_eq!(output.status.code(), Some(i32::from(!names.is_empty())), "{output:?}");
        names
    }

    /// Logs in with a key that isn't the admin's, from there.
    fn fail(&self, from: &str) {
        let output = self.lan.ssh(from, &self.path("wrong"), &format!("admin@{APPLIANCE}"), "true");
        assert_eq!(output.status.code(), Some(255), "{output:?}");
    }

    /// The seconds that an address was banned for, newest last, as fail2ban wrote them down.
    fn bans(&self, address: &str) -> Vec<u64> {
        let query = format!(
            "import sqlite3; print(*(row[0] for row in sqlite3.connect(\"/var/lib/fail2ban/fail2ban.sqlite3\")\
             .execute(\"SELECT bantime FROM bans WHERE ip = ? ORDER BY timeofban\", [\"{address}\"])))"
        );
        let text = self.expect(&format!("sudo python3 -c '{query}'"));
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }
}

#[test]
fn nobody_comes_in_who_should_not() {
    let _turn = Turn::take();
    let scene = Scene::new();
    let mut first = plugged_in(&scene);

    // As it was built, all is as it should be, before anybody did anything.
    assert_eq!(scene.broken("check"), [""; 0]);
    let firewall_first = "a=$(systemctl show --property=ActiveEnterTimestampMonotonic --value nftables); \
                          b=$(systemctl show --property=InactiveExitTimestampMonotonic --value systemd-networkd); \
                          test $a -gt 0 && test $a -lt $b";
    scene.expect(firewall_first);
    services_may_do_little(&scene);
    what_is_changed_is_found_and_mended(&scene);
    scene.tell("what is changed is found and mended");

    // What the owner changes in the config, `harden apply` brings to the programs.
    scene.expect("sudo sed -i '/^never_ban/a ban_after = 3\\nban_for = \"1m\"' /etc/vaultberry/appliance.toml");
    assert!(scene.broken("check").iter().any(|rule| rule.starts_with("fail2ban: failures until a ban")));
    assert_eq!(scene.broken("apply"), [""; 0]);
    eprintln!("{}", scene.expect("sudo vaultberry harden check"));

    a_card_in_a_reader_is_an_alarm(&scene);
    scene.tell("a card in a reader is an alarm");
    a_full_disk_and_a_full_memory_keep_nobody_out(&scene);
    scene.tell("a full disk and a full memory keep nobody out");
    only_ssh_is_open(&scene);
    scene.tell("only ssh is open");
    who_comes_too_often_is_kept_waiting(&scene);
    scene.tell("who comes too often is kept waiting");
    sshd_stands_an_audit(&scene);
    scene.tell("sshd stands an audit");
    who_fails_is_banned(&scene);
    scene.tell("who fails is banned");
    nobody_else_goes_out(&scene);
    scene.tell("nobody else goes out");

    let _ = scene.run("sudo systemctl poweroff");
    first.wait_for_end(180);
    drop(first);
    let mut second = scene.boot();
    scene.wait("true", 120);
    scene.wait("systemctl is-active multi-user.target", 200);
    until("the ban that outlives a start", 60, || !scene.lan.connects(ANOTHER, APPLIANCE, 22));
    assert_eq!(scene.broken("check"), [""; 0]);

    // systemd crashes, and so asks the watchdog no more to wait. QEMU ends instead of starting anew.
    assert_eq!(scene.expect("systemctl show --property=RuntimeWatchdogUSec --value").trim(), "15s");
    let _ = scene.run("sudo kill -SEGV 1");
    second.wait_for_end(60);
}

/// The first start, with an address in the network from then on.
fn plugged_in(scene: &Scene) -> Guest {
    let guest = scene.boot();
    let network = format!(
        "printf '[Match]\\nMACAddress=52:54:00:12:34:57\\n[Network]\\nAddress={APPLIANCE}/24\\nAddress={APPLIANCE_ABROAD}/24\\n' | \
         sudo tee /etc/systemd/network/05-lan.network && sudo networkctl reload"
    );
    let mut ssh = client(&CARD.secret("admin_ed25519"));
    ssh.args([&format!("admin@{LINK_LOCAL}%tap0"), &network]);
    let mut ssh = scene.lan.inside(&ssh);
    until("the guest's address of IPv6", 60, || ssh.output().unwrap().status.success());
    scene.wait("systemctl is-active multi-user.target", 200);
    guest
}

/// What `systemd-analyze security` says at most of each service: 0 is closed, 10 open.
const EXPOSURE: [(&str, f32); 9] = [
    ("vaultberry-backup", 2.0),
    ("vaultberry-catch-up", 2.0),
    ("vaultberry-disk@sda", 2.0),
    ("vaultberry-first-boot", 2.0),
    ("vaultberry-grow", 2.0),
    ("vaultberry-harden", 2.0),
    ("vaultberry-kernel", 2.0),
    ("vaultberry-pull-web", 2.0),
    ("vaultberry-report", 2.0),
];

fn services_may_do_little(scene: &Scene) {
    // A run makes those of the pulls, as this is made.
    scene.expect("sudo systemd-run --quiet --unit=vaultberry-pull-web --property=User=60706 sleep 600");
    for (unit, most) in EXPOSURE {
        let text = scene.expect(&format!("systemd-analyze security --no-pager {unit}.service | grep -v ✓"));
        let (_, exposure) = text.trim().rsplit_once(": ").unwrap();
        eprintln!("{unit}: {exposure}");
        assert!(exposure.split(' ').next().unwrap().parse::<f32>().unwrap() <= most, "{text}");
    }
    scene.expect("sudo systemctl stop vaultberry-pull-web");
    // With as little, the check finds what it finds without any bounds.
    scene.expect("sudo systemctl start vaultberry-harden");
    let record: Value = serde_json::from_str(&scene.expect("sudo cat /var/lib/vaultberry/harden.json")).unwrap();
    assert!(record["rules"].as_array().unwrap().iter().all(|rule| rule["found"] == rule["wanted"]), "{record}");
}

fn what_is_changed_is_found_and_mended(scene: &Scene) {
    scene.expect(
        "set -e; echo 'PermitTunnel yes' | sudo tee /etc/ssh/sshd_config.d/00-a.conf; sudo systemctl stop fail2ban; \
         sudo nft insert rule inet vaultberry input tcp dport 8000 accept; sudo chmod 644 /etc/vaultberry/keys/recovery; \
         sudo systemctl disable -q nftables; echo 'admin:x' | sudo chpasswd; sudo sh -c 'echo >>/etc/nftables.conf'; \
         sudo systemd-run -q --unit=listener python3 -m http.server 8000",
    );
    scene.wait("ss -Hltn | grep -q :8000", 30);
    let broken = scene.broken("check");
    for told in [
        "file: /etc/nftables.conf: \"changed\"",
        "unit: nftables.service: \"active, disabled\"",
        "unit: fail2ban.service: \"inactive, enabled\"",
        "sshd: PermitTunnel: \"yes\"",
        "firewall: chain input: \"has `tcp dport 8000 accept`\"",
        "open TCP ports: \"22, 8000\"",
        "accounts with a password: \"admin\"",
        "secrets that others may read: \"/etc/vaultberry/keys/recovery\"",
    ] {
        assert!(broken.iter().any(|rule| rule == told), "{told} is not among {broken:#?}");
    }
    // The next report tells of it, and so does status.
    let status = scene.run("sudo vaultberry status");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("sshd: PermitTunnel is yes, not no"), "{text}");

    // What isn't vaultberry's stays, and is named.
    let left = scene.broken("apply");
    assert_eq!(left, ["sshd: PermitTunnel: \"yes\"", "open TCP ports: \"22, 8000\"", "accounts with a password: \"admin\""]);
    scene.expect("sudo rm /etc/ssh/sshd_config.d/00-a.conf; sudo systemctl stop listener; sudo usermod --password '!' admin");
    assert_eq!(scene.broken("apply"), [""; 0]);
}

fn a_card_in_a_reader_is_an_alarm(scene: &Scene) {
    assert_eq!(scene.expect("sudo vaultberry kernel check").trim(), "the firmware partition is as it was written");
    scene.expect("echo initramfs evil.img | sudo tee -a /boot/pi/config.txt; sudo touch /boot/pi/evil.img");
    let told = "config.txt is changed, evil.img is new";
    assert_eq!(scene.broken("check"), [format!("firmware partition: {told:?}")]);
    let checked = scene.run("sudo vaultberry kernel check");
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    // A run raises the alarm by itself, whatever becomes of it, and an update doesn't make it go away.
    scene.expect("sudo rm /var/lib/vaultberry/harden.json; sudo vaultberry backup run; test $? = 1");
    let last = scene.expect("sudo cat /var/lib/vaultberry/last-run.json");
    assert!(last.contains(&format!("others than the appliance have written to its firmware partition: {told}")), "{last}");
    scene.expect("sudo vaultberry kernel install");
    assert_eq!(scene.broken("check"), [format!("firmware partition: {told:?}")]);
    // It stays until a person says that it was seen.
    scene.expect("sudo sed -i /evil/d /boot/pi/config.txt; sudo rm /boot/pi/evil.img");
    assert_eq!(scene.broken("check"), [format!("firmware partition: {told:?}")]);
    scene.expect("sudo vaultberry kernel check --accept");
    assert_eq!(scene.broken("check"), [""; 0]);
}

fn a_full_disk_and_a_full_memory_keep_nobody_out(scene: &Scene) {
    scene.expect(
        "sudo sh -c 'fallocate -l $(df --output=avail -B1 / | tail -n 1) /full; cat /dev/zero >/fuller; true' 2>/dev/null",
    );
    assert_eq!(scene.expect("df --output=avail / | tail -n 1").trim(), "0");
    // What was found can't be kept then, and is told all the same.
    assert_eq!(scene.broken("check"), [""; 0]);
    scene.expect("sudo rm /full /fuller");
    let hungry = scene.run("sudo systemd-run --quiet --wait python3 -c 'b\"x\" * (4 << 30)'");
    assert!(!hungry.status.success(), "{hungry:?}");
    assert_eq!(scene.broken("check"), [""; 0]);
}

fn only_ssh_is_open(scene: &Scene) {
    let open = scene.lan.scan(NEIGHBOUR, APPLIANCE, "-p-");
    assert!(open.iter().all(|port| port == "22/tcp open ssh"), "{open:?}");
    assert!(scene.lan.pings(STRANGER, APPLIANCE_ABROAD), "the appliance isn't there at all");
    assert_eq!(scene.lan.scan(STRANGER, APPLIANCE_ABROAD, "--top-ports=1000"), [""; 0]);
    assert!(scene.lan.connects(NEIGHBOUR, APPLIANCE, 22) && !scene.lan.connects(STRANGER, APPLIANCE_ABROAD, 22));
}

fn who_comes_too_often_is_kept_waiting(scene: &Scene) {
    let hundred = format!(
        "import socket, time\nall = [socket.socket() for _ in range(100)]\n\
         for one in all: one.bind(('{HASTY}', 0)); one.setblocking(False); one.connect_ex(('{APPLIANCE}', 22))\n\
         time.sleep(10)\ndef came(one):\n try: return bool(one.getpeername())\n except OSError: return False\n\
         print(sum(map(came, all)))"
    );
    let output = scene.lan.run("/usr/bin/python3", &["-c", &hundred]);
    let came: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    // Sixty at once, and one more each second.
    assert!((50..85).contains(&came), "{came} of 100 came in");
}

fn sshd_stands_an_audit(scene: &Scene) {
    let audit = cached("ssh-audit-3.9.0", "test").join("bin/ssh-audit");
    let output = scene.lan.run(audit.to_str().unwrap(), &["--no-colors", "--timeout=30", "--level=warn", APPLIANCE]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("[warn]") && !text.contains("[fail]"), "{text}");
    let all = scene.lan.run(audit.to_str().unwrap(), &["--no-colors", "--timeout=30", "--skip-rate-test", APPLIANCE]);
    let all = String::from_utf8(all.stdout).unwrap();
    assert!(all.contains("(kex) mlkem768x25519-sha256"), "the audit saw sshd: {all}");
    // Nobody is led on to elsewhere.
    let mut ssh = client(&CARD.secret("admin_ed25519"));
    ssh.args(["-b", ADMIN, "-L", "127.0.0.1:7007:127.0.0.1:22", "-v", &format!("admin@{APPLIANCE}"), "sleep 20"]);
    let child = scene.lan.inside(&ssh).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the port to be led on from", 15, || scene.lan.connects("127.0.0.1", "127.0.0.1", 7007));
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("administratively prohibited"), "{output:?}");
}

fn who_fails_is_banned(scene: &Scene) {
    // Of the admin's machine not even many failures are counted.
    for _ in 0..4 {
        scene.fail(ADMIN);
    }
    scene.expect("true");
    // Another one has three. It is shut out, and let in again when the time is over.
    let open = || scene.lan.connects(NEIGHBOUR, APPLIANCE, 22);
    assert!(open());
    for _ in 0..3 {
        scene.fail(NEIGHBOUR);
    }
    until("the ban", 60, || !open());
    assert_eq!(scene.bans(NEIGHBOUR)[0], 60);
    until("the end of the ban", 150, open);
    for _ in 0..3 {
        scene.fail(NEIGHBOUR);
    }
    until("a further ban", 60, || !open());
    // Each time it takes twice as long. What it did while it was about to be banned may have made one of them.
    let bans = scene.bans(NEIGHBOUR);
    assert!(bans.len() > 1 && bans.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{bans:?}");
    // One that will outlive the start.
    scene.expect("sudo sed -i 's/^ban_for.*/ban_for = \"2h\"/' /etc/vaultberry/appliance.toml");
    assert_eq!(scene.broken("apply"), [""; 0]);
    for _ in 0..3 {
        scene.fail(ANOTHER);
    }
    until("the long ban", 60, || !scene.lan.connects(ANOTHER, APPLIANCE, 22));
}

fn nobody_else_goes_out(scene: &Scene) {
    // Servers in the network: at a port that nothing has to do with, at the sources', and at the packages'.
    let mut servers: Vec<Child> = Vec::new();
    for port in ["8080", "22", "80"] {
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-m", "http.server", "--bind", ADMIN, port]).current_dir(scene.folder.path());
        servers.push(scene.lan.inside(&server).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("the server", 20, || scene.lan.connects(ADMIN, ADMIN, port.parse().unwrap()));
    }
    // Which of the ports a user reaches.
    let reach = |user: &str| {
        let connect = format!(
            "import socket\nfor port in 8080, 22, 80:\n try: socket.create_connection((\"{ADMIN}\", port), 5); print(port)\n except OSError: pass"
        );
        let text = scene.expect(&format!("sudo setpriv --reuid {user} --clear-groups python3 -c '{connect}'"));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for user in ["root", "admin"] {
        assert_eq!(reach(user), "8080 22 80");
    }
    for (user, ports) in [("60706", "22"), ("_apt", "80"), ("nobody", ""), ("systemd-resolve", "")] {
        assert_eq!(reach(user), ports, "{user}");
    }
    let kept_in = scene.expect("sudo journalctl --dmesg --no-pager --grep 'vaultberry kept in' | tail -n 1");
    assert!(kept_in.contains("DPT="), "{kept_in}");
    scene.expect("sudo sed -i '/^never_ban/a strict = true' /etc/vaultberry/appliance.toml");
    assert_eq!(scene.broken("apply"), [""; 0]);
    for (user, ports) in [("root", "22 80"), ("admin", ""), ("60706", "22"), ("_apt", "80")] {
        assert_eq!(reach(user), ports, "strict: {user}");
    }
    for mut server in servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
