//! The store, tried with an object of its own: what the appliance can do there, an intruder on it can, too.

use anyhow::Result;
use jiff::{SignedDuration, Unit};
use uuid::Uuid;

use super::Check;
use crate::config::Offsite;
use crate::offsite::probe::{Probe, Tried};
use crate::stop::Stop;

const ABOUT: &str = "store";
const POLICY: &str = "`vaultberry offsite policy` prints what the access key should be allowed";

/// By how much clocks may differ: stores refuse requests at 15 minutes.
const APART: SignedDuration = SignedDuration::from_secs(60);

/// Writes a probe and tries to destroy it, in each way that there is. What can't be tried is told, and the others are.
///
/// # Errors
/// A stop was asked for.
pub fn examine(offsite: &Offsite, stop: &Stop) -> Result<Vec<Check>> {
    let checks = match Probe::begin(offsite, &Uuid::new_v4().simple().to_string(), stop) {
        Ok(probe) => try_all(&probe),
        Err(error) => vec![Check::failed(ABOUT, &error)],
    };
    stop.check()?;
    Ok(checks)
}

fn try_all(probe: &Probe) -> Vec<Check> {
    let mut checks = vec![Check::ok(ABOUT, format!("it can be listed, written and read, as a push does: {}", probe.key()))];
    checks.extend(probe.ahead().map(clock));
    checks.push(check(probe.is_kept_from_new(), condition));
    let versions = probe.version().is_some();
    checks.push(check(probe.overwrite(), |tried| overwriting(tried, versions)));
    checks.push(check(probe.delete(None), |tried| deleting(tried, versions)));
    checks.extend(probe.version().map(|version| check(probe.delete(Some(version)), deleting_a_version)));
    checks.push(lock(probe));
    checks
}

/// What `found` comes to, or that it couldn't be tried.
fn check<T>(found: Result<T>, told: impl FnOnce(T) -> Check) -> Check {
    found.map_or_else(|error| Check::failed(ABOUT, &error), told)
}

fn condition(known: bool) -> Check {
    if known {
        return Check::ok(ABOUT, "it writes only where nothing is, when it is asked to (If-None-Match)");
    }
    let hint = "two appliances with one prefix would write over each other's copies";
    Check::warning(ABOUT, "it doesn't know If-None-Match", hint)
}

fn overwriting(tried: Tried, versions: bool) -> Check {
    match tried {
        Tried::Refused => Check::ok(ABOUT, "the access key can't write over an object"),
        Tried::Done if versions => {
            Check::warning(ABOUT, "the access key can write over an object; the old version stays", POLICY)
        }
        Tried::Done => Check::warning(ABOUT, "the access key can write over an object, and no version of it stays", POLICY),
    }
}

fn deleting(tried: Tried, versions: bool) -> Check {
    match tried {
        Tried::Refused => Check::ok(ABOUT, "the access key can't delete an object"),
        Tried::Done if versions => Check::warning(ABOUT, "the access key can delete an object; its versions stay", POLICY),
        Tried::Done => Check::warning(ABOUT, "the access key can delete an object, and nothing of it stays", POLICY),
    }
}

fn deleting_a_version(tried: Tried) -> Check {
    match tried {
        Tried::Refused => Check::ok(ABOUT, "the access key can't delete a version of an object"),
        Tried::Done => {
            Check::warning(ABOUT, "the access key can delete every version of an object: copies can be destroyed", POLICY)
        }
    }
}

fn lock(probe: &Probe) -> Check {
    match probe.locked_until() {
        Some(until) => Check::ok(ABOUT, format!("what comes is locked, this until {until:.0}")),
        None => Check::warning(
            ABOUT,
            "what comes isn't locked, so that whoever may delete it can",
            "give the bucket a default retention, if the store can (Object Lock)",
        ),
    }
}

fn clock(ahead: SignedDuration) -> Check {
    if ahead.abs() <= APART {
        return Check::ok("clock", "it agrees with the store's");
    }
    let apart = ahead.abs().round(Unit::Minute).unwrap_or(ahead.abs());
    let side = if ahead.is_positive() { "behind" } else { "ahead of" };
    Check::warning(
        "clock",
        &format!("this machine's is about {apart:#} {side} the store's"),
        "`timedatectl` tells whether it follows a time server: snapshots are named by it, and at 15 minutes stores refuse",
    )
}
