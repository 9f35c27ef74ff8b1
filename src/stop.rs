//! A polite end: SIGTERM, SIGINT and SIGHUP, as when an ssh session is lost, ask a run to stop, and it stops at the next safe point.
//!
//! The signal only sets a flag. Long work looks at the flag as it goes (each block of an archive, five times a second while
//! a child program runs), ends its children, and returns an error like any other, so that what was half written is
//! cleaned up by the same code as always and the run still writes down how it ended. Someone who can't wait sends the
//! signal again: the second one ends the process on the spot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether the process was asked to stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over SIGTERM, SIGINT and SIGHUP for the whole process.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            // The order matters: the first signal finds the flag unset and only sets it, the second finds it set.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.0))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.0)))
                .with_context(|| format!("taking over signal {signal}"))?;
        }
        Ok(stop)
    }

    /// Asks for the stop from inside the process.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        if self.requested() {
            bail!("interrupted by a signal");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;

    #[test]
    fn a_request_reaches_every_clone() {
        let stop = Stop::default();
        let clone = stop.clone();
        clone.check().unwrap();
        stop.request();
        assert_eq!(clone.check().unwrap_err().to_string(), "interrupted by a signal");
    }
}
