//! How far long work is, for whoever watches.
//!
//! A stage says what it does and how much of it is done; it doesn't know whether a terminal, a program or nobody listens.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One word of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What is being done: `dumping wiki`, `archiving`.
    pub doing: &'a str,
    /// How much is done, in bytes.
    pub done: u64,
    /// How much there is to do, in bytes, where that is known.
    pub total: Option<u64>,
}

type Listener = dyn Fn(Step<'_>) + Send + Sync;

/// Takes words of progress; by default nobody does. Clones lead to the same listener.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Listener>>);

impl Progress {
    /// Progress that `listener` hears of. It is called often, from within the work, and should be quick.
    pub fn new(listener: impl Fn(Step<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// The same, of which on the same work no more than one word in `pace` is passed on; of new work at once.
    #[must_use]
    pub fn at_pace(self, pace: Duration) -> Self {
        let last: Mutex<Option<(String, Instant)>> = Mutex::new(None);
        Self::new(move |step| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_some_and(|(doing, when)| doing == step.doing && when.elapsed() < pace) {
                return;
            }
            *last = Some((String::from(step.doing), Instant::now()));
            self.say(step.doing, step.done, step.total);
        })
    }

    /// Says how far the work is; cheap when nobody listens.
    pub fn say(&self, doing: &str, done: u64, total: Option<u64>) {
        if let Some(listener) = &self.0 {
            listener(Step { doing, done, total });
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Progress(heard)" } else { "Progress(unheard)" })
    }
}
