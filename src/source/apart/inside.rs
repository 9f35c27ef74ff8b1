//! The inside of a helper.

use std::fmt::{Debug, Write as _};
use std::fs::{self, File};
use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{close, setsid};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context as In, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::task::{Task, Word};
use super::view::{self, View};
use crate::progress::Progress;
use crate::source::room::Room;
use crate::source::{self, Order, rehearsal, trust};
use crate::stop::Stop;

/// How often progress on the same thing is told.
const PACE: Duration = Duration::from_millis(100);

/// How long a helper of a run that was killed may still be at work in the mirror.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what stdin says, tells of it on stdout, and ends when stdin does. As the user of `view`, where there is one.
pub fn serve(account: Option<u32>, mirror: Option<&Path>) -> ExitCode {
    let relayed = Relay.with_filter(Targets::new().with_default(Level::WARN).with_target("vaultberry", Level::DEBUG));
    let _ = tracing_subscriber::registry().with(relayed).try_init();
    let view = account.map(|account| View { account, mirror: mirror.map(Path::to_owned) });
    let word = work(view.as_ref()).unwrap_or_else(|error| Word::Failed(format!("{error:#}")));
    say(&word);
    ExitCode::SUCCESS
}

fn say(word: &Word) {
    word.say(&mut io::stdout().lock());
}

fn work(view: Option<&View>) -> Result<Word> {
    leave().context("leaving what belongs to whoever started this")?;
    view.map_or(Ok(()), view::enter).context("becoming the user of the source")?;
    set_no_new_privs().context("forbidding new privileges")?;
    // Not through the standard library's buffer, which would keep the key.
    let mut orders = File::from(io::stdin().as_fd().try_clone_to_owned().context("taking over stdin")?);
    let (task, key) = Task::read(&mut orders).context("reading what to do")?;
    let stop = Stop::on_signals()?;
    let asked = stop.clone();
    thread::spawn(move || {
        let _ = io::copy(&mut orders, &mut io::sink());
        asked.request();
    });
    match task {
        Task::Pull { source, mirror, accept_deletions, accept_smaller_dumps } => {
            let _held = hold(&mirror, &stop)?;
            let room = Room::new(&source.name, &mirror, source.quota)?;
            let (room, stop, progress) = (&room, &stop, &progress());
            let order = Order { source: &source, mirror: &mirror, room, accept_deletions, accept_smaller_dumps, stop, progress };
            let pulled = source::pull(&order, &key)?;
            Ok(Word::Pulled { causes: pulled.warnings.causes(), pulled })
        }
        Task::Rehearse { source, mirror } => rehearsal::rehearse(&source, &key, &mirror, &stop).map(Word::Rehearsed),
        Task::LogIn { source } => rehearsal::log_in(&source, &key, &stop).map(|()| Word::LoggedIn),
        Task::HostKeys { server } => trust::ask(&server, &key, &stop).map(Word::HostKeys),
    }
}

/// Gives up what was inherited: the terminal, on which keys could be read and pressed, and open files.
fn leave() -> Result<()> {
    // It is a leader already where systemd started it.
    let _ = setsid();
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .context("listing what is open")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // That of the listing is closed by now.
        let _ = close(descriptor);
    }
    Ok(())
}

/// Has the mirror alone. It is had by another for as long as that takes to end after its run was killed.
fn hold(mirror: &Path, stop: &Stop) -> Result<Flock<File>> {
    let opening = || format!("opening {}", mirror.display());
    let begun = Instant::now();
    loop {
        stop.check()?;
        match Flock::lock(File::open(mirror).with_context(opening)?, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err(_) if begun.elapsed() < PATIENCE => thread::sleep(PACE),
            Err((_, error)) => {
                bail!("locking {}: another pull is at work there: {error}\nhint: look at `ps -ef`", mirror.display())
            }
        }
    }
}

/// Tells how far it is, at a pace that doesn't matter.
fn progress() -> Progress {
    let told = Progress::new(|step| say(&Word::Doing { doing: step.doing.to_owned(), done: step.done, total: step.total }));
    told.at_pace(PACE)
}

/// Says what is logged.
struct Relay;

impl<S: Subscriber> Layer<S> for Relay {
    fn on_event(&self, event: &Event<'_>, _: In<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        say(&Word::Log { level: event.metadata().level().to_string(), message: message.0 });
    }
}

/// The message of an event. Whoever hears it knows of which source it is.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
