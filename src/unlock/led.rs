//! The board's activity LED, for an appliance without a screen: it says how the unlock is.
//!
//! | pattern | meaning |
//! |---|---|
//! | a second on, a second off | a key is waited for |
//! | three short flashes, a pause | the last key didn't open root |
//! | on | root is open |
//! | quick flashes without a pause | it was given up, and the board will reboot |
//!
//! A board without the LED, or a kernel that doesn't know it, unlocks all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where the kernel shows LEDs.
const LEDS: &str = "/sys/class/leds";

/// What the activity LED is called: by today's device trees, and by older ones.
const NAMES: [&str; 3] = ["ACT", "act", "led0"];

/// How the unlock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A key is waited for.
    Waiting,
    /// The last key was wrong, damaged or another appliance's.
    WrongKey,
    /// Root is open.
    Open,
    /// Given up.
    Failed,
}

impl Signal {
    /// How long the LED is on, off, on, … in milliseconds, over and over; no steps for always on.
    fn steps(self) -> &'static [u64] {
        match self {
            Signal::Waiting => &[1000, 1000],
            Signal::WrongKey => &[150, 150, 150, 150, 150, 1200],
            Signal::Open => &[],
            Signal::Failed => &[60, 60],
        }
    }
}

/// The LED, played by a thread of its own.
pub struct Led {
    signals: Option<Sender<Signal>>,
    player: Option<JoinHandle<()>>,
}

impl Led {
    /// The board's LED, waiting.
    pub fn new() -> Self {
        Self::below(Path::new(LEDS))
    }

    fn below(leds: &Path) -> Self {
        let Some(folder) = NAMES.iter().map(|name| leds.join(name)).find(|folder| folder.exists()) else {
            return Self { signals: None, player: None };
        };
        let (signals, received) = channel();
        let player = thread::spawn(move || {
            // Until then the kernel lets it show what the card does.
            write(&folder, "trigger", "none");
            let (mut signal, mut step) = (Signal::Waiting, 0);
            loop {
                let steps = signal.steps();
                write(&folder, "brightness", if steps.is_empty() || step % 2 == 0 { "1" } else { "0" });
                let next = match steps.get(step) {
                    Some(length) => received.recv_timeout(Duration::from_millis(*length)),
                    None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match next {
                    Ok(other) => (signal, step) = (other, 0),
                    Err(RecvTimeoutError::Timeout) => step = (step + 1) % steps.len(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { signals: Some(signals), player: Some(player) }
    }

    /// Shows this from now on.
    pub fn show(&self, signal: Signal) {
        if let Some(signals) = &self.signals {
            // The thread lives as long as this does.
            let _ = signals.send(signal);
        }
    }
}

impl Default for Led {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Led {
    /// Leaves the LED as it was shown last.
    fn drop(&mut self) {
        self.signals = None;
        if let Some(player) = self.player.take() {
            let _ = player.join();
        }
    }
}

fn write(folder: &Path, name: &str, value: &str) {
    let file: PathBuf = folder.join(name);
    // A light that can't be lit is no reason to stop the boot.
    let _ = fs::write(file, value);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread::sleep;
    use std::time::Duration;

    use super::{Led, Signal};

    #[test]
    fn four_patterns_differ_in_rhythm() {
        let steps = [Signal::Waiting, Signal::WrongKey, Signal::Open, Signal::Failed].map(Signal::steps);
        for (number, one) in steps.iter().enumerate() {
            assert!(one.len().is_multiple_of(2), "it ends off");
            assert!(steps[..number].iter().all(|other| other != one));
        }
    }

    #[test]
    fn the_led_plays_what_is_shown_and_stays_so() {
        let leds = tempfile::tempdir().unwrap();
        drop(Led::below(leds.path()));
        let folder = leds.path().join("ACT");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("trigger"), "mmc0").unwrap();
        let lit = || fs::read_to_string(folder.join("brightness")).unwrap_or_default();
        let led = Led::below(leds.path());
        led.show(Signal::Failed);
        let mut seen = Vec::new();
        for _ in 0..60 {
            seen.push(lit());
            sleep(Duration::from_millis(10));
        }
        assert!(seen.contains(&"1".into()) && seen.contains(&"0".into()), "{seen:?}");
        led.show(Signal::Open);
        drop(led);
        assert_eq!((lit().as_str(), fs::read_to_string(folder.join("trigger")).unwrap().as_str()), ("1", "none"));
    }
}
