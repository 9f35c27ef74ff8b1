//! What a program that deals with a server may touch: next to nothing.
//!
//! ssh, rsync and the programs that read dumps work on what a server sends, and a server may be in other hands. Each is started
//! through `vaultberry sandbox`, which gives up everything first ([`enter`]) and then becomes that program:
//!
//! - Landlock: it may read the system's programs, libraries and settings and what it is told to read, write only where it is
//!   told to, connect to the ports it is told; it can't signal or trace what is outside.
//! - It can gain no privileges, dumps no core, and ends when whoever started it ends, killed or not: an rsync left over would go
//!   on writing in a mirror that the next run is at work in.
//!
//! Whoever starts it is no longer root ([`crate::source::apart`]).

mod cell;
pub mod enter;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

pub use cell::{Cell, clean};

/// How a program is to be started. It says nothing of the program itself.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    arguments: Vec<OsString>,
}

impl Sandbox {
    /// It may read this, and below it.
    pub fn read(&mut self, path: &Path) {
        self.add("--read", [path]);
    }

    /// It may do everything with this, and below it.
    pub fn write(&mut self, path: &Path) {
        self.add("--write", [path]);
    }

    /// It may connect to this TCP port.
    pub fn connect(&mut self, port: u16) {
        self.add("--connect", [port.to_string()]);
    }

    fn add<T: Into<OsString>>(&mut self, option: &str, values: impl IntoIterator<Item = T>) {
        self.arguments.push(option.into());
        self.arguments.extend(values.into_iter().map(Into::into));
    }

    /// `program`, not started, with nothing of our environment but `PATH`. Its messages are read here, so they come in one
    /// language.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("sandbox").args(&self.arguments).arg("--").arg(program);
        command.env_clear().envs([("LC_ALL", "C"), ("HOME", "/nonexistent")]);
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
    }
}

/// The exit code for a program that isn't there, as shells have it.
pub const NO_PROGRAM: u8 = 127;

/// The exit code for a sandbox that couldn't be had; the program wasn't started.
pub const NO_SANDBOX: u8 = 126;

/// What everyone may read and run: the system's programs, libraries and settings, and where `PATH` leads.
fn system() -> Vec<PathBuf> {
    let fixed = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/run/systemd/resolve", "/run/resolvconf", "/dev/urandom"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    fixed.iter().map(PathBuf::from).chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute())).collect()
}
