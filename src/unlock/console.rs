//! Every console of the machine at once: messages go to all, a passphrase may be typed on any.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroize;

use crate::secret::Secret;
use crate::terminal::HiddenEcho;

/// The kernel's list of consoles.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// The longest line that is taken as a passphrase, in bytes.
const LINE: usize = 512;

/// The consoles that the kernel writes to.
pub struct Consoles {
    consoles: Vec<Console>,
}

impl Consoles {
    /// Opens every console that can be opened, and turns their echo off: a passphrase may be typed before it is asked for. A
    /// machine without any boots with its stick all the same.
    pub fn open() -> Self {
        let names = fs::read_to_string(ACTIVE).unwrap_or_default();
        Self { consoles: names.split_whitespace().filter_map(|name| Console::open(&Path::new("/dev").join(name))).collect() }
    }

    /// Writes a line to every console.
    pub fn say(&mut self, message: &str) {
        for console in &mut self.consoles {
            // A console that can't be written to is no reason to stop the boot.
            let _ = write!(console.file, "vaultberry: {message}\r\n");
        }
    }

    /// Asks for the recovery passphrase.
    pub fn prompt(&mut self) {
        for console in &mut self.consoles {
            let _ = write!(console.file, "vaultberry: insert the key stick, or type the recovery passphrase: ");
        }
    }

    /// The descriptors to wait on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.consoles.iter().map(|console| console.file.as_fd())
    }

    /// The lines that were typed, one a console at most; never blocks. A console that is gone is forgotten.
    pub fn lines(&mut self) -> Vec<Secret<String>> {
        let mut lines = Vec::new();
        self.consoles.retain_mut(|console| match console.read_line() {
            Ok(line) => {
                lines.extend(line);
                true
            }
            Err(_) => false,
        });
        lines
    }
}

struct Console {
    file: File,
    /// Held for what it does when it goes.
    _hidden: Option<HiddenEcho<File>>,
}

impl Console {
    fn open(path: &Path) -> Option<Self> {
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
        let hidden = file.try_clone().ok().and_then(HiddenEcho::new);
        Some(Self { file, _hidden: hidden })
    }

    /// None when nothing was typed, or what was typed isn't text.
    fn read_line(&mut self) -> io::Result<Option<Secret<String>>> {
        let mut buffer = [0; LINE];
        let length = match self.file.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        };
        let line = std::str::from_utf8(&buffer[..length]).ok().map(|line| Secret::new(line.to_owned()));
        buffer.zeroize();
        self.file.write_all(b"\r\n")?;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use nix::unistd::ttyname;

    use super::Console;

    #[test]
    fn what_is_typed_before_the_prompt_is_not_shown() {
        let terminal = openpty(None, None).unwrap();
        let echoes = || tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ECHO);
        assert!(echoes());
        let console = Console::open(&ttyname(&terminal.slave).unwrap()).unwrap();
        assert!(!echoes());
        drop(console);
        assert!(echoes());
    }
}
