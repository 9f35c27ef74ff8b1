//! Child programs whose failure says what they were for.
//!
//! Every tool that vaultberry calls goes through [`run`] or [`output`], so that a missing program, a signal and a bad exit
//! status all become one error: what was being done, which program, and the end of what it wrote to stderr.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::log::printable;

/// Where the system's programs are, which an ordinary user's search path lacks.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Starts a program that ends with the one that started it (prctl(2), `PR_SET_PDEATHSIG`).
const TIE: &str = "setpriv";

/// How much of a failed program's stderr an error carries, in bytes.
const STDERR_TAIL: usize = 2000;

/// A program of the system, found also where an ordinary user's search path doesn't look.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

/// The same, for a program that tidies up after itself: it is asked to end when the one that started it is killed.
pub fn tied(program: &str) -> Command {
    let mut command = tool(TIE);
    command.args(["--pdeathsig", "TERM", program]);
    command
}

/// Makes sure, before long work, that these programs are there.
///
/// # Errors
/// Names all that are missing, and the Debian packages that have them.
pub fn require(programs: &[&str]) -> Result<()> {
    let path = search_path();
    let is_there = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_there(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().filter_map(|program| package(program)).collect();
    let packages = packages.into_iter().collect::<Vec<_>>().join(" ");
    bail!("these programs are needed and aren't there: {}\nhint: apt-get install {packages}", missing.join(", "))
}

fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(SYSTEM_PATH);
    path
}

/// Runs `command` to its end, with no standard input. `doing` completes the sentence "while …": `making the file system`.
pub fn run(command: &mut Command, doing: &str) -> Result<()> {
    output(command, doing).map(drop)
}

/// Runs `command` to its end and gives what it wrote to stdout.
pub fn output(command: &mut Command, doing: &str) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output();
    finish(command, doing, output)
}

/// Runs `command` to its end with `input` on its standard input, and gives what it wrote to stdout.
///
/// Meant for inputs of a few kilobytes: they are written before anything is read back.
pub fn output_with_input(command: &mut Command, doing: &str, input: &[u8]) -> Result<Vec<u8>> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return finish(command, doing, Err(error)),
    };
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error).with_context(|| format!("{doing}: writing to {}", name(command)));
    }
    finish(command, doing, child.wait_with_output())
}

fn finish(command: &Command, doing: &str, output: io::Result<Output>) -> Result<Vec<u8>> {
    let name = name(command);
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{doing}: the program `{name}` is not there{}", hint(&name))
        }
        Err(error) => return Err(error).with_context(|| format!("{doing}: starting `{name}`")),
    };
    if output.status.success() {
        for line in output.stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            tracing::debug!("{name}: {}", printable(line));
        }
        return Ok(output.stdout);
    }
    bail!("{doing}: `{name}` ended with {}{}", output.status, tail(&output.stderr))
}

fn name(command: &Command) -> String {
    let program = command.get_program();
    // What it starts, behind an option and its value, is what somebody waits for.
    let program = if program == TIE { command.get_args().nth(2).unwrap_or(program) } else { program };
    program.to_string_lossy().into_owned()
}

/// The last lines of a program's stderr, indented below the error; nothing when it said nothing.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim_end();
    if text.is_empty() {
        return String::new();
    }
    let mut start = text.len().saturating_sub(STDERR_TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!(":\n  {}", text[start..].replace('\n', "\n  "))
}

/// What to do about a program that isn't there.
fn hint(program: &str) -> String {
    package(program).map_or_else(String::new, |package| format!("\nhint: apt-get install {package}"))
}

/// Which Debian package brings a program.
fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "mmdebstrap" => "mmdebstrap",
        "mkfs.vfat" => "dosfstools",
        "mcopy" | "mmd" | "mtype" => "mtools",
        "mke2fs" | "dumpe2fs" | "debugfs" | "mkfs.ext4" => "e2fsprogs",
        "sfdisk" => "fdisk",
        "bmaptool" => "bmap-tools",
        "setpriv" | "unshare" => "util-linux",
        "newuidmap" => "uidmap",
        "tar" => "tar",
        "dpkg" | "dpkg-deb" | "dpkg-divert" => "dpkg",
        "ar" | "readelf" => "binutils",
        "ssh" | "ssh-keygen" => "openssh-client",
        "rsync" => "rsync",
        "qemu-system-aarch64" => "qemu-system-arm",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{output, output_with_input, require, run};

    #[test]
    fn a_bad_exit_status_carries_the_end_of_stderr() {
        let error = run(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 7"]), "trying a shell").unwrap_err();
        assert_eq!(error.to_string(), "trying a shell: `sh` ended with exit status: 7:\n  one\n  two");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program"), "trying").unwrap_err();
        assert_eq!(error.to_string(), "trying: the program `no-such-program` is not there");
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        require(&["sh", "cat"]).unwrap();
        assert!(require(&["no-such-program", "sh", "nor-this"]).unwrap_err().to_string().contains("no-such-program, nor-this"));
    }

    #[test]
    fn output_and_input_pass_through() {
        assert_eq!(output(Command::new("printf").arg("a b"), "printing").unwrap(), b"a b");
        assert_eq!(output_with_input(&mut Command::new("cat"), "copying", b"in\0out").unwrap(), b"in\0out");
    }
}
