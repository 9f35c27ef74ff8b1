//! A run on a terminal: one line on stderr that tells what is being done, and goes away when it is done.

use std::io::{self, IsTerminal as _, Write as _};

use crate::amount::amount;
use crate::run::events::{Event, Events};

/// What fits on one line of any terminal. A longer one would be broken, and only its last part be cleared.
const WIDTH: usize = 79;

/// Events shown on the terminal behind stderr; unheard where there is none.
pub fn events() -> Events {
    if !io::stderr().is_terminal() {
        return Events::unheard();
    }
    Events::new(|event| {
        let text = match event {
            Event::Progress { source, doing, done, total } => line(source, doing, *done, *total),
            _ => String::new(),
        };
        // To the line's beginning, and clear what stood there (ECMA-48: CR, EL). The work doesn't depend on who looks on.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    })
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
