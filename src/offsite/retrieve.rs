//! Restoring straight from the store: fetched, opened, unpacked and checked as it comes, with nothing on the disk but what is
//! restored, and the index in a temporary folder.
//!
//! Three threads hand blocks to each other: one fetches and compares with the commit object, one opens, and this one unpacks.
//! Whether the message was changed on its way shows only at its end, when files are restored already. What protects these is
//! the index, which was opened and checked as a whole before: each file must have the hash that stands there.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use super::commit::{Commit, Object};
use super::content;
use super::fetch::{Wanted, committed};
use super::store::{self, Store};
use super::unseal::Keys;
use crate::config::Offsite;
use crate::pipe::{Inlet, Outlet, pipe};
use crate::progress::Progress;
use crate::snapshot::INDEX_END;
use crate::snapshot::index::read;
use crate::snapshot::restore::{self, Restored, Stream};
use crate::stop::Stop;

/// What to restore, and where to.
#[derive(Debug)]
pub struct Request<'a> {
    /// The store.
    pub offsite: &'a Offsite,
    /// The file with its access key.
    pub credentials: &'a Path,
    /// Which snapshot.
    pub wanted: &'a Wanted,
    /// The private key.
    pub key: &'a Path,
    /// Paths on the server; all where there are none.
    pub paths: &'a [PathBuf],
    /// The folder, which must be empty.
    pub to: &'a Path,
}

/// Restores a copy.
///
/// # Errors
/// There is no such copy, or it isn't what it should be: then what was restored until the error is there, and isn't to be
/// trusted but for what the error says.
pub fn restore(request: &Request<'_>, stop: &Stop, progress: &Progress) -> Result<Restored> {
    let Request { offsite, wanted, .. } = request;
    let keys = Keys::read_asking(request.key)?;
    let doing = || format!("restoring {wanted} from {}", store::place(offsite));
    let store = Store::connect(offsite, request.credentials, stop)?;
    let commit = super::runtime()?.block_on(committed(&store, wanted)).with_context(doing)?;
    let (_folder, index) = index(&store, &keys, &commit, stop).with_context(doing)?;
    let trailer = read::trailer(&index).with_context(doing)?;
    let name = PathBuf::from(format!("s3://{}/{}", offsite.bucket, commit.archive.key));
    opened(&store, &keys, &commit.archive, stop, |content| {
        let stream = Stream { name: &name, content, size: trailer.archive.size, index: &index };
        restore::restore_stream(stream, request.paths, request.to, progress, stop)
    })
    .with_context(doing)
}

/// Brings the opened index into a folder that goes when it is dropped, and gives where it is there.
///
/// # Errors
/// It isn't what it should be.
pub fn index(store: &Store, keys: &Keys, commit: &Commit, stop: &Stop) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir().context("making a folder for the index")?;
    let index = folder.path().join(format!("{}{INDEX_END}", commit.snapshot));
    opened(store, keys, &commit.index, stop, |content| {
        let mut file = File::create_new(&index).context("writing the index")?;
        std::io::copy(content, &mut file).context("opening the index")?;
        Ok(())
    })?;
    commit.ensure_named(&index)?;
    Ok((folder, index))
}

/// Gives the opened content of `object` to `take`, which must read all of it.
///
/// # Errors
/// It isn't what it should be, or `take` failed.
pub fn opened<T>(
    store: &Store,
    keys: &Keys,
    object: &Object,
    stop: &Stop,
    take: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let (sealed_in, sealed_out) = pipe();
    let (open_in, mut open_out) = pipe();
    thread::scope(|scope| {
        let fetched = scope.spawn(move || fetch(store, object, sealed_in));
        let unsealed = scope.spawn(move || unseal(keys, sealed_out, object.size, open_in, stop));
        let taken = take(&mut open_out);
        // Those who still write learn that nobody reads.
        drop(open_out);
        let ended = |what: &str| anyhow!("the thread that {what} has ended");
        let unsealed = unsealed.join().map_err(|_| ended("opens"))?;
        let fetched = fetched.join().map_err(|_| ended("fetches"))?;
        // What went wrong first is what to tell: who comes behind only sees a stream that breaks off, and who comes before that
        // nobody wants the rest.
        match [fetched, unsealed].into_iter().find_map(|ended| ended.err().filter(|error| !is_unread(error))) {
            Some(error) => Err(error),
            None => taken,
        }
    })
}

/// Whether an error is only that nobody wanted the rest.
fn is_unread(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe))
}

fn fetch(store: &Store, object: &Object, mut out: Inlet) -> Result<()> {
    super::runtime()?.block_on(content::read(store, object, &mut |bytes, _| Ok(out.write_all(bytes)?)))?;
    Ok(out.end()?)
}

fn unseal(keys: &Keys, sealed: Outlet, size: u64, mut out: Inlet, stop: &Stop) -> Result<()> {
    keys.open(sealed, size, &mut out, stop)?;
    Ok(out.end()?)
}
