//! How fast root opens, beside what Debian itself has for that: `cryptsetup-initramfs` with `passdev`, and a bare `cryptsetup
//! open`, in the same guest with the same key. `make bench-unlock` runs it; it prints figures and holds none against a clock.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vaultberry::kernel::cpio::Entry;

use crate::cards::boot::CARD;
use crate::support::Turn;
use crate::support::card::{BINARIES, cached, tool};
use crate::support::tiny::{Tiny, UP};

/// Boots of each kind, and openings in the guest that does nothing else.
const TIMES: usize = 5;
const OPENINGS: usize = 20;

/// The key on the stick as passdev and cryptsetup want it: nothing but its bytes.
const RAW: &str = "vaultberry/raw.key";

/// Opens root again and again, in turn by each program, while the kernel notes when each of them starts, mounts and ends.
const MEASURE: &str = r#"#!/bin/sh
modprobe -a -q dm-crypt algif_skcipher vfat nls_cp437 nls_ascii usb-storage
until [ -b /dev/sda ] && [ -b /dev/vda ]; do sleep 1; done
udevadm settle
mkdir -p /stick
ln -s "$(command -v cryptsetup)" /bare
trace=/sys/kernel/tracing
mount -t tracefs none $trace
for event in syscalls/sys_exit_mount sched/sched_process_exec sched/sched_process_exit; do
	echo 1 >$trace/events/$event/enable
done
for _ in $(seq OPENINGS); do
	mount -o ro -t vfat /dev/sda /stick
	/bare open --key-file /stick/RAW /dev/vda root || echo 'cryptsetup failed'
	umount /stick
	cryptsetup close root
	udevadm settle
	vaultberry-unlock || echo 'vaultberry-unlock failed'
	cryptsetup close root
	udevadm settle
done
grep -E '^ *(bare|vaultberry-unlo)-' $trace/trace >/dev/console
echo 'that is all' >/dev/console
poweroff -f
"#;

/// Kernel and initramfs as Debian makes them, made once.
fn debian() -> PathBuf {
    let folder = cached("debian-unlock");
    if !folder.join("initrd.img").exists() {
        eprintln!("making Debian's initramfs: this takes some minutes, once");
        tool(Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/debian-unlock.sh")).arg(&folder));
    }
    folder
}

/// A tiny appliance whose stick has the key in both forms.
fn tiny(kernel_of_debian: bool) -> (Tiny, PathBuf) {
    let mut tiny = Tiny::new(&CARD.image());
    let raw = (PathBuf::from(RAW), tiny.key.key.expose().clone());
    let stick = tiny.stick("stick", "VB-KEY", &[&tiny.right_files()[..], &[raw]].concat(), false);
    if kernel_of_debian {
        for (from, to) in [("vmlinuz", "kernel"), ("initrd.img", "initrd")] {
            fs::copy(debian().join(from), tiny.path(to)).unwrap();
        }
        let (key, options) =
            (format!("/dev/disk/by-label/VB-KEY:/{RAW}:30"), "luks,initramfs,keyscript=/lib/cryptsetup/scripts/passdev");
        let crypttab = format!("root UUID={} {key} {options}\n", tiny.key.uuid);
        tiny.more = vec![Entry::folder("cryptroot", 0o755, 0), Entry::file("cryptroot/crypttab", 0o644, 0, crypttab.as_bytes())];
    }
    (tiny, stick)
}

/// The seconds between the kernel's start and the first instruction of what is on root.
fn seconds_to_root(tiny: &Tiny, stick: &Path) -> f64 {
    let mut running = tiny.start(&[stick], &[]);
    running.guest.wait_for(UP, 120);
    running.guest.wait_for_end(30);
    let console = running.guest.console();
    let said = console.split_once("the kernel started ").unwrap().1;
    said.split_once(" s ago").unwrap().0.parse().unwrap()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[test]
#[ignore = "measures; `make bench-unlock` runs it"]
fn beside_cryptsetup_initramfs_and_passdev() {
    let _turn = Turn::take();
    let (ours, theirs) = (tiny(false), tiny(true));
    let size = |tiny: &Tiny| fs::metadata(tiny.path("initrd")).unwrap().len() / 100_000;
    eprintln!("initramfs, in units of 0.1 MB: vaultberry {}, Debian {}", size(&ours.0), size(&theirs.0));
    let (mut seconds, mut other) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        seconds.push(seconds_to_root(&ours.0, &ours.1));
        other.push(seconds_to_root(&theirs.0, &theirs.1));
    }
    eprintln!("kernel start to root, seconds: vaultberry {seconds:?}, Debian {other:?}");
    let (seconds, other) = (median(seconds), median(other));
    eprintln!("medians: vaultberry {seconds:.2} s, cryptsetup-initramfs with passdev {other:.2} s, ratio {:.2}", seconds / other);
}

#[test]
#[ignore = "measures; `make bench-unlock` runs it"]
fn beside_a_bare_cryptsetup_open() {
    let _turn = Turn::take();
    let (mut tiny, stick) = tiny(true);
    let script = MEASURE.replace("OPENINGS", &OPENINGS.to_string()).replace("RAW", RAW);
    let program = fs::read(Path::new(BINARIES).join("vaultberry-unlock")).unwrap();
    eprintln!("vaultberry-unlock: {} bytes", program.len());
    let order = "/scripts/local-top/measure \"$@\"\n";
    // What Debian's initramfs lacks of its libraries, as it was linked with.
    let libraries = ["/usr/lib/aarch64-linux-gnu/libssl.so.3", "/usr/aarch64-linux-gnu/lib/libgcc_s.so.1"];
    let [libssl, libgcc] = libraries.map(|path| fs::read(path).unwrap());
    let folders = ["usr", "usr/sbin", "usr/lib", "usr/lib/aarch64-linux-gnu", "scripts", "scripts/local-top"];
    tiny.more.extend(folders.map(|path| Entry::folder(path, 0o755, 0)));
    tiny.more.extend([
        Entry::file("usr/sbin/vaultberry-unlock", 0o755, 0, &program),
        Entry::file("usr/lib/aarch64-linux-gnu/libssl.so.3", 0o644, 0, &libssl),
        Entry::file("usr/lib/aarch64-linux-gnu/libgcc_s.so.1", 0o644, 0, &libgcc),
        Entry::file("scripts/local-top/measure", 0o755, 0, script.as_bytes()),
        Entry::file("scripts/local-top/ORDER", 0o644, 0, order.as_bytes()),
    ]);
    let mut running = tiny.start(&[&stick], &[]);
    running.guest.wait_for("that is all", 240);
    let console = running.guest.console();
    assert!(!console.contains(" failed"), "{console}");
    assert_eq!(console.matches("root is open, by the key on VB-KEY").count(), OPENINGS, "{console}");
    let bare = spans(&console, "bare-", "sched_process_exec");
    let ours = spans(&console, "vaultberry-unlo-", "sys_mount");
    assert_eq!((bare.len(), ours.len()), (OPENINGS, OPENINGS), "{console}");
    eprintln!("from a mounted stick to the program's end, seconds: cryptsetup {bare:.2?}, vaultberry-unlock {ours:.2?}");
    let (bare, ours) = (median(bare), median(ours));
    eprintln!("medians: vaultberry-unlock {ours:.3} s, cryptsetup open {bare:.3} s, ratio {:.2}", ours / bare);
}

/// The seconds between the first event `from` and the end of each process whose name and dash are `of`, by the kernel's lines:
/// `name-pid [cpu] flags seconds: event: …`.
fn spans(console: &str, of: &str, from: &str) -> Vec<f64> {
    let events = console.lines().filter_map(|line| {
        let (process, rest) = line.trim_start().split_once(' ')?;
        let pid = process.strip_prefix(of)?;
        let (time, event) = rest.split_once(": ")?;
        Some((pid, time.rsplit(' ').next()?.parse::<f64>().ok()?, event))
    });
    let (mut begun, mut spans) = (HashMap::new(), Vec::new());
    for (pid, time, event) in events {
        if event.starts_with(from) {
            begun.entry(pid).or_insert(time);
        } else if event.starts_with("sched_process_exit") {
            spans.extend(begun.remove(pid).map(|start| time - start));
        }
    }
    spans
}
