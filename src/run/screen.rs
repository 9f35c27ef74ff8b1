//! Long work on a terminal: one line on stderr that tells what is being done, and goes away when it is done.

use std::io::{self, IsTerminal as _, Write as _};

use crate::amount::amount;
use crate::progress::Progress;
use crate::run::events::{Event, Events};

/// What fits on one line of any terminal. A longer one would be broken, and only its last part be cleared.
const WIDTH: usize = 79;

/// The line of a terminal, or nothing where there is none. Dropped, it is cleared.
#[derive(Debug)]
pub struct Screen(bool);

impl Screen {
    /// The terminal behind stderr, unless the log, which `verbosity` counts the `-v` for, goes there: two can't write on it.
    pub fn new(verbosity: u8) -> Self {
        Self(verbosity == 0 && io::stderr().is_terminal())
    }

    /// Events that are shown.
    pub fn events(&self) -> Events {
        if !self.0 {
            return Events::unheard();
        }
        Events::new(|event| match event {
            Event::Progress { source, doing, done, total } => show(&line(source, doing, *done, *total)),
            _ => show(""),
        })
    }

    /// The progress of work on `name`, shown.
    pub fn progress(&self, name: &str) -> Progress {
        self.events().progress(name)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.0 {
            show("");
        }
    }
}

fn show(text: &str) {
    // To the line's beginning, and clear what stood there (ECMA-48: CR, EL). The work doesn't depend on who looks on.
    let _ = write!(io::stderr(), "\r\x1b[K{text}");
}

fn line(source: &str, doing: &str, done: u64, total: Option<u64>) -> String {
    let amounts = match total {
        Some(total) => format!("{} of {}", amount(done), amount(total)),
        None if done > 0 => amount(done),
        None => String::new(),
    };
    let room = WIDTH.saturating_sub(amounts.len() + 2);
    let what: String = format!("{source}: {doing}").chars().take(room).collect();
    format!("{what}  {amounts}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{WIDTH, line};

    #[test]
    fn a_line_fits_and_keeps_its_amounts() {
        assert_eq!(line("web", "dumping wiki", 5 << 20, None), "web: dumping wiki  5.0 MiB");
        assert_eq!(line("web", "pulling /srv", 0, None), "web: pulling /srv");
        assert_eq!(line("web", "archiving", 1 << 20, Some(1 << 30)), "web: archiving  1.0 MiB of 1.0 GiB");
        let long = line("web", &"x".repeat(300), 1, Some(2));
        assert!(long.len() <= WIDTH && long.ends_with("x  1 bytes of 2 bytes"), "{long}");
    }
}
