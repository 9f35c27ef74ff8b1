//! One push, from a snapshot on the disk to a proven copy in the store.

use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use super::Candidate;
use super::clock::Clock;
use super::commit::{Commit, Keys, Object};
use super::outbox::{Outbox, Sealed};
use super::proof::Marks;
use super::store::{self, Store};
use super::upload::upload;
use crate::config::{Config, Offsite};
use crate::openpgp::Recipients;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::list::time_of;
use crate::stop::Stop;

/// A copy that is proven to be off-site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Where it is: `s3://my-backups/vaultberry at https://s3.example.org`.
    pub place: String,
    /// Bytes of the sealed archive and index.
    pub bytes: u64,
}

/// Seals `snapshot`, brings it to the store, proves that it is there, and sets the push clock.
///
/// # Errors
/// There is no proven copy, or the clock couldn't be set. What was sealed is removed; what was sent stays without a commit
/// object and doesn't count.
pub fn push(config: &Config, snapshot: &Candidate<'_>, stop: &Stop, progress: &Progress) -> Result<Pushed> {
    let offsite = config.offsite.as_ref().context("there is no [offsite] in the configuration, so nothing can be pushed")?;
    push_to(config, offsite, snapshot, stop, progress)
        .with_context(|| format!("pushing {}/{} to {}", snapshot.source, snapshot.name, store::place(offsite)))
}

fn push_to(config: &Config, offsite: &Offsite, snapshot: &Candidate<'_>, stop: &Stop, progress: &Progress) -> Result<Pushed> {
    if !matches!(snapshot.outcome, Outcome::Complete | Outcome::Partial) || time_of(snapshot.name).is_none() {
        bail!("this isn't a snapshot that counts");
    }
    let recipients = Recipients::at(&config.recipients, SystemTime::now());
    recipients.require_all()?;
    let outbox = Outbox::open(&config.backup.folder, snapshot.source)?;
    let store = Store::connect(offsite, &offsite.credentials, stop)?;
    let runtime = super::runtime()?;
    let keys = store.keys(snapshot.source, snapshot.name);
    // Asked first: a store that isn't there is found before hours of sealing.
    let before = runtime.block_on(committed(&store, snapshot, &keys))?;
    let commit = if let Some(commit) = before {
        commit
    } else {
        outbox.require_space(&[snapshot.archive, snapshot.index])?;
        let archive = outbox.seal(snapshot.archive, &recipients, stop, progress)?;
        let index = outbox.seal(snapshot.index, &recipients, stop, progress)?;
        let owners = config.recipients.iter().map(|recipient| recipient.fingerprint.clone()).collect();
        let objects = (Object::new(&keys.archive, &archive.sum), Object::new(&keys.index, &index.sum));
        let commit = Commit::new(snapshot, objects.0, objects.1, owners);
        runtime.block_on(bring(&store, &keys, &archive, &index, &commit, progress))?;
        commit
    };
    Clock::load(&config.backup.state).record(snapshot, &store::target(offsite), Timestamp::now())?;
    Ok(Pushed { place: store::place(offsite), bytes: commit.archive.size + commit.index.size })
}

/// The commit of an earlier push of the same snapshot, when its objects are still there.
async fn committed(store: &Store, snapshot: &Candidate<'_>, keys: &Keys) -> Result<Option<Commit>> {
    let Some(json) = store.read(&keys.commit).await? else { return Ok(None) };
    let commit = Commit::parse(&json, snapshot.source, snapshot.name, keys)?;
    for object in [&commit.archive, &commit.index] {
        let size = store.head(&object.key).await?.map(|said| said.size);
        if size != Some(object.size) {
            bail!(
                "the store has a commit object of this snapshot, and {} isn't what it says\n\
                 hint: look who changed the bucket; to push this snapshot again, remove {} there",
                object.key,
                keys.commit
            );
        }
    }
    Ok(Some(commit))
}

/// Uploads both objects, proves them, and only then commits. The small one goes first: a store that gives nothing to prove
/// it by isn't sent the large one, night after night.
async fn bring(store: &Store, keys: &Keys, archive: &Sealed, index: &Sealed, commit: &Commit, progress: &Progress) -> Result<()> {
    for (key, sealed) in [(&keys.index, index), (&keys.archive, archive)] {
        let marks = upload(store, key, sealed, progress).await?;
        prove(store, key, &marks).await?;
    }
    let json = commit.to_json()?;
    store.put_new(&keys.commit, &json).await?;
    match store.read(&keys.commit).await? {
        Some(back) if back == json => Ok(()),
        Some(_) => {
            bail!("the store gives back another commit object than was written\nhint: does another appliance write there?")
        }
        None => bail!("the store doesn't give back the commit object that was written"),
    }
}

async fn prove(store: &Store, key: &str, marks: &Marks) -> Result<()> {
    let proving = || format!("proving that {key} has arrived");
    let said = store.head(key).await?.with_context(|| format!("{}: the store doesn't have it", proving()))?;
    marks.prove(&said).with_context(proving)
}
