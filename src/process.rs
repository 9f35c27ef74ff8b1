//! Child programs whose failure says what they were for.
//!
//! Every tool that vaultberry calls goes through [`run`] or [`output`], so that a missing program, a signal and a bad exit
//! status all become one error: what was being done, which program, and the end of what it wrote to stderr.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed program's stderr an error carries, in bytes.
const STDERR_TAIL: usize = 2000;

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
        return Ok(output.stdout);
    }
    bail!("{doing}: `{name}` ended with {}{}", output.status, tail(&output.stderr))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
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

/// Which Debian package brings a program.
fn hint(program: &str) -> String {
    let package = match program {
        "mmdebstrap" => "mmdebstrap",
        "mkfs.vfat" => "dosfstools",
        "mcopy" | "mdir" | "mtype" => "mtools",
        "mke2fs" | "dumpe2fs" | "debugfs" | "mkfs.ext4" => "e2fsprogs",
        "sfdisk" => "fdisk",
        "bmaptool" => "bmap-tools",
        "zstd" => "zstd",
        "unshare" => "util-linux",
        "newuidmap" => "uidmap",
        "readelf" => "binutils",
        "ssh" | "ssh-keygen" => "openssh-client",
        "rsync" => "rsync",
        "qemu-system-aarch64" => "qemu-system-arm",
        _ => return String::new(),
    };
    format!("\nhint: apt-get install {package}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{output, output_with_input, run};

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
    fn output_and_input_pass_through() {
        assert_eq!(output(Command::new("printf").arg("a b"), "printing").unwrap(), b"a b");
        assert_eq!(output_with_input(&mut Command::new("cat"), "copying", b"in\0out").unwrap(), b"in\0out");
    }
}
