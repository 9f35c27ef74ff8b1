//! One dump, from the server's program to its place in the mirror.

use std::fs::{self, Metadata};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::amount::{amount, duration};
use crate::durable::Durable;
use crate::log::printable;
use crate::source::child::{self, Limits};
use crate::source::dump::{Dump, Proof, check, proof, remedy};
use crate::source::ends::Ends;
use crate::source::request::Request;
use crate::source::ssh::Connection;
use crate::source::{Order, Pulled, mirror};
use crate::stop::Stop;

/// How long a program may write nothing. It waits for locks first, and large indexes of the server's own take their time.
const PATIENCE: Duration = Duration::from_mins(30);

/// Dumps smaller than this may shrink as they like, in bytes.
const SMALL: u64 = 64 << 10;

/// How much of either end is kept for the proof, in bytes. Both are a few lines.
const KEPT: usize = 4 << 10;

/// A dump that isn't new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// What it is: `the database wiki`.
    pub dump: String,
    /// When the last good one was made; none when there is none.
    pub made: Option<Timestamp>,
}

/// Makes `dump`, unless there is `noise`, and says whether it is new. If it isn't, the last good one stays, and `pulled` has why.
///
/// # Errors
/// A stop was asked for.
pub(super) async fn make(
    dump: &Dump,
    order: &Order<'_>,
    connection: &Connection<'_>,
    noise: Option<&str>,
    pulled: &mut Pulled,
) -> Result<bool> {
    let place = order.mirror.join(&dump.place);
    let last = fs::symlink_metadata(&place).ok().filter(Metadata::is_file);
    let made = match noise {
        Some(noise) => Err(anyhow!(
            "the account's shell prints \"{noise}\" before it runs anything, and that would stand in the dump\nhint: silence \
             ~/.bashrc and the like for sessions that are no terminal's"
        )),
        None => match mirror::make_folder(order.mirror, dump.place.parent().unwrap_or(&dump.place)) {
            Ok(()) => write(dump, order, connection, last.as_ref().map(Metadata::len)).await,
            Err(error) => Err(error),
        },
    };
    match made {
        Ok(bytes) => {
            tracing::info!(source = order.source.name, "dumped {}: {bytes} bytes", dump.title);
            Ok(true)
        }
        Err(error) => {
            order.stop.check()?;
            let made = last.and_then(|last| last.modified().ok()).and_then(|time| Timestamp::try_from(time).ok());
            pulled.spoil(not_dumped(&dump.title, made, Timestamp::now(), &error));
            pulled.stale.push(Stale { dump: dump.title.clone(), made });
            Ok(false)
        }
    }
}

/// Writes the dump to its place, and gives its size; `last` is that of the last one.
async fn write(dump: &Dump, order: &Order<'_>, connection: &Connection<'_>, last: Option<u64>) -> Result<u64> {
    let Order { source, stop, progress, .. } = *order;
    let limits = Limits { patience: Some(PATIENCE), pace: source.bandwidth, room: Some(order.room) };
    tracing::info!(source = source.name, "{}", dump.doing);
    let commands = std::iter::once(&dump.command).chain(&dump.fallback);
    let mut refused = None;
    for command in commands {
        progress.say(&dump.doing, 0, None);
        let mut file = Durable::create(&order.mirror.join(&dump.place), 0o600)?;
        let mut ends = Ends::new(KEPT, KEPT);
        let mut bytes = 0;
        let mut take = |block: &[u8]| {
            file.file().write_all(block).with_context(|| format!("writing {}", file.part().display()))?;
            ends.take(block);
            bytes += block.len() as u64;
            progress.say(&dump.doing, bytes, None);
            Ok(())
        };
        if let Err(error) = run(dump, command, connection, limits, stop, &mut take).await {
            stop.check()?;
            if dump.fallback.as_ref().is_some_and(|fallback| fallback != command) {
                tracing::info!(source = source.name, "{}: trying with less: {}", dump.doing, one_line(&error));
            }
            refused.get_or_insert(error);
            continue;
        }
        whole(dump, &ends, bytes)?;
        file.file().flush().with_context(|| format!("writing {}", file.part().display()))?;
        check::check(&dump.proof, file.part(), connection.cell(), stop).await?;
        plausible(bytes, last, order)?;
        file.publish()?;
        return Ok(bytes);
    }
    Err(refused.unwrap_or_else(|| anyhow!("there is no command for it")))
}

/// Has the server do what is asked for; that its program ended well is all that `Ok` says.
pub(super) async fn run(
    dump: &Dump,
    request: &Request,
    connection: &Connection<'_>,
    limits: Limits<'_>,
    stop: &Stop,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let source = connection.source();
    let ended = child::run(connection.command(request), limits, stop, take).await?;
    for line in &ended.stderr {
        tracing::info!(source = source.name, "{}: {line}", dump.program);
    }
    if ended.code == Some(0) {
        return Ok(());
    }
    bail!("{}", remedy::failure(&ended, dump.program, &source.user))
}

fn whole(dump: &Dump, ends: &Ends, bytes: u64) -> Result<()> {
    let judged = match &dump.proof {
        Proof::Database => proof::whole(ends, &proof::DATABASE),
        Proof::Cluster => proof::whole(ends, &proof::CLUSTER),
        Proof::MariaDb => proof::mariadb(ends),
        Proof::Ends(end) => proof::ends_with(ends, bytes, end),
        // Whether those are whole is for their own programs to say.
        Proof::Custom | Proof::Sqlite if bytes == 0 => Err("it is empty"),
        Proof::Custom | Proof::Sqlite => Ok(()),
    };
    judged.map_err(|what| anyhow!("{what}"))
}

/// Whether a dump of this size can be what became of the last one.
fn plausible(bytes: u64, last: Option<u64>, order: &Order<'_>) -> Result<()> {
    let (name, percent) = (&order.source.name, order.source.dumps.least_percent);
    match last {
        Some(last) if !order.accept_smaller_dumps && is_implausible(bytes, last, percent) => bail!(
            "it has {}, which is less than {percent} % of the last one's {}\nhint: if that is right, run `vaultberry backup run \
             --accept-smaller-dumps {name}` once",
            amount(bytes),
            amount(last)
        ),
        _ => Ok(()),
    }
}

fn is_implausible(bytes: u64, last: u64, least_percent: u16) -> bool {
    last >= SMALL && u128::from(bytes) * 100 < u128::from(last) * u128::from(least_percent)
}

/// The warning of a dump that isn't new; `made` is when the last good one was.
fn not_dumped(title: &str, made: Option<Timestamp>, now: Timestamp, error: &anyhow::Error) -> String {
    let instead = match made {
        Some(time) => {
            let age = duration(now.as_second() - time.as_second());
            format!("the snapshot has the dump of {time:.0} instead, which is {age} old")
        }
        None => "the snapshot has no dump of it".to_owned(),
    };
    format!("{title} was not dumped, and {instead}: {}", one_line(error))
}

/// An error with its causes and hints on one line.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// A name for people.
pub(super) fn shown(name: &str) -> String {
    printable(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use jiff::Timestamp;

    use super::{is_implausible, not_dumped};

    #[test]
    fn the_warning_says_what_the_snapshot_has_instead_and_how_old_that_is() {
        let now: Timestamp = "2027-01-16T10:00:00Z".parse().unwrap();
        let error = anyhow!("why\nhint: what helps").context("doing");
        assert_eq!(
            not_dumped("the database wiki", Some("2027-01-16T08:00:00Z".parse().unwrap()), now, &error),
            "the database wiki was not dumped, and the snapshot has the dump of 2027-01-16T08:00:00Z instead, which is 2 h 0 min \
             old: doing: why; hint: what helps"
        );
        let none = "the database wiki was not dumped, and the snapshot has no dump of it: why";
        assert_eq!(not_dumped("the database wiki", None, now, &anyhow!("why")), none);
    }

    #[test]
    fn a_dump_may_shrink_to_a_share_of_the_last_and_a_small_one_as_it_likes() {
        for (bytes, last, least, expected) in [
            (50 << 20, 100 << 20, 50, false),
            ((50 << 20) - 1, 100 << 20, 50, true),
            (0, 64 << 10, 1, true),
            (1, (64 << 10) - 1, 100, false),
            (200 << 20, 100 << 20, 100, false),
        ] {
            assert_eq!(is_implausible(bytes, last, least), expected, "{bytes} {last} {least}");
        }
    }
}
