//! How often a passphrase may be tried: whoever types at the console gets three tries, then a pause, and so on.
//!
//! It is there against somebody who guesses by hand, and against a keyboard on which something lies; argon2id is what makes
//! guessing hopeless.

use std::time::{Duration, Instant};

/// Tries before a pause.
const TRIES: u32 = 3;

/// How long a pause is.
pub const PAUSE: Duration = Duration::from_secs(30);

/// The tries so far.
#[derive(Debug, Default)]
pub struct Attempts {
    wrong: u32,
    pause_ends: Option<Instant>,
}

impl Attempts {
    /// Notes a wrong passphrase at `now`; true when a pause begins with it.
    pub fn wrong(&mut self, now: Instant) -> bool {
        self.wrong += 1;
        let pause = self.wrong.is_multiple_of(TRIES);
        if pause {
            self.pause_ends = Some(now + PAUSE);
        }
        pause
    }

    /// Whether a pause has come to its end; true once for each.
    pub fn goes_on(&mut self, now: Instant) -> bool {
        self.pause_ends.take_if(|end| *end <= now).is_some()
    }

    /// When the pause ends; none when there is none at `now`.
    pub fn pause_ends(&self, now: Instant) -> Option<Instant> {
        self.pause_ends.filter(|end| *end > now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Attempts, PAUSE};

    #[test]
    fn each_third_wrong_passphrase_begins_a_pause() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for round in 0..3 {
            let now = start + PAUSE * round;
            assert_eq!([now, now, now].map(|now| attempts.wrong(now)), [false, false, true]);
            assert_eq!(attempts.pause_ends(now + PAUSE.checked_sub(Duration::from_millis(1)).unwrap()), Some(now + PAUSE));
            assert_eq!(attempts.pause_ends(now + PAUSE), None);
            assert!(!attempts.goes_on(now), "the pause isn't over");
            assert!(attempts.goes_on(now + PAUSE) && !attempts.goes_on(now + PAUSE));
        }
    }
}
