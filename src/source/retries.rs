//! Trying again, later each time: a server that restarts is back in a minute, and a network in a few.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::stop::Stop;

/// How long is waited before the first time.
const FIRST: Duration = Duration::from_secs(2);

/// Each time is waited for so many times as long as for the one before.
const FACTOR: u32 = 4;

/// No wait is longer.
const LONGEST: Duration = Duration::from_mins(5);

/// How often the stop flag is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How often something is tried again yet.
#[derive(Debug)]
pub struct Retries {
    left: u16,
    tried: u16,
}

impl Retries {
    /// So often.
    pub fn new(left: u16) -> Self {
        Self { left, tried: 0 }
    }

    /// How often it was tried again.
    pub fn tried(&self) -> u16 {
        self.tried
    }

    /// Waits until it is time to try again, and says whether there is another time; `why` is for the log.
    ///
    /// # Errors
    /// A stop was asked for.
    pub async fn wait(&mut self, why: &dyn Fn() -> String, stop: &Stop) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        let wait = pause(self.tried);
        (self.left, self.tried) = (self.left - 1, self.tried + 1);
        tracing::warn!("trying again in {} s: {}", wait.as_secs(), why());
        let begun = Instant::now();
        while let Some(rest) = wait.checked_sub(begun.elapsed()) {
            stop.check()?;
            sleep(LOOK.min(rest)).await;
        }
        Ok(true)
    }
}

/// What is waited for the next time, after so many.
fn pause(tried: u16) -> Duration {
    FIRST.saturating_mul(FACTOR.saturating_pow(u32::from(tried))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::{Retries, pause};
    use crate::stop::Stop;

    #[test]
    fn waits_grow_and_are_bounded_and_end_with_a_stop() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 4, 60_000].iter().map(|tried| pause(*tried).as_secs()).collect();
        assert_eq!(seconds, [2, 8, 32, 128, 300, 300]);
        let stop = Stop::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wait = |retries: &mut Retries| runtime.block_on(retries.wait(&String::new, &stop));
        assert!(!wait(&mut Retries::new(0)).unwrap());
        stop.request();
        assert!(wait(&mut Retries::new(1)).is_err());
    }
}
