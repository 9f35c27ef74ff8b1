//! Whether copies are still what was proven: each object read from the store as a whole, and compared.
//!
//! That needs no private key, so the appliance can do it. With the key the objects are opened too, and the archive is compared
//! with what its index says.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::commit::Commit;
use super::content;
use super::fetch::{Absent, Wanted, committed};
use super::list::found;
use super::retrieve;
use super::store::{self, Store};
use super::trouble;
use super::unseal::Keys;
use crate::config::Offsite;
use crate::digest::{Summing, hex};
use crate::progress::Progress;
use crate::snapshot::index::read;
use crate::stop::Stop;

/// A copy, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The source's name.
    pub source: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// Bytes that were read.
    pub bytes: u64,
    /// Why it isn't what was proven; none when it is.
    pub problem: Option<String>,
}

/// What to verify.
#[derive(Debug)]
pub struct Request<'a> {
    /// The store.
    pub offsite: &'a Offsite,
    /// The file with its access key.
    pub credentials: &'a Path,
    /// Which copies; all that have a commit object, where there are none.
    pub wanted: &'a [Wanted],
    /// Copies that were proven to be there, as the appliance knows: those that aren't are told of.
    pub expected: &'a [Wanted],
    /// Of how many of them, drawn at random.
    pub sample: Option<usize>,
    /// The private key to open them with.
    pub key: Option<&'a Path>,
}

/// Verifies copies, and gives each to `told` as it is done.
///
/// # Errors
/// The store doesn't give an answer, a copy that was named isn't there, or a stop was asked for.
pub fn verify(
    request: &Request<'_>,
    stop: &Stop,
    progress: &Progress,
    told: &mut dyn FnMut(&Verified) -> Result<()>,
) -> Result<()> {
    let keys = request.key.map(Keys::read_asking).transpose()?;
    let doing = || format!("verifying {}", store::place(request.offsite));
    let store = Store::connect(request.offsite, request.credentials, stop)?;
    let runtime = super::runtime()?;
    let mut wanted = request.wanted.to_vec();
    if wanted.is_empty() {
        let found = runtime.block_on(found(&store, None)).with_context(doing)?;
        wanted.extend(found.into_iter().filter(|(_, objects)| objects.commit).map(|((source, name), _)| Wanted { source, name }));
        for Wanted { source, name } in request.expected.iter().filter(|expected| !wanted.contains(expected)) {
            let problem = Some(String::from("it was proven to be here, and isn't any more"));
            told(&Verified { source: source.clone(), snapshot: name.clone(), bytes: 0, problem })?;
        }
    }
    if let Some(sample) = request.sample {
        draw(&mut wanted, sample)?;
    }
    for wanted in wanted {
        stop.check()?;
        let commit = runtime.block_on(committed(&store, &wanted));
        let name = commit.as_ref().map_or_else(|_| wanted.name.clone(), |commit| commit.snapshot.clone());
        let verified = commit.and_then(|commit| match &keys {
            None => runtime.block_on(bytes(&store, &commit, progress)),
            Some(keys) => opened(&store, keys, &commit, stop, progress),
        });
        stop.check()?;
        let (bytes, problem) = match verified {
            Ok(bytes) => (bytes, None),
            Err(error) if trouble::is_of_the_way(&error) || error.is::<Absent>() => {
                return Err(error).with_context(|| format!("{}: {}/{name}", doing(), wanted.source));
            }
            Err(error) => (0, Some(format!("{error:#}"))),
        };
        told(&Verified { source: wanted.source, snapshot: name, bytes, problem })?;
    }
    Ok(())
}

/// Keeps `count` of `all`, drawn at random, in their order.
fn draw<T>(all: &mut Vec<T>, count: usize) -> Result<()> {
    while all.len() > count {
        let mut random = [0; 8];
        openssl::rand::rand_bytes(&mut random).context("drawing a sample")?;
        let which = u64::from_ne_bytes(random) % all.len() as u64;
        all.remove(usize::try_from(which).unwrap_or(0));
    }
    Ok(())
}

/// Reads both objects, and gives how many bytes they have.
async fn bytes(store: &Store, commit: &Commit, progress: &Progress) -> Result<u64> {
    let mut all = 0;
    for object in [&commit.index, &commit.archive] {
        content::read(store, object, &mut |bytes, _| {
            all += bytes.len() as u64;
            progress.say("verifying", all, Some(commit.index.size + commit.archive.size));
            Ok(())
        })
        .await?;
    }
    Ok(all)
}

/// The same with both opened, and the archive compared with the index.
fn opened(store: &Store, keys: &Keys, commit: &Commit, stop: &Stop, progress: &Progress) -> Result<u64> {
    let (_folder, index) = retrieve::index(store, keys, commit, stop)?;
    let expected = read::trailer(&index)?.archive;
    retrieve::opened(store, keys, &commit.archive, stop, |content| {
        let mut sum = Summing::new(io::sink());
        let mut block = vec![0; 1 << 18];
        loop {
            let length = content.read(&mut block)?;
            if length == 0 {
                break;
            }
            io::Write::write_all(&mut sum, &block[..length])?;
            progress.say("verifying", sum.size(), Some(expected.size));
        }
        let sum = sum.finish()?;
        ensure!(
            sum == expected,
            "the archive isn't the one that its index speaks of: its SHA-256 is {} and not {}",
            hex(&sum.sha256),
            hex(&expected.sha256)
        );
        Ok(())
    })?;
    Ok(commit.index.size + commit.archive.size)
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn a_sample_has_no_more_than_was_asked_for_and_not_always_the_same() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut all: Vec<u32> = (0..10).collect();
            draw(&mut all, 3).unwrap();
            assert!(all.len() == 3 && all.is_sorted());
            seen.extend(all);
        }
        assert_eq!(seen.len(), 10);
        let mut few = vec![1, 2];
        draw(&mut few, 3).unwrap();
        assert_eq!(few, [1, 2]);
    }
}
