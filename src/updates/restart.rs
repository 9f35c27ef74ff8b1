//! Whether the system has to be restarted for what was upgraded.
//!
//! On Debian a kernel's package says so in `/run/reboot-required`; libraries say nothing. A program that runs since before an
//! upgrade still has the old library in memory: its file, which dpkg has replaced, is `(deleted)` in `/proc/PID/maps`.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::durable;
use crate::kernel::firmware;
use crate::kernel::switch::Switch;
use crate::log::printable;

/// What packages leave that want a restart, and their names.
const REQUIRED: &str = "/run/reboot-required";
const PACKAGES: &str = "/run/reboot-required.pkgs";

/// What [`look`] found, a name a line. A run sees nothing of other programs' memory. It is gone with the next start.
const OUTDATED: &str = "/run/vaultberry-outdated";

/// How many programs are named.
const NAMED: usize = 5;

/// Looks at the programs that run, and notes which of them do so since before an upgrade.
///
/// # Errors
/// It can't be noted.
pub fn look() -> Result<()> {
    durable::write(Path::new(OUTDATED), programs("/proc".as_ref()).join("\n").as_bytes(), 0o644)
}

/// Why a restart is wanted, in words; none where it isn't. Of programs that run since before an upgrade it has those of the last
/// [`look`].
pub fn wanted() -> Option<String> {
    let mut reasons = Vec::new();
    let armed = firmware::mounted().ok().and_then(|firmware| Switch::read(&firmware).ok().flatten());
    reasons.extend(armed.filter(Switch::is_armed).map(|switch| format!("{} waits to be tried", switch.boots)));
    if reasons.is_empty() && Path::new(REQUIRED).exists() {
        reasons.push(required(&fs::read_to_string(PACKAGES).unwrap_or_default()));
    }
    let programs: Vec<String> = fs::read_to_string(OUTDATED).unwrap_or_default().lines().map(str::to_owned).collect();
    reasons.extend(outdated(&programs));
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn required(packages: &str) -> String {
    let mut names: Vec<String> = packages.lines().map(|line| printable(line.as_bytes())).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { "a package asks for it".to_owned() } else { format!("{} asks for it", names.join(", ")) }
}

/// The programs that run with files of before an upgrade. One that can't be looked at, or has just ended, isn't among them.
fn programs(proc: &Path) -> Vec<String> {
    let folders = fs::read_dir(proc).into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = folders.filter(|folder| {
        folder.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
            && fs::read_to_string(folder.join("maps")).is_ok_and(|maps| is_outdated(&maps))
    });
    let names = processes.filter_map(|folder| fs::read(folder.join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| printable(name.trim_ascii())).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Lines as `7f0000-7f1000 r-xp 00000000 fe:00 1234 /usr/lib/aarch64-linux-gnu/libssl.so.3 (deleted)`.
fn is_outdated(maps: &str) -> bool {
    let is_gone = |line: &str| {
        let path = line.split_whitespace().nth(5).unwrap_or_default();
        line.ends_with(" (deleted)")
            && path.starts_with("/usr/")
            && line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('x'))
    };
    maps.lines().any(is_gone)
}

fn outdated(programs: &[String]) -> Option<String> {
    let more = programs.len().saturating_sub(NAMED);
    let named = programs.get(..programs.len().min(NAMED))?.join(", ");
    match (programs.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("running since before an upgrade: {named}")),
        _ => Some(format!("running since before an upgrade: {named} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{outdated, programs, required};

    #[test]
    fn programs_with_a_library_of_before_an_upgrade_are_found() {
        let proc = tempfile::tempdir().unwrap();
        let program = |pid: &str, name: &str, maps: &str| {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("comm"), format!("{name}\n")).unwrap();
            fs::write(proc.path().join(pid).join("maps"), maps).unwrap();
        };
        program("1", "systemd", "7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/aarch64-linux-gnu/libc.so.6\n");
        assert_eq!(outdated(&programs(proc.path())), None);
        program("20", "sshd", "7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/aarch64-linux-gnu/libssl.so.3 (deleted)\n");
        program("21", "sshd", "7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/aarch64-linux-gnu/libssl.so.3 (deleted)\n");
        program(
            "30",
            "a",
            "7f00-7f10 rw-s 00000000 00:01 12 /memfd:x (deleted)\n7f20-7f30 r--p 00000000 fe:00 9 /usr/share/x (deleted)\n",
        );
        program("self", "b", "7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/libx.so (deleted)\n");
        assert_eq!(outdated(&programs(proc.path())).unwrap(), "running since before an upgrade: sshd");
    }

    #[test]
    fn not_all_of_many_are_named() {
        let many = ["a", "b", "c", "d", "e", "f", "g"].map(String::from);
        assert_eq!(outdated(&many).unwrap(), "running since before an upgrade: a, b, c, d, e and 2 more");
    }

    #[test]
    fn packages_that_ask_are_named_once() {
        assert_eq!(required("linux-image-b\ndbus\ndbus\n"), "dbus, linux-image-b asks for it");
        assert_eq!(required(""), "a package asks for it");
    }
}
