//! What is done with a server, in a process of its own.
//!
//! All that hears from a server runs as a user of its source's own: not only ssh and rsync, but also what reads what they say and
//! writes the dumps. So whoever has root's power starts a helper, `vaultberry apart`, tells it what to do ([`Task`]), and hears
//! from it ([`Word`]): what it logs, how far it is, and last how that ended. It gets the key to log in with, which is root's
//! alone, over the same pipe. It ends when nobody holds that pipe any more.
//!
//! How the helper becomes that user is in [`start`]. What it says is taken for a server's word: printable, bounded, and no more
//! than a word.

mod account;
mod inside;
mod leftovers;
mod listen;
mod start;
mod task;
mod view;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::Source;
use crate::progress::Progress;
use crate::secret::Secret;
use crate::source::trust::{Offered, Server};
use crate::source::{Pulled, Rehearsal, ssh};
use crate::stop::Stop;

use account::Account;
pub use account::NUMBERS;
pub use inside::serve;
use listen::listen;
use start::Helper;
use task::{Task, Word};

/// What the owner says of a pull that is right though it seems wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accept {
    /// As much was deleted as seems too much.
    pub deletions: bool,
    /// Dumps have become as small as seems wrong.
    pub smaller_dumps: bool,
}

/// Brings `mirror`, the folder of `source`, up to date; it belongs to the source's user then.
///
/// # Errors
/// Nothing usable came: no connection, or none of the databases and paths. The mirror is then not to be taken for the state of
/// the server.
pub fn pull(source: &Source, mirror: &Path, accept: Accept, stop: &Stop, progress: &Progress) -> Result<Pulled> {
    let key = ssh::read_key(source)?;
    // Names with links in them may lead through folders that are closed to the account.
    let mirror = &mirror.canonicalize().with_context(|| format!("looking at {}", mirror.display()))?;
    let account = Account::of(mirror)?;
    let task = Task::Pull {
        source: source.clone(),
        accept_deletions: accept.deletions,
        accept_smaller_dumps: accept.smaller_dumps,
        mirror: mirror.to_owned(),
    };
    let end_leftovers = || match account.filter(|account| account.is_ours()) {
        Some(account) => leftovers::end(account.number(), mirror),
        None => Ok(()),
    };
    // Those of a run that was killed.
    end_leftovers()?;
    let helper = start::for_mirror(&source.name, mirror, account)?;
    let word = ask(helper, &task, key, stop, progress);
    end_leftovers()?;
    match word? {
        Word::Pulled { pulled, .. } => Ok(pulled),
        _ => bail!("the helper that pulls {} answers something else", source.name),
    }
}

/// Finds out what [`pull`] would do to `mirror`, which needn't be there.
///
/// # Errors
/// No connection, one that broke, or a stop was asked for.
pub fn rehearse(source: &Source, mirror: &Path, stop: &Stop) -> Result<Rehearsal> {
    let key = ssh::read_key(source)?;
    let mirror = &mirror.canonicalize().unwrap_or_else(|_| mirror.to_owned());
    let account = Account::find(mirror);
    let task = Task::Rehearse { source: source.clone(), mirror: mirror.to_owned() };
    match ask(start::at_hand(&source.name, Some(mirror), account)?, &task, key, stop, &Progress::default())? {
        Word::Rehearsed(rehearsal) => Ok(rehearsal),
        _ => bail!("the helper that rehearses {} answers something else", source.name),
    }
}

/// Logs in at the server of `source`, whose `mirror` needn't be there, and out again.
///
/// # Errors
/// It isn't there, isn't the one that it should be, or doesn't let us in.
pub fn log_in(source: &Source, mirror: &Path, stop: &Stop) -> Result<()> {
    let key = ssh::read_key(source)?;
    let helper = start::at_hand(&source.name, None, Account::find(mirror))?;
    match ask(helper, &Task::LogIn { source: source.clone() }, key, stop, &Progress::default())? {
        Word::LoggedIn => Ok(()),
        _ => bail!("the helper that logs in at {} answers something else", source.name),
    }
}

/// Asks `server` for its host keys.
///
/// # Errors
/// It shows none.
pub fn host_keys(server: &Server, stop: &Stop) -> Result<Offered> {
    let key = server.jump().map(ssh::read_key).transpose()?.unwrap_or_else(|| Secret::new(Vec::new()));
    let helper = start::at_hand("trust", None, Account::nobody())?;
    match ask(helper, &Task::HostKeys { server: server.clone() }, key, stop, &Progress::default())? {
        Word::HostKeys(offered) => Ok(offered),
        _ => bail!("the helper that asks for host keys answers something else"),
    }
}

/// Has a helper do `task`, and gives its last word.
fn ask(mut helper: Helper, task: &Task, key: Secret<Vec<u8>>, stop: &Stop, progress: &Progress) -> Result<Word> {
    // One that has ended says why by its exit status.
    let _ = helper.orders().write_all(&task.header(key.expose())?).and_then(|()| helper.orders().write_all(key.expose()));
    drop(key);
    let heard = listen(&mut helper, task.source(), stop, progress);
    let ended = helper.end();
    match heard? {
        Some(Word::Failed(why)) => bail!("{why}"),
        Some(word) => Ok(word),
        None => {
            stop.check()?;
            bail!("{}", ended?)
        }
    }
}
