//! An appliance of another region, without a cable: keyboard, locale, and a wireless network of two simulated radios. Its card
//! has a volume key of its own, and is for one board.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use vaultberry::image::disk::{FIRMWARE_START, read_firmware};
use vaultberry::image::emulate::{self, Machine};

use crate::cards::boot::guest;
use crate::support::Turn;
use crate::support::card::{Card, scratch, tool};
use crate::support::guest::{Guest, Ssh, free_port};
use crate::support::tiny::{Tiny, UP};

const CONFIG: &str = r#"
[appliance]
locale = "de_CH.UTF-8"
keymap = "de"

[admin]
generate_key = true

[access]
never_ban = ["10.0.2.2"]

[wifi]
country = "CH"
ssid = "Zum grünen Baum"

[image]
board = "pi4"
packages = ["hostapd", "iw"]

[[source]]
name = "peer"
host = "10.0.2.2"
user = "backup"
host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMh7Oc72oDI68tGdq9dpvf7hMMt3+TLrjHH6kuO4ZSUW"]
paths = ["/srv"]
"#;

const PASSPHRASE: &str = "ein \"Lindenbaum\" #7";

/// The other end of the air: an access point on the second radio, which gives addresses.
const ACCESS_POINT: &str = r#"set -e
modprobe mac80211_hwsim radios=2
mkdir -p /run/systemd/network
printf '[Match]\nName=wlan1\n[Network]\nAddress=10.77.0.1/24\nDHCPServer=yes\n' >/run/systemd/network/05-point.network
networkctl reload
nft insert rule inet vaultberry input iifname wlan1 udp dport 67 accept
nft insert rule inet vaultberry output oifname wlan1 udp sport 67 accept
cat >/run/point.conf <<'END'
interface=wlan1
driver=nl80211
ssid=Zum grünen Baum
hw_mode=g
channel=1
wpa=2
wpa_key_mgmt=WPA-PSK
rsn_pairwise=CCMP
wpa_passphrase=ein "Lindenbaum" #7
END
hostapd -B /run/point.conf
"#;

/// The keys of a German keyboard that give this text, by what is on them in the USA.
fn german(text: &str) -> Vec<&'static str> {
    const KEYS: [&str; 26] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x",
        "z", "y",
    ];
    let key = |letter: u8| match letter {
        b' ' => "spc",
        b'a'..=b'z' => KEYS[usize::from(letter - b'a')],
        _ => panic!("{letter} isn't in the list of words"),
    };
    text.bytes().map(key).chain(["ret"]).collect()
}

/// A card with a volume key of its own.
fn flashed(card: &Card) -> (TempDir, PathBuf) {
    let folder = scratch();
    let to = folder.path().join("card");
    File::create(&to).unwrap().set_len(4 << 30).unwrap();
    let mut flash = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    flash.arg("flash").arg(card.image()).arg(&to).arg("--yes-really").arg(&to).arg("--fresh-key");
    tool(flash.arg("--secrets").arg(card.secrets()).stdin(Stdio::null()));
    (folder, to)
}

/// The names in a folder of the firmware partition.
fn firmware(card: &Card, folder: &str) -> String {
    let mut mdir = Command::new("mdir");
    mdir.arg("-b").arg("-i").arg(format!("{}@@{FIRMWARE_START}", card.image().display())).arg(format!("::{folder}"));
    String::from_utf8(tool(&mut mdir).stdout).unwrap()
}

/// What another board boots by isn't on the card.
fn is_for_a_pi_4_alone(card: &Card) {
    let programs = firmware(card, "/");
    assert!(programs.contains("start4.elf") && programs.contains("fixup4.dat"), "{programs}");
    assert!(!programs.contains("bootcode.bin") && !programs.contains("start.elf"), "{programs}");
    let config = String::from_utf8(read_firmware(&card.image(), "config.txt").unwrap()).unwrap();
    let pair = config.lines().find_map(|line| line.strip_prefix("os_prefix=")).unwrap();
    let files = firmware(card, &format!("/{pair}"));
    assert_eq!(files.lines().filter(|line| line.ends_with("dtb")).count(), 1, "{files}");
    assert!(files.contains("bcm2711-rpi-4-b.dtb"), "{files}");
}

#[test]
fn keyboard_locale_and_radio_are_the_config_s_and_a_fresh_key_boots() {
    let _turn = Turn::take();
    let card = Card::build(CONFIG, &[("wifi", PASSPHRASE)]);
    is_for_a_pi_4_alone(&card);

    // The recovery passphrase, typed on a German keyboard: where others have z, it has y.
    let mut tiny = Tiny::new(&card.image()).strip_modules();
    tiny.words = "console=tty0 console=ttyAMA0";
    let mut running = tiny.start(&[], &["-device", "usb-kbd"]);
    running.guest.wait_for("insert the key stick, or type the recovery passphrase:", 120);
    running.ports.press(german(tiny.passphrase.expose()).into_iter());
    running.guest.wait_for("root is open, by the recovery passphrase", 60);
    running.guest.wait_for(UP, 60);
    drop(running);

    let (_folder, flashed) = flashed(&card);
    let (port, files) = (free_port(), scratch());
    let wanted = emulate::Guest { image: flashed, ssh_port: Some(port), ..guest(&card, Machine::Virt) };
    let mut guest = Guest::start(emulate::command(&wanted, files.path()).unwrap());
    guest.wait_for("root is open, by the key on VB-KEY", 120);
    let ssh = Ssh { key: &card.secret("admin_ed25519"), port };
    ssh.wait_for("true", 400);
    for (command, told) in [
        ("sh -lc 'echo $LANG'", "de_CH.UTF-8"),
        ("date --date=2026-11-30 +%A", "Montag"),
        ("sh -c '. /etc/default/keyboard; echo $XKBLAYOUT'", "de"),
        ("systemctl is-enabled wpa_supplicant.service || true", "masked"),
        ("sudo stat -c %a /etc/wpa_supplicant/wpa_supplicant-wlan0.conf", "600"),
        ("systemctl list-units --failed --plain --no-legend", ""),
    ] {
        assert_eq!(ssh.expect(command).trim(), told, "{command}");
    }

    let point = ssh.run("sudo sh", ACCESS_POINT);
    assert!(point.status.success(), "{point:?}");
    ssh.wait_for("ip -4 -o addr show dev wlan0 | grep 'inet 10.77.0'", 120);
    let status = ssh.expect("sudo wpa_cli -i wlan0 status");
    assert!(status.contains("wpa_state=COMPLETED") && status.contains("key_mgmt=WPA2-PSK"), "{status}");
    assert!(ssh.expect("sudo iw reg get").contains("country CH:"));
    // The cable is taken where there is one.
    assert_eq!(ssh.expect("ip -4 route get 192.0.2.1 | grep -o 'dev [a-z0-9]*'").trim(), "dev eth0");
}
