//! The product from end to end, in QEMU: a card is built, booted with its stick, makes its first backup of a real server,
//! dies, and a new card takes over its disk.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::support::Turn;
use crate::support::card::{Card, cached, decipher, scratch, tool};
use crate::support::gnupg::GnuPg;
use crate::support::guest::{Guest, Ssh, free_port};
use crate::support::peer::Peer;
use crate::support::servers::{CREDENTIALS, Servers};
use jiff::{ToSpan, Zoned};
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;
use vaultberry::digest;
use vaultberry::image::disk::ROOT_START;
use vaultberry::image::emulate::{self, Machine};

/// The serial number of the backup disk.
pub const SERIAL: &str = "VBTEST01";

/// That of a second one, which changes places with it.
pub const OTHER: &str = "VBTEST02";

/// A passphrase is asked for soon and a closed root doesn't stay long, so that the tests don't either. The emulated Pi has seen
/// its stick after a minute and more, beside other tests.
const UNLOCK: &str = "[unlock]\nwait = \"5s\"\nreboot_after = \"4m\"\n";

/// A login that is broken off, as on a slow machine, counts as a failure. The tests come from here: QEMU's own network, and the
/// admin's address in the hardening's.
const ACCESS: &str = "[access]\nnever_ban = [\"10.0.2.2\", \"10.9.0.9\"]\n";

/// A card that no test changes.
pub static CARD: LazyLock<Card> = LazyLock::new(|| {
    Card::shared(&config(
        22,
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW",
        "backup",
        "/srv",
    ))
});

fn config(port: u16, host_key: &str, user: &str, path: &str) -> String {
    format!(
        "[admin]\ngenerate_key = true\n\n{ACCESS}\n{UNLOCK}\n[disk]\nserials = [\"{SERIAL}\", \"{OTHER}\"]\n\n[backup]\nat = \"02:30\"\n\n\
         [[source]]\nname = \"peer\"\nhost = \"10.0.2.2\"\nport = {port}\nuser = \"{user}\"\nhost_keys = [\"{host_key}\"]\npaths = [\"{path}\"]\n"
    )
}

pub fn guest(card: &Card, machine: Machine) -> emulate::Guest {
    emulate::Guest {
        image: card.image(),
        machine,
        stick: Some(card.secret("stick.img")),
        disk: None,
        ssh_port: None,
        write: false,
        extra: Vec::new(),
    }
}

/// What the server has: odd names, links, an empty folder, something big enough to take more than one read.
fn fill(peer: &Peer) {
    peer.write("letters/über uns.txt", "hello\n");
    peer.write("letters/-n\nnew line", "odd\n");
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    peer.write("big", big);
    fs::create_dir(peer.data().join("empty")).unwrap();
    symlink("letters/nowhere", peer.data().join("dangling")).unwrap();
    peer.write(".hidden", "");
    peer.write("with rights of its own", "");
    fs::set_permissions(peer.data().join("with rights of its own"), fs::Permissions::from_mode(0o4755)).unwrap();
}

/// Are the two folders the same, byte for byte?
fn assert_same(one: &Path, two: &Path) {
    tool(Command::new("diff").args(["-r", "--no-dereference"]).arg(one).arg(two));
    let list = |folder: &Path| {
        let output = tool(Command::new("find").args([".", "-printf", "%P %y %m %s %T@ %l\\n"]).current_dir(folder));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // rsync and tar agree on a file's time to the second; a folder's size is the file system's own affair.
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.split(' ').map(|word| word.split('.').next().unwrap_or(word)).collect::<Vec<_>>().join(" "))
            .filter(|line| !line.contains(" d "))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(list(one), list(two));
}

/// Tomorrow, so that the guest's clock is past every time in the image, and an hour before the nightly run.
fn an_hour_before_the_run() -> String {
    let tomorrow = Zoned::now().checked_add(1.day()).unwrap().strftime("%Y-%m-%d").to_string();
    format!("base={tomorrow}T01:30:00,clock=vm")
}

#[test]
fn a_night_and_the_card_s_death() {
    let _turn = Turn::take();
    let servers = Servers::start("", GnuPg::new());
    let peer = &servers.peer;
    fill(peer);
    let text = config(peer.port, &peer.host_key(), &peer.user.name, peer.data().to_str().unwrap());
    let sections = servers.sections("10.0.2.2", Path::new("/etc/vaultberry/credentials/s3"));
    let folder = scratch();
    let text = format!("{text}postgresql = [\"wiki\"]\n\n{sections}\n{}", settings(folder.path()));
    let disk = folder.path().join("disk.img");
    File::create(&disk).unwrap().set_len(256 << 20).unwrap();

    let card = Card::build(&text, &[("s3", CREDENTIALS)]);
    let snapshot = first_night(&card, &disk, &servers);
    let restored = restore_offline(&card, &disk, folder.path(), &snapshot);
    assert_same(&restored.join(peer.data().strip_prefix("/").unwrap()), &peer.data());
    servers.assert_restored(&restored, "from_the_disk");
    let copy = folder.path().join("copy");
    servers.open_copy(&copy);
    servers.assert_restored(&copy, "from_the_store");
    new_card(&card, &disk, peer, &snapshot);
}

/// What an owner may set, with an address that QEMU's network has room for.
fn settings(folder: &Path) -> String {
    fs::write(folder.join("motd"), "mine\n").unwrap();
    format!(
        "[appliance]\ntimezone = \"Atlantic/Reykjavik\"\ntime_servers = [\"10.0.2.2\"]\n\
         [ethernet]\naddresses = [\"10.0.2.15/25\"]\ngateways = [\"10.0.2.2\"]\nname_servers = [\"10.0.2.3\"]\n\
         [image]\ncipher = \"aes\"\nproxy = \"http://10.0.2.2:3128\"\nkernel_arguments = [\"usbcore.autosuspend=-1\"]\n\
         [[image.file]]\nfrom = \"{}\"\nto = \"/usr/local/bin/greet\"\nmode = \"0755\"\n",
        folder.join("motd").display()
    )
}

/// Each of these settings does what it says.
fn settings_hold(ssh: &Ssh) {
    for (command, told) in [
        ("ip -o -4 addr show dev eth0 scope global | awk '{ print $4 }'", "10.0.2.15/25"),
        ("ip -4 route show default | awk '{ print $3 }'", "10.0.2.2"),
        ("resolvectl dns eth0", "Link 2 (eth0): 10.0.2.3"),
        ("timedatectl show-timesync --property=SystemNTPServers --value", "10.0.2.2"),
        ("timedatectl show-timesync --property=FallbackNTPServers --value", ""),
        ("timedatectl show --property=Timezone --value", "Atlantic/Reykjavik"),
        ("grep -o usbcore.autosuspend=-1 /proc/cmdline", "usbcore.autosuspend=-1"),
        ("cat /sys/module/usbcore/parameters/autosuspend", "-1"),
        ("cat /usr/local/bin/greet", "mine"),
        ("stat -c '%a %U' /usr/local/bin/greet", "755 root"),
        ("apt-config shell PROXY Acquire::http::Proxy", "PROXY='http://10.0.2.2:3128'"),
        ("sudo nft list chain inet vaultberry output | grep -o 3128 | head -n 1", "3128"),
    ] {
        assert_eq!(ssh.expect(command).trim(), told, "{command}");
    }
}

/// Boots card, stick and a blank disk, lets cron start the run, and gives the snapshot's path on the disk.
fn first_night(card: &Card, disk: &Path, servers: &Servers) -> String {
    let port = free_port();
    let files = scratch();
    let mut wanted = guest(card, Machine::Virt);
    wanted.disk = Some((disk.to_owned(), SERIAL.to_owned()));
    wanted.ssh_port = Some(port);
    wanted.extra = ["-rtc".to_owned(), an_hour_before_the_run()].into();
    let mut guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    guest.wait_for("root is open, by the key on VB-KEY", 120);
    guest.wait_for("you can remove the stick", 5);
    guest.wait_for("the key that the sources must accept:", 300);
    guest.wait_for("vaultberry login:", 300);

    let ssh = Ssh { key: &card.secret("admin_ed25519"), port };
    let key = ssh.wait_for("cat /boot/pi/vaultberry/source-key.pub", 120);
    assert!(guest.console().contains(key.trim()), "the console and the firmware partition show one key");
    servers.peer.let_in(&key);

    // Root is LUKS2, and the one that was built.
    let status = ssh.expect("sudo cryptsetup status root");
    assert!(status.contains("LUKS2") && status.contains("aes-xts-plain64"), "{status}");
    let root = ssh.expect("findmnt -n -o SOURCE /");
    assert_eq!(root.trim(), "/dev/mapper/root");
    settings_hold(&ssh);
    // The host's keys and the machine's identity were made here.
    assert_eq!(ssh.expect("cat /etc/machine-id").trim().len(), 32);
    assert!(ssh.expect("ls /etc/ssh").contains("ssh_host_ed25519_key.pub"));
    // Nothing of ours failed, and nothing listens but ssh.
    let failed = ssh.expect("systemctl list-units --failed --plain --no-legend");
    assert_eq!(failed, "", "units failed");
    let listening = ssh.expect("sudo ss -Hltnp | grep -v -e '127.0.0.5[34]' -e sshd || true");
    assert_eq!(listening, "", "something else listens");

    // The blank disk was formatted, opened with its key file, and is mounted.
    let mounted = ssh.wait_for("findmnt -n -o SOURCE,OPTIONS /mnt/backup", 120);
    assert!(mounted.starts_with("/dev/mapper/vaultberry-backup"), "{mounted}");
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(mounted.contains(option), "{mounted}");
    }
    // While the lock is taken, a second run is refused with a code of its own.
    let second = ssh.run("sudo flock /run/lock/vaultberry.lock vaultberry backup run", "");
    assert_eq!(second.status.code(), Some(4), "{second:?}");
    // Started at boot, the run that makes up for a missed night waits for the clock, and finds that none was missed.
    ssh.expect("sudo touch /run/systemd/timesync/synchronized");
    ssh.wait_for("sudo journalctl -u vaultberry-catch-up --no-pager | grep 'nothing is due: there was no run yet'", 120);

    eprintln!("{}", ssh.expect("systemd-analyze time"));
    // The hour passes; cron looks at the clock each minute.
    ssh.expect("sudo date --set=02:29:10");
    let started = "sudo journalctl -u cron --no-pager | grep -q 'systemctl start --wait vaultberry-backup'";
    ssh.wait_for(started, 120);
    let last =
        ssh.wait_for("sudo sh -c 'cd /var/lib/vaultberry && grep -q \"sent.: 1\" last-run.json && cat last-run.json'", 300);
    assert!(last.contains("\"outcome\": \"complete\"") && last.contains("s3://backups/attic"), "{last}");
    // ssh and rsync ran as the source's own user, in a sandbox that this kernel knows.
    assert!(!last.contains("Landlock"), "{last}");
    assert_eq!(ssh.expect("sudo stat -c %u /mnt/backup/current/peer/files").trim(), "60706");
    let mails = servers.mails();
    eprintln!("{}", mails.last().unwrap().text);
    let subjects: Vec<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
    // There is nothing that a new appliance's owner should do.
    assert_eq!(subjects, ["[vaultberry] vaultberry: skipped", "[vaultberry] vaultberry: complete"]);
    assert_eq!(servers.copies().len(), 1);
    let snapshots = ssh.expect("sudo ls /mnt/backup/snapshots/peer");
    let names: Vec<&str> = snapshots.lines().collect();
    assert_eq!(names.len(), 2, "an archive and its index: {names:?}");
    // The appliance's own copy has both headers, each with the volume's own name in it.
    let own = "sudo sh -c 'tar -xzf /mnt/backup/snapshots/_appliance/*.tar.gz -C /run && cd /run/appliance && ls && \
               for header in *.luks-header; do cryptsetup luksUUID $header; done && rm -r /run/appliance'";
    let own = ssh.expect(own);
    let lines: Vec<&str> = own.lines().collect();
    assert_eq!(lines[..3], ["appliance.toml", "backup-disk.luks-header", "root.luks-header"], "{own}");
    assert!(lines.len() == 5 && lines[3] != lines[4], "{own}");
    let archive = names.iter().find(|name| name.ends_with(".tar.gz")).unwrap();
    assert!(archive.contains("T0230"), "cron started it at its time: {archive}");

    runs_that_are_cut_short(&ssh, servers);

    let _ = ssh.run("sudo systemctl poweroff", "");
    guest.wait_for_end(180);
    format!("snapshots/peer/{archive}")
}

/// A pull is a unit of its own, which ends with its run.
fn runs_that_are_cut_short(ssh: &Ssh, servers: &Servers) {
    let begin = || {
        ssh.expect("sudo systemctl start --no-block vaultberry-backup");
        ssh.wait_for("systemctl is-active vaultberry-pull-peer && pgrep --uid 60706 --exact ssh", 60);
    };
    servers.peer.through("exec sleep 600");
    begin();
    let exposure = ssh.expect("systemd-analyze security --no-pager vaultberry-pull-peer | tail -1");
    assert!(exposure.contains(": 1.3 OK"), "{exposure}");
    let inside = "pid=$(systemctl show --property=MainPID --value vaultberry-pull-peer) && \
                  sudo grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status && \
                  sudo nsenter --mount --target $pid find /mnt/backup -maxdepth 2";
    let inside = ssh.expect(inside);
    assert_eq!(
        inside.split_whitespace().collect::<Vec<_>>().join(" "),
        "Uid: 60706 60706 60706 60706 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 /mnt/backup \
         /mnt/backup/current /mnt/backup/current/peer"
    );
    ssh.expect("sudo systemctl stop vaultberry-backup");
    ssh.expect("! systemctl is-active vaultberry-pull-peer && ! pgrep --uid 60706");
    ssh.expect("sudo grep 'interrupted by a signal' /var/lib/vaultberry/last-run.json");
    begin();
    ssh.expect("sudo systemctl kill --kill-whom=all --signal=KILL vaultberry-backup");
    ssh.wait_for("! systemctl is-active vaultberry-pull-peer && ! pgrep --uid 60706", 30);
}

/// The disk on another machine, with the recovery passphrase, GNU tar and nothing of the appliance.
fn restore_offline(card: &Card, disk: &Path, folder: &Path, snapshot: &str) -> PathBuf {
    let plain = folder.join("plain");
    decipher(disk, &card.passphrase(), &plain);
    tool(Command::new("/usr/sbin/e2fsck").args(["-fn"]).arg(&plain));
    let archive = folder.join("snapshot.tar.gz");
    tool(Command::new("/usr/sbin/debugfs").arg("-R").arg(format!("dump {snapshot} {}", archive.display())).arg(&plain));
    let restored = folder.join("restored");
    fs::create_dir(&restored).unwrap();
    tool(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&restored));
    restored
}

/// The card is dead. A new one, with other keys, takes the disk over by the old one's recovery passphrase.
fn new_card(old: &Card, disk: &Path, peer: &Peer, snapshot: &str) {
    let card = &*CARD;
    assert_ne!(card.uuid, old.uuid);
    let port = free_port();
    let files = scratch();
    let mut wanted = guest(card, Machine::Virt);
    wanted.disk = Some((disk.to_owned(), SERIAL.to_owned()));
    wanted.ssh_port = Some(port);
    // The old card in a reader.
    let reader = format!("file={},format=raw,if=none,id=old,readonly=on", old.image().display());
    wanted.extra = ["-drive", &reader, "-device", "virtio-blk-pci,drive=old,serial=OLDCARD"].map(str::to_owned).into();
    let mut guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    guest.wait_for("root is open, by the key on VB-KEY", 120);
    let ssh = Ssh { key: &card.secret("admin_ed25519"), port };
    ssh.wait_for("true", 400);

    // The disk of another appliance isn't touched by itself.
    let refused = ssh.run("sudo vaultberry disk init", "");
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(stderr.contains("an encrypted volume that this appliance has no key for"), "{stderr}");
    let wrong = ssh.run("sudo vaultberry disk attach", "not the right words at all\n");
    assert_eq!(wrong.status.code(), Some(1));
    let attached = ssh.run("sudo vaultberry disk attach", &format!("{}\n", old.passphrase().expose()));
    assert!(attached.status.success(), "{attached:?}");
    let restored = ssh.run(&format!("mkdir r && sudo tar -xzf /mnt/backup/{snapshot} -C r && sudo tar -C r -c ."), "");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let folder = scratch();
    fs::write(folder.path().join("r.tar"), &restored.stdout).unwrap();
    tool(Command::new("tar").arg("-xf").arg(folder.path().join("r.tar")).arg("-C").arg(folder.path()));
    assert_same(&folder.path().join(peer.data().strip_prefix("/").unwrap()), &peer.data());

    open_by_hand(&ssh, old);
    let _ = ssh.run("sudo systemctl poweroff", "");
    guest.wait_for_end(180);
}

/// The key file without vaultberry: cryptsetup opens the old card's root with the key at its offset.
fn open_by_hand(ssh: &Ssh, old: &Card) {
    let hex = digest::hex(&fs::read(old.key()).unwrap());
    let sent = ssh.run(&format!("printf {hex} | tr a-f A-F | basenc -d --base16 -i >stick.key && wc -c <stick.key"), "");
    assert_eq!(String::from_utf8_lossy(&sent.stdout).trim(), "128");
    let opened = ssh.expect(
        "set -e; old=$(lsblk -rno PATH,SERIAL | awk '$2 == \"OLDCARD\" { print $1 }'); \
         sudo cryptsetup open --readonly --key-file stick.key --keyfile-offset 32 --keyfile-size 64 ${old}2 byhand; \
         sudo mount -o ro,noload /dev/mapper/byhand /mnt; cat /mnt/etc/hostname",
    );
    assert_eq!(opened.trim(), "vaultberry");
}

/// The card without its stick, up to the prompt.
fn prompted() -> (Guest, TempDir) {
    let files = scratch();
    let mut wanted = guest(&CARD, Machine::Virt);
    wanted.stick = None;
    let mut guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    guest.wait_for("insert the key stick, or type the recovery passphrase:", 120);
    (guest, files)
}

#[test]
fn without_the_stick_there_is_a_prompt_and_no_shell() {
    let _turn = Turn::take();
    let (mut guest, _files) = prompted();
    guest.type_in("echo a-shell-says-$((40 + 2))\n");
    guest.wait_for("the recovery passphrase doesn't open this appliance", 60);
    guest.wait_for("root stays closed; rebooting", 300);
    guest.wait_for_end(60);
    let console = guest.console();
    assert!(!console.contains("a-shell-says-42"), "there is a shell:\n{console}");
    assert!(!console.contains("root is open") && !console.contains("systemd["), "{console}");
}

#[test]
fn the_recovery_passphrase_opens_root_at_the_prompt() {
    let _turn = Turn::take();
    let (mut guest, _files) = prompted();
    guest.type_in(&format!("{}\n", CARD.passphrase().expose()));
    guest.wait_for("root is open, by the recovery passphrase", 60);
    assert!(!guest.console().contains(CARD.passphrase().expose().as_str()), "the passphrase was echoed");
}

#[test]
fn the_image_is_whole_and_holds_no_key_in_clear() {
    let out = CARD.out();
    tool(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&out));
    let packages = fs::read_to_string(out.join("vaultberry.packages")).unwrap();
    assert!(packages.lines().any(|line| line.starts_with("openssh-server\t")));
    assert!(!packages.contains("cryptsetup-initramfs"), "only vaultberry-unlock opens root");
    // Its bill of materials is what SPDX's own program takes, and has each package.
    let bill = out.join("vaultberry.spdx.json");
    tool(Command::new(cached("spdx-tools-0.8.5/bin/pyspdxtools")).arg("-i").arg(&bill));
    let bill = fs::read_to_string(bill).unwrap();
    assert_eq!(bill.matches("\"pkg:deb/debian/").count(), packages.lines().count());
    assert!(bill.matches("\"pkg:cargo/").count() > 100 && bill.contains("\"pkg:cargo/vaultberry@"));
    let folder = scratch();
    let unpacked = folder.path().join("unpacked.img");
    tool(Command::new("bmaptool").arg("copy").arg(out.join("vaultberry.img.zst")).arg(&unpacked));
    tool(Command::new("cmp").arg(out.join("vaultberry.img")).arg(&unpacked));

    for (path, mode) in [
        (CARD.secrets(), 0o700),
        (CARD.key(), 0o600),
        (CARD.secret("recovery.txt"), 0o600),
        (CARD.secret("stick.img"), 0o600),
        (CARD.secret("admin_ed25519"), 0o600),
    ] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let secrets = [
        ("the stick's key", fs::read(CARD.key()).unwrap()[32..96].to_vec()),
        ("the recovery passphrase", CARD.passphrase().expose().clone().into_bytes()),
        ("the admin's key", fs::read(CARD.secret("admin_ed25519")).unwrap()[60..200].to_vec()),
    ];
    for (name, secret) in &secrets {
        assert!(!holds(&unpacked, secret), "the image holds {name} in clear");
    }
    // The search can find: the card's own boot files are in clear.
    assert!(holds(&unpacked, b"root=/dev/mapper/root rw"));
}

/// Do these bytes stand anywhere in a sparse file?
fn holds(path: &Path, wanted: &[u8]) -> bool {
    let file = File::open(path).unwrap();
    let mut block = vec![0; 16 << 20];
    let mut end = 0;
    while let Ok(data) = lseek(&file, end, Whence::SeekData) {
        end = lseek(&file, data, Whence::SeekHole).unwrap();
        let (mut offset, end) = (u64::try_from(data).unwrap(), u64::try_from(end).unwrap());
        while offset < end {
            let length = block.len().min(usize::try_from(end - offset).unwrap());
            file.read_exact_at(&mut block[..length], offset).unwrap();
            let mut places = block[..length].windows(wanted.len());
            if places.any(|place| place[0] == wanted[0] && place == wanted) {
                return true;
            }
            // Overlapping, so that what lies across two reads is found too.
            offset += if offset + (length as u64) < end { (length - wanted.len()) as u64 } else { length as u64 };
        }
    }
    false
}

#[test]
fn the_file_system_inside_is_clean_and_its_key_opens_it_by_hand() {
    let folder = scratch();
    let volume = folder.path().join("root.luks");
    let length = fs::metadata(CARD.image()).unwrap().len();
    tool(
        Command::new("dd")
            .arg(format!("if={}", CARD.image().display()))
            .arg(format!("of={}", volume.display()))
            .args(["bs=1M", "conv=sparse", "status=none"])
            .arg(format!("skip={}", ROOT_START >> 20)),
    );
    assert_eq!(fs::metadata(&volume).unwrap().len(), length - ROOT_START);
    tool(
        Command::new("/usr/sbin/cryptsetup")
            .args(["open", "--test-passphrase", "--keyfile-offset", "32", "--keyfile-size", "64", "--key-file"])
            .arg(CARD.key())
            .arg(&volume),
    );
    let plain = folder.path().join("plain");
    decipher(&volume, &CARD.passphrase(), &plain);
    tool(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&plain));
    let asked = |request: String| tool(Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(&plain)).stdout;
    let shown = |path: &str| asked(format!("cat {path}"));
    assert_eq!(shown("/etc/hostname"), b"vaultberry\n");
    assert_eq!(shown("/etc/machine-id"), b"", "the machine id is drawn at the first boot");
    let listing = asked(String::from("ls -p /etc/ssh"));
    assert!(!String::from_utf8_lossy(&listing).contains("ssh_host_"), "host keys are made on the device");
    let changed = |path: &str| {
        let inode = String::from_utf8(asked(format!("stat {path}"))).unwrap();
        inode.lines().find(|line| line.trim().starts_with("mtime: ")).map(|line| line.trim().to_owned()).unwrap()
    };
    assert_eq!(changed("/home/admin/.bashrc"), changed("/etc/skel/.bashrc"), "the home isn't made of the image's own files");
}
