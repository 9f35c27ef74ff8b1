//! Opening root with every kind of stick and passphrase, in tiny guests that have an image's own kernel and initramfs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vaultberry::kernel::switch::{Switch, Trial};
use vaultberry::keys::keyfile::{KeyFile, path_on_stick};
use vaultberry::luks::HEADER_SIZE;
use vaultberry::luks::cipher::Cipher;
use vaultberry::unlock::mark::Mark;

use crate::cards::boot::CARD;
use crate::support::Turn;
use crate::support::card::{scratch, tool};
use crate::support::tiny::{CARD_START, Running, Tiny, UP};

fn tiny() -> Tiny {
    Tiny::new(&CARD.image()).strip_modules()
}

impl Tiny {
    /// A stick with this content under the name of this appliance's key.
    fn stick_with(&self, name: &str, content: Vec<u8>) -> PathBuf {
        self.stick(name, name, &[(path_on_stick(self.key.uuid), content)], false)
    }
}

/// Root is open and boots.
fn comes_up(running: &mut Running, by: &str) {
    running.guest.wait_for(&format!("root is open, by {by}"), 90);
    running.guest.wait_for(UP, 60);
    running.guest.wait_for_end(30);
}

fn begun(tiny: &Tiny, sticks: &[&Path], arguments: &[&str]) -> Running {
    let mut running = tiny.start(sticks, arguments);
    running.guest.wait_for("waiting for the key stick of", 90);
    running
}

#[test]
fn each_stick_that_does_not_help_is_told_why_and_the_next_one_opens() {
    let _turn = Turn::take();
    let tiny = tiny();
    let good = tiny.key.encode().expose().clone();
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let foreign = KeyFile::generate(Uuid::new_v4()).unwrap();
    let misnamed = foreign.encode().expose().clone();
    let unfit = KeyFile::generate(tiny.key.uuid).unwrap().encode().expose().clone();
    let at_home = [(path_on_stick(foreign.uuid), misnamed.clone())];

    let mut running = begun(&tiny, &[], &[]);
    running.guest.wait_for("insert the key stick, or type the recovery passphrase:", 60);
    for (name, image, told) in [
        ("EMPTY", tiny.stick("EMPTY", "EMPTY", &[], false), "EMPTY (/dev/sda) holds no key"),
        ("OTHERS", tiny.stick("OTHERS", "OTHERS", &at_home, false), "the keys on OTHERS (/dev/sda) are for other appliances"),
        (
            "SHORT",
            tiny.stick_with("SHORT", good[..100].to_vec()),
            "SHORT (/dev/sda): the key on it is too short: it has 100 of 128",
        ),
        ("LONG", tiny.stick_with("LONG", [&good[..], b"\n"].concat()), "the key on it is too long: it has more than 128 bytes"),
        ("DAMAGED", tiny.stick_with("DAMAGED", changed(40)), "the key on it is damaged: its checksum is wrong"),
        ("FUTURE", tiny.stick_with("FUTURE", changed(7)), "the key on it is of version 0, and this program reads version 1"),
        ("MISNAMED", tiny.stick_with("MISNAMED", misnamed), "the key on it is for another appliance, "),
        ("UNFIT", tiny.stick_with("UNFIT", unfit), "the key on UNFIT (/dev/sda) doesn't open this appliance"),
    ] {
        running.ports.plug_in(&image, name);
        running.guest.wait_for(told, 30);
        running.ports.pull(name);
    }
    let files = [(path_on_stick(tiny.key.uuid), good)];
    running.ports.plug_in(&tiny.stick("RIGHT", "RIGHT", &files, true), "RIGHT");
    comes_up(&mut running, "the key on RIGHT");
    assert!(running.guest.console().contains("you can remove the stick"));
}

#[test]
fn a_stick_behind_another_appliance_s_is_found_and_may_be_pulled_at_once() {
    let _turn = Turn::take();
    let tiny = tiny();
    let foreign = KeyFile::generate(Uuid::new_v4()).unwrap();
    let others = tiny.stick("others", "OTHERS", &[(path_on_stick(foreign.uuid), foreign.encode().expose().clone())], false);
    let mut running = begun(&tiny, &[&others], &[]);
    running.guest.wait_for("the keys on OTHERS (/dev/sda) are for other appliances", 30);
    running.ports.plug_in(&tiny.right_stick(), "RIGHT");
    running.guest.wait_for("root is open, by the key on VB-KEY (/dev/sdb)", 60);
    running.ports.pull("RIGHT");
    comes_up(&mut running, "the key on VB-KEY");
}

#[test]
fn a_stick_that_comes_late_is_pulled_and_put_back_behind_a_hub() {
    let _turn = Turn::take();
    let mut tiny = tiny();
    tiny.settings.wait_seconds = 55;
    let mut running = begun(&tiny, &[], &["-device", "usb-hub,bus=usb.0,port=1"]);
    // Without the key it isn't looked at again until it is put back.
    let empty = tiny.stick("EMPTY", "EMPTY", &[], false);
    for time in 1..=2 {
        running.ports.plug_in(&empty, "EMPTY");
        running.guest.wait_for_times("holds no key", time, 30);
        running.ports.pull("EMPTY");
    }
    running.ports.plug_in_at(&tiny.right_stick(), "RIGHT", Some("1.1"));
    comes_up(&mut running, "the key on VB-KEY");
    assert!(!running.guest.console().contains("passphrase"), "nobody was asked for a passphrase");
}

#[test]
fn two_right_sticks_that_take_20_s_open_a_root_under_aes_once() {
    let _turn = Turn::take();
    let mut tiny = Tiny::under(Cipher::Aes, &CARD.image()).strip_modules();
    tiny.settings.wait_seconds = 30;
    let (one, other) = (tiny.right_stick(), tiny.stick("other", "VB-TWO", &tiny.right_files(), true));
    let mut running = begun(&tiny, &[], &[]);
    sleep(Duration::from_secs(20));
    running.ports.plug_in(&one, "ONE");
    running.ports.plug_in(&other, "TWO");
    comes_up(&mut running, "the key on VB-");
    let console = running.guest.console();
    assert_eq!(console.matches("root is open").count(), 1, "{console}");
    assert!(!console.contains("insert the key stick"), "{console}");
}

#[test]
fn only_sticks_with_the_marks_of_the_settings_are_looked_at() {
    let _turn = Turn::take();
    let mut tiny = tiny();
    tiny.settings.sticks = vec![Mark::Serial("STICK1".into())];
    let (one, two) = (tiny.right_stick(), tiny.stick_with("two", tiny.key.encode().expose().clone()));
    let mut running = begun(&tiny, &[&one, &two], &[]);
    comes_up(&mut running, "the key on two");
    assert!(!running.guest.console().contains("VB-KEY"));
}

#[test]
fn three_wrong_passphrases_make_a_pause_in_which_a_stick_still_opens() {
    let _turn = Turn::take();
    let tiny = tiny();
    let mut running = begun(&tiny, &[], &[]);
    running.guest.wait_for("insert the key stick, or type the recovery passphrase:", 60);
    for time in 1..=3 {
        running.guest.type_in("not these words\n");
        running.guest.wait_for_times("the recovery passphrase doesn't open this appliance", time, 60);
    }
    running.guest.wait_for("no passphrase is taken for 30 s; a stick is", 10);
    running.guest.type_in(&format!("{}\n", tiny.passphrase.expose()));
    running.guest.wait_for("not looked at: type it again in", 10);
    running.ports.plug_in(&tiny.right_stick(), "RIGHT");
    comes_up(&mut running, "the key on VB-KEY");
}

#[test]
fn after_the_pause_the_passphrase_opens_on_a_board_of_512_mib() {
    let _turn = Turn::take();
    let mut tiny = tiny();
    tiny.settings.reboot_after_seconds = 180;
    let mut running = begun(&tiny, &[], &["-m", "512"]);
    running.guest.wait_for("insert the key stick, or type the recovery passphrase:", 60);
    for time in 1..=3 {
        running.guest.type_in("not these words\n");
        running.guest.wait_for_times("the recovery passphrase doesn't open this appliance", time, 60);
    }
    running.guest.wait_for_times("insert the key stick, or type the recovery passphrase:", 4, 60);
    running.guest.type_in(&format!("  {}\n", tiny.passphrase.expose().to_uppercase()));
    comes_up(&mut running, "the recovery passphrase");
}

#[test]
fn root_takes_the_whole_card_whenever_the_power_fails() {
    const SIZE: u64 = 128 << 20;
    let _turn = Turn::take();
    let mut tiny = tiny();
    let card = tiny.put_on_card(SIZE);
    let stick = tiny.right_stick();
    let table = || {
        let mut sector = [0; 512];
        File::open(&card).unwrap().read_exact_at(&mut sector, 0).unwrap();
        sector
    };
    // The power fails as soon as the table is written, again before anything else is, and once more when root is open.
    let before = table();
    let running = tiny.start(&[&stick], &[]);
    let deadline = Instant::now() + Duration::from_mins(2);
    while table() == before {
        assert!(Instant::now() < deadline, "{}", running.guest.console());
        sleep(Duration::from_millis(5));
    }
    drop(running);
    for moment in ["waiting for the key stick", "root is open"] {
        let mut running = tiny.start(&[&stick], &[]);
        running.guest.wait_for(moment, 90);
        assert!(!running.guest.console().contains("whole card"), "it was done before: {}", running.guest.console());
    }
    let mut running = tiny.start(&[&stick], &[]);
    comes_up(&mut running, "the key on VB-KEY");
    let sectors = (SIZE - CARD_START - HEADER_SIZE) / 512;
    assert!(running.guest.console().contains(&format!("root has {sectors} sectors")), "{}", running.guest.console());
    assert_eq!(table()[..446 + 16 + 12], before[..446 + 16 + 12], "nothing but the length has changed");
}

#[test]
fn a_new_card_is_taken_whole_at_its_first_boot() {
    let _turn = Turn::take();
    let mut tiny = tiny();
    // Not a whole number of encryption sectors.
    tiny.put_on_card((64 << 20) + 512);
    let stick = tiny.right_stick();
    let mut running = tiny.start(&[&stick], &[]);
    running.guest.wait_for("root's partition has the whole card now: 62 MiB", 90);
    comes_up(&mut running, "the key on VB-KEY");
    let sectors = ((64 << 20) - CARD_START - HEADER_SIZE) / 512;
    assert!(running.guest.console().contains(&format!("root has {sectors} sectors")), "{}", running.guest.console());
}

#[test]
fn a_new_kernel_that_gets_no_key_is_left_undecided() {
    let _turn = Turn::take();
    let mut tiny = tiny();
    tiny.settings.reboot_after_seconds = 8;
    let card = tiny.put_on_card(128 << 20);
    tool(Command::new("/usr/sbin/mkfs.vfat").args(["--offset", "2048"]).arg(&card).arg("1024"));
    let drive = format!("{}@@1M", card.display());
    let folder = scratch();
    let armed = Switch { boots: "new".to_owned(), trial: Some(Trial::of("new", "old")) };
    fs::create_dir(folder.path().join("new")).unwrap();
    armed.write(folder.path()).unwrap();
    tool(Command::new("mcopy").args(["-i", &drive]).arg(folder.path().join("config.txt")).arg("::"));
    let now = || {
        tool(Command::new("mcopy").args(["-n", "-o", "-i", &drive, "::config.txt"]).arg(folder.path()));
        Switch::read(folder.path()).unwrap().unwrap()
    };
    tiny.words = "vaultberry.pair=new";
    let mut running = tiny.start(&[], &[]);
    running.guest.wait_for("this kernel is on trial: unless the system comes up, old boots next", 90);
    running.guest.wait_for("no key came, so this kernel will be tried again once the old one has come up", 60);
    running.guest.wait_for_end(60);
    let undecided = Trial { keyless: 1, undecided: true, ..Trial::of("new", "old") };
    assert_eq!(now(), Switch { boots: "old".to_owned(), trial: Some(undecided) });
}
