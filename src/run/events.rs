//! What happens in a run, told as it happens: to a terminal, to a program that reads JSON, or to nobody.
//!
//! As JSON each event is one line with `event` and `time`:
//!
//! ```text
//! {"event":"begun","time":"…","run":"20261123T023000Z","sources":["web"]}
//! {"event":"progress","time":"…","source":"web","doing":"dumping wiki","done":1048576,"total":null}
//! {"event":"source","time":"…","name":"web","outcome":"complete",…}        as in last-run.json
//! {"event":"push","time":"…","source":"web","outcome":"complete",…}        as in last-run.json
//! {"event":"ended","time":"…","run":"20261123T023000Z","outcome":"complete",…}     as in last-run.json
//! ```

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::progress::Progress;
use crate::run::report::{PushReport, RunReport, SourceReport};

/// The least time between two words of progress on the same work.
const PACE: Duration = Duration::from_millis(100);

/// One thing that happened.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// The run has the lock and a name.
    Begun {
        /// Its name.
        run: &'a str,
        /// The sources that it will take, by name.
        sources: &'a [&'a str],
    },
    /// Long work goes on.
    Progress {
        /// The source that it is for.
        source: &'a str,
        /// What is being done.
        doing: &'a str,
        /// Bytes done.
        done: u64,
        /// Bytes to do, where that is known.
        total: Option<u64>,
    },
    /// A source is done with, its push not yet.
    Source(&'a SourceReport),
    /// A push was made, or failed.
    Push {
        /// The source that it is of.
        source: &'a str,
        /// How it went.
        #[serde(flatten)]
        report: &'a PushReport,
    },
    /// The run is over.
    Ended(&'a RunReport),
}

type Listener = dyn Fn(&Event<'_>) + Send + Sync;

/// Where events go. Clones lead to the same listener.
#[derive(Clone)]
pub struct Events(Arc<Listener>);

impl Events {
    /// Events that `listener` hears of.
    pub fn new(listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Events that nobody hears of.
    pub fn unheard() -> Self {
        Self::new(|_| {})
    }

    /// Events as JSON lines on stdout.
    pub fn json() -> Self {
        Self::new(|event| {
            #[derive(Serialize)]
            struct Line<'a> {
                time: Timestamp,
                #[serde(flatten)]
                event: &'a Event<'a>,
            }
            if let Ok(mut line) = serde_json::to_vec(&Line { time: Timestamp::now(), event }) {
                line.push(b'\n');
                // A reader that went away doesn't stop a backup.
                let _ = std::io::stdout().write_all(&line);
            }
        })
    }

    /// Tells of an event.
    pub fn tell(&self, event: &Event<'_>) {
        (self.0)(event);
    }

    /// The progress of the work for `source`, at a pace that a terminal can follow.
    pub fn progress(&self, source: &str) -> Progress {
        let (events, source) = (self.clone(), String::from(source));
        let progress = Progress::new(move |step| {
            events.tell(&Event::Progress { source: &source, doing: step.doing, done: step.done, total: step.total });
        });
        progress.at_pace(PACE)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Events")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{Event, Events};

    #[test]
    fn progress_on_new_work_is_told_at_once_and_on_the_same_at_a_pace() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&heard);
        let events = Events::new(move |event| {
            if let Event::Progress { source, doing, done, .. } = event {
                listener.lock().unwrap().push(format!("{source} {doing} {done}"));
            }
        });
        let progress = events.progress("web");
        (0..1000).for_each(|done| progress.say("dumping", done, None));
        progress.say("archiving", 0, Some(7));
        let heard = heard.lock().unwrap();
        assert!(heard.len() < 100, "{heard:?}");
        assert_eq!((heard.first().unwrap().as_str(), heard.last().unwrap().as_str()), ("web dumping 0", "web archiving 0"));
    }

    #[test]
    fn an_event_is_one_json_object() {
        let event = Event::Progress { source: "web", doing: "dumping wiki", done: 5, total: None };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"progress","source":"web","doing":"dumping wiki","done":5,"total":null}"#
        );
    }
}
