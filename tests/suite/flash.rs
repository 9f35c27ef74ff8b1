//! Flashing, to files and to loop devices.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::Uid;

use crate::support::card::tool;

const MIB: u64 = 1 << 20;

/// An image of `mebibytes` with noise here and there: in the first MiB, round odd borders, at the end.
fn image(folder: &Path, mebibytes: u64) -> PathBuf {
    let path = folder.join("card.img");
    let file = File::create(&path).unwrap();
    file.set_len(mebibytes * MIB).unwrap();
    for (at, length) in [(0, 512), (MIB - 4096, 8192), (3 * MIB + 5, 10), (4 * MIB, 3 * MIB), (mebibytes * MIB - 100, 100)] {
        let mut noise = vec![0; usize::try_from(length).unwrap()];
        openssl::rand::rand_bytes(&mut noise).unwrap();
        file.write_all_at(&noise, at).unwrap();
    }
    path
}

/// A card of `mebibytes`, full of what was there before.
fn used_card(folder: &Path, mebibytes: u64) -> PathBuf {
    let path = folder.join("card");
    fs::write(&path, vec![0xaa; usize::try_from(mebibytes * MIB).unwrap()]).unwrap();
    path
}

fn flash(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultberry"));
    command.arg("flash").args(arguments).stdin(Stdio::null());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A loop device; it goes when this does.
struct Loop(PathBuf);

impl Loop {
    /// None where there can't be one.
    fn over(file: &Path, options: &[&str]) -> Option<Self> {
        if !Uid::effective().is_root() {
            eprintln!("not run: only root makes loop devices");
            return None;
        }
        let output = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn plain_and_compressed_images_are_written_read_back_and_leave_nothing_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), 12);
    let (zst, xz) = (folder.path().join("card.img.zst"), folder.path().join("card.img.xz"));
    tool(Command::new("zstd").args(["-q", "-1", "-o"]).arg(&zst).arg(&image));
    fs::write(&xz, Command::new("xz").args(["-0", "--stdout"]).arg(&image).output().unwrap().stdout).unwrap();
    let wanted = fs::read(&image).unwrap();
    for source in [&image, &zst, &xz] {
        for options in [&[][..], &["--overwrite"]] {
            let card = used_card(folder.path(), 16);
            let output = flash(&[text(source), text(&card), "--yes-really", text(&card)]).args(options).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            // Its blocks are of 4 KiB: 1 + 2 + 1 + 768 + 1.
            assert!(said(&output).contains(": 3.0 MiB of its 12.0 MiB written and read back"), "{output:?}");
            let found = fs::read(&card).unwrap();
            assert!(found[..wanted.len()] == wanted && found[wanted.len()..].iter().all(|byte| *byte == 0));
            // What isn't written takes no room where all was discarded.
            let taken = fs::metadata(&card).unwrap().blocks() * 512;
            assert_eq!(taken < 6 * MIB, options.is_empty(), "{taken}");
        }
    }
}

#[test]
fn a_loop_device_is_written_and_what_is_in_use_or_too_small_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), 12);
    let card = used_card(folder.path(), 16);
    let Some(device) = Loop::over(&card, &[]) else { return };
    let at = text(&device.0);
    let refused = |arguments: &[&str], why: &str| {
        let before = fs::read(&card).unwrap();
        let output = flash(arguments).output().unwrap();
        assert!(!output.status.success() && said(&output).contains(why), "{why}: {output:?}");
        assert!(fs::read(&card).unwrap() == before, "{why}");
    };
    refused(&[text(&image), at], "isn't a card or a stick, which can be taken out");
    refused(&[text(&image), at, "--yes-really", "/dev/null"], "--yes-really names /dev/null, which is another one");
    refused(&[text(&image), text(&card)], "it is a file");
    refused(&[text(&image), "/dev/null", "--yes-really", "/dev/null"], "it is neither a disk nor a file");
    refused(&[text(&folder.path().join("none.img")), at, "--yes-really", at], "it isn't there\nhint: `make image` builds one");
    let large = folder.path().join("large.img");
    File::create(&large).unwrap().set_len(17 * MIB).unwrap();
    refused(&[text(&large), at, "--yes-really", at], "the image has 17.0 MiB or more, and it takes 16.0 MiB");
    {
        let locked = Loop::over(&card, &["--read-only"]).unwrap();
        refused(&[text(&image), text(&locked.0), "--yes-really", text(&locked.0)], "it is read-only");
    }
    // Mounted, it is somebody's.
    let formatted = folder.path().join("formatted");
    File::create(&formatted).unwrap().set_len(16 * MIB).unwrap();
    tool(Command::new("mkfs.ext4").arg("-q").arg(&formatted));
    let mounted = Loop::over(&formatted, &[]).unwrap();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    tool(Command::new("mount").arg(&mounted.0).arg(&place));
    let output = flash(&[text(&image), text(&mounted.0), "--yes-really", text(&mounted.0)]).output().unwrap();
    tool(Command::new("umount").arg(&place));
    assert!(!output.status.success() && said(&output).contains("it is in use: it is mounted at "), "{output:?}");

    let output = flash(&[text(&image), at, "--yes-really", at]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let wanted = fs::read(&image).unwrap();
    assert!(fs::read(&card).unwrap()[..wanted.len()] == wanted);
}

#[test]
fn a_flash_that_is_broken_off_and_an_image_that_is_damaged_leave_a_card_that_does_not_boot() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), 12);
    let zst = folder.path().join("card.img.zst");
    tool(Command::new("zstd").args(["-q", "-1", "-o"]).arg(&zst).arg(&image));
    let begins_with_zeros = |card: &Path| {
        let mut first = vec![1; 1 << 20];
        File::open(card).unwrap().read_exact(&mut first).unwrap();
        first.iter().all(|byte| *byte == 0)
    };
    let damaged = |source: &Path, why: &str| {
        let card = used_card(folder.path(), 16);
        let output = flash(&[text(source), text(&card), "--yes-really", text(&card)]).output().unwrap();
        assert!(!output.status.success() && said(&output).contains(why), "{output:?}");
        assert!(said(&output).contains("which doesn't boot now"), "{output:?}");
        assert!(begins_with_zeros(&card), "{why}");
    };
    // Cut, and changed in the middle: zstd and xz know it.
    let whole = fs::read(&zst).unwrap();
    let cut = folder.path().join("cut.img.zst");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    damaged(&cut, "reading ");
    // The sums know of any other.
    fs::write(folder.path().join("SHA256SUMS"), format!("{}  card.img\n", "0".repeat(64))).unwrap();
    damaged(&image, "SHA256SUMS beside it says 000");
    fs::remove_file(folder.path().join("SHA256SUMS")).unwrap();
    // A card that says it has what it hasn't: a write of a whole MiB that nothing came of.
    let inject = |what: &str, card: &Path| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", &format!("inject=pwrite64:{what}"), "--"]);
        strace.arg(env!("CARGO_BIN_EXE_vaultberry")).args(["flash", text(&image), text(card), "--yes-really", text(card)]);
        strace.stdin(Stdio::null()).output().unwrap()
    };
    let card = used_card(folder.path(), 16);
    let output = inject("retval=1048576:when=5", &card);
    assert!(!output.status.success() && said(&output).contains("back: at 5.0 MiB it isn't what was written"), "{output:?}");
    assert!(begins_with_zeros(&card));
    // Killed at any write.
    for number in [2, 3, 5, 8, 12, 13] {
        let card = used_card(folder.path(), 16);
        if inject(&format!("signal=KILL:when={number}"), &card).status.success() {
            assert!(number > 5, "{number}");
            assert!(fs::read(&card).unwrap()[..1 << 20] == fs::read(&image).unwrap()[..1 << 20]);
        } else {
            assert!(begins_with_zeros(&card), "{number}");
        }
    }
}
