//! `vaultberry flash`: from a parsed command to what is printed.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::say;
use crate::amount::{amount, duration};
use crate::cli::flash::Flash;
use crate::flash::{self, Request};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::run::screen::Screen;
use crate::stop::Stop;
use crate::terminal;

/// How often the terminal is told.
const PACE: Duration = Duration::from_millis(500);

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Flash, verbosity: u8, out: &mut impl Write) -> Result<Outcome> {
    let (image, device) = (command.image.clone(), command.device.clone());
    let fresh_key = command.fresh_key.then(|| command.secrets.clone());
    let request = Request { image, target: device, overwrite: command.overwrite, fresh_key };
    let target = flash::look(&request, command.yes_really.as_deref())?;
    let path = target.path().display();
    if command.yes_really.is_none() {
        let question = format!("All that is on {} will be lost. Type yes to go on", target.name());
        if !terminal::agrees(&question, "yes")? {
            bail!("flashing {path}: nobody has agreed\nhint: type yes, or give --yes-really {path}");
        }
    }
    let stop = Stop::on_signals()?;
    let begun = Instant::now();
    let screen = Screen::new(verbosity);
    let progress = with_rate(screen.progress(&path.to_string()));
    let flashed = flash::flash(&request, &target, &progress, &stop)
        .with_context(|| format!("flashing {path}, which doesn't boot now\nhint: flash it again"))?;
    drop(screen);
    let own =
        flashed.header.map(|header| format!("its root has a key of its own, whose header is kept as {}\n", header.display()));
    let rest = if flashed.overwritten { "zeros are written over the rest" } else { "the rest is discarded" };
    say(
        out,
        &format!(
            "{} is on {}: {} of its {} written and read back in {}; {rest}\n{}",
            request.image.display(),
            target.name(),
            amount(flashed.written),
            amount(flashed.size),
            duration(i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX)),
            own.unwrap_or_default(),
        ),
    )
}

/// The same, with how fast it is, and how long it will take.
fn with_rate(shown: Progress) -> Progress {
    /// What is being done, since when, and when that was shown last.
    type Since = Option<(String, Instant, Instant)>;
    let since: Mutex<Since> = Mutex::new(None);
    Progress::new(move |step| {
        let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *since {
            Some((doing, begun, last)) if doing == step.doing => {
                if last.elapsed() >= PACE {
                    *last = now;
                    shown.say(&rated(step.doing, begun.elapsed(), step.done, step.total), step.done, step.total);
                }
            }
            _ => {
                *since = Some((step.doing.to_owned(), now, now));
                shown.say(step.doing, step.done, step.total);
            }
        }
    })
}

fn rated(doing: &str, taken: Duration, done: u64, total: Option<u64>) -> String {
    let milliseconds = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let left = total.map(|total| total.saturating_sub(done).checked_div(rate).unwrap_or(0));
    let left = left.map(|seconds| format!(", {} left", duration(i64::try_from(seconds).unwrap_or(i64::MAX))));
    format!("{doing} at {}/s{}", amount(rate), left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::rated;

    #[test]
    fn rate_and_time_left_follow_from_what_was_done() {
        let four = Duration::from_secs(4);
        assert_eq!(rated("writing", four, 80 << 20, Some(1 << 30)), "writing at 20.0 MiB/s, 47 s left");
        assert_eq!(rated("writing", four, 80 << 20, None), "writing at 20.0 MiB/s");
        assert_eq!(rated("writing", Duration::ZERO, 0, Some(5)), "writing at 0 bytes/s, 0 s left");
    }
}
