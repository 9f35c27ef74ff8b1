//! Asking a person: for a word that agrees, and for what must not be seen.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::secret::Secret;

/// A terminal whose echo is off; it comes back when this goes.
pub struct HiddenEcho<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> HiddenEcho<T> {
    /// Turns the echo off. None when this isn't a terminal.
    pub fn new(terminal: T) -> Option<Self> {
        let before = tcgetattr(&terminal).ok()?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        hidden.local_flags.insert(LocalFlags::ICANON);
        tcsetattr(&terminal, SetArg::TCSANOW, &hidden).ok()?;
        Some(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for HiddenEcho<T> {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Whether `out` shows colours, and its owner wants them (no-color.org).
pub fn colour(out: &impl IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Asks `question` on standard error, and gives whether `wanted` is typed. Without a person there is no consent.
///
/// # Errors
/// Standard input can't be read.
pub fn agrees(question: &str, wanted: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question}: ");
    let _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).context("reading from standard input")?;
    Ok(typed.trim() == wanted)
}

/// Reads a line from standard input; on a terminal, asks for it with `question` and without echo.
pub fn read_secret(question: &str) -> Result<Secret<String>> {
    let stdin = io::stdin();
    let hidden = stdin.is_terminal().then(|| {
        eprint!("{question}: ");
        let _ = io::stderr().flush();
        HiddenEcho::new(io::stdin())
    });
    let mut line = String::with_capacity(512);
    stdin.lock().read_line(&mut line).context("reading from standard input")?;
    if hidden.is_some() {
        eprintln!();
    }
    Ok(Secret::new(line))
}
