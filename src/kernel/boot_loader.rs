//! U-Boot, which the Pi's firmware starts in the kernel's place: it starts the pair, and ends the trial of one that dies at once.
//!
//! Debian's build waits for keys, starts USB, and looks on every disk and in the network for something to boot: all of it is
//! said in its default environment. Ours takes that one's place in the program, so that there is nothing else to read, and
//! nothing of it to be lost. (U-Boot's documentation, "Environment Variables"; in the program each `NAME=VALUE` ends with a
//! zero byte, and the last one with two.)

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tracing::warn;

use super::pair::{self, INITRD, KERNEL};
use super::switch::{self, FALLBACK};
use super::tree::Tree;

/// Its name in a pair's folder, which `config.txt` says.
pub const NAME: &str = "u-boot.bin";

/// With what Debian's default environment begins.
const BEGIN: &[u8] = b"\0bootcmd=";

/// The boot loader of a new pair. The one that has started `old` on this board stays for good: no trial could show that
/// another one starts anything. Debian's, from the tree, is taken where there is no old pair, or it starts nothing any more.
///
/// # Errors
/// It can't be read, or isn't built as expected.
pub fn for_new_pair(tree: &Tree, old: Option<&Path>) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    if let Some(path) = old.map(|folder| folder.join(NAME)) {
        match pair::verify_file(&path).and_then(|()| read(&path)) {
            Ok(program) => return Ok(program),
            Err(error) => warn!("the boot loader is damaged, so the new pair gets Debian's: {error:#}"),
        }
    }
    let path = tree.boot_loader();
    with_environment(&read(&path)?).with_context(|| format!("putting an environment into {}", path.display()))
}

/// What it does: on the first card that has a `config.txt`, it takes the pair's name from there. If that pair is on trial, it
/// writes the file that leads to the old one over `config.txt`; then it starts the pair, with the device tree and the command
/// line that the firmware has read. It doesn't wait for keys. That file stays where it is, since removing it would be one more
/// write that a power cut may spoil, and nothing leads to it any more.
///
/// The addresses are free on every board: the kernel's at a multiple of 2 MiB, the initramfs' far enough behind it, and what
/// the firmware has put into memory at 128 MiB or higher.
fn environment() -> String {
    let config = switch::NAME;
    [
        String::from("bootdelay=-2"),
        format!(
            "bootcmd=for n in 0 1; do setenv c mmc $n:1; if load $c 400000 {config} && env import -t -r 400000 $filesize os_prefix; \
             then run back; run go; fi; done; reset"
        ),
        format!(
            "back=setenv f ${{os_prefix}}{FALLBACK}; if load $c 400000 $f; then fatwrite $c 400000 {config} $filesize; fi"
        ),
        format!(
            "go=load $c 200000 ${{os_prefix}}{KERNEL} && load $c 4000000 ${{os_prefix}}{INITRD} && \
             booti 200000 4000000:$filesize $fdt_addr"
        ),
    ]
    .join("\0")
}

fn with_environment(program: &[u8]) -> Result<Vec<u8>> {
    let places: Vec<usize> =
        program.windows(BEGIN.len()).enumerate().filter(|(_, bytes)| *bytes == BEGIN).map(|(at, _)| at + 1).collect();
    ensure!(places.len() == 1, "it has {} places where an environment begins, instead of one", places.len());
    let start = places[0];
    let length = program[start..].windows(2).position(|bytes| bytes == b"\0\0").context("its environment doesn't end")?;
    let environment = environment().into_bytes();
    ensure!(environment.len() <= length, "it has {length} bytes of room, and {} are needed", environment.len());
    let mut program = program.to_vec();
    program[start..start + length].fill(0);
    program[start..start + environment.len()].copy_from_slice(&environment);
    Ok(program)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{environment, with_environment};

    /// A program with a default environment that has this much room.
    pub(crate) fn program(room: usize) -> Vec<u8> {
        let mut program = b"code\0bootcmd=bootflow scan\0bootdelay=2\0other=".to_vec();
        let end = b"code\0".len() + room;
        program.resize(end, b'x');
        program.extend(b"\0\0more code");
        program
    }

    #[test]
    fn our_environment_takes_the_place_of_debian_s_and_nothing_else_changes() {
        let stock = program(600);
        let ours = with_environment(&stock).unwrap();
        assert_eq!(ours.len(), stock.len());
        let (start, end) = (b"code\0".len(), b"code\0".len() + 600);
        assert!(ours[..start] == stock[..start] && ours[end..] == stock[end..]);
        let text = environment();
        assert_eq!(&ours[start..start + text.len()], text.as_bytes());
        assert!(ours[start + text.len()..end].iter().all(|&byte| byte == 0));
        assert!(text.split('\0').all(|variable| variable.contains('=')));
    }

    #[test]
    fn a_program_that_is_built_otherwise_is_refused() {
        let error = |program: &[u8]| with_environment(program).unwrap_err().to_string();
        assert_eq!(error(b"code"), "it has 0 places where an environment begins, instead of one");
        assert_eq!(error(&[program(600), program(600)].concat()), "it has 2 places where an environment begins, instead of one");
        assert!(error(&program(100)).starts_with("it has 100 bytes of room, and "), "{}", error(&program(100)));
        assert_eq!(error(b"\0bootcmd=bootflow scan"), "its environment doesn't end");
    }
}
