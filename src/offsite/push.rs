//! One push, from a snapshot on the disk to a proven copy in the store; and going on with one that was cut short.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use super::Candidate;
use super::clock::Clock;
use super::commit::{Commit, Keys, Object, SEALED_END};
use super::lock;
use super::multipart;
use super::outbox::{self, Outbox};
use super::pending::{Part, Pending};
use super::seal::{self, Sealed};
use super::store::{self, Store};
use super::upload::{LOOK_WHO, Taken, upload};
use crate::config::{Config, Offsite};
use crate::openpgp::Recipients;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::list::time_of;
use crate::stop::Stop;

/// A copy that is proven to be off-site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The snapshot's name.
    pub snapshot: String,
    /// Where it is: `s3://my-backups/vaultberry at https://s3.example.org`.
    pub place: String,
    /// Bytes of the sealed archive and index.
    pub bytes: u64,
    /// How it isn't as the configuration wants it though it is there, told for a person.
    pub problem: Option<String>,
}

/// What a push works with.
struct Way<'a> {
    config: &'a Config,
    offsite: &'a Offsite,
    source: &'a str,
    outbox: Outbox,
    stop: &'a Stop,
    progress: &'a Progress,
}

/// Seals `snapshot`, brings it to the store, proves that it is there, and sets the push clock; after what [`resume`] does.
///
/// # Errors
/// There is no proven copy, or the clock couldn't be set. What was sealed and sent stays for [`resume`], and doesn't count.
pub fn push(config: &Config, snapshot: &Candidate<'_>, stop: &Stop, progress: &Progress) -> Result<Pushed> {
    if let Some(pushed) = resume(config, snapshot.source, stop, progress)?
        && pushed.snapshot == snapshot.name
    {
        return Ok(pushed);
    }
    let way = Way::new(config, snapshot.source, stop, progress)?;
    way.push(snapshot).with_context(|| way.doing(snapshot.name))
}

/// Goes on with a push of `source` that was cut short; none when there is nothing to go on with.
///
/// One that can't become what the configuration wants today, since it was sealed for others, or goes elsewhere, or whose
/// sealed files are damaged, is given up, and what it has begun in the store is thrown away.
///
/// # Errors
/// As for [`push`].
pub fn resume(config: &Config, source: &str, stop: &Stop, progress: &Progress) -> Result<Option<Pushed>> {
    if config.offsite.is_none() {
        return Ok(None);
    }
    let way = Way::new(config, source, stop, progress)?;
    let Some(pending) = way.pending()? else { return Ok(None) };
    let name = pending.commit.snapshot.clone();
    way.resume(pending).with_context(|| way.doing(&name))
}

/// Gives up what is pending of sources that are no longer in the configuration. Gives the sources.
///
/// # Errors
/// The store or the disk doesn't let it.
pub fn give_up_others(config: &Config, keep: &[&str], stop: &Stop) -> Result<Vec<String>> {
    let mut given_up = Vec::new();
    for source in outbox::sources(&config.backup.folder)?.into_iter().filter(|source| !keep.contains(&source.as_str())) {
        let progress = Progress::default();
        let way = Way::new(config, &source, stop, &progress)?;
        if let Some(pending) = way.pending()? {
            way.give_up(pending, "its source is no longer in the configuration")?;
            given_up.push(source);
        }
    }
    Ok(given_up)
}

impl<'a> Way<'a> {
    fn new(config: &'a Config, source: &'a str, stop: &'a Stop, progress: &'a Progress) -> Result<Self> {
        let offsite = config.offsite.as_ref().context("there is no [offsite] in the configuration, so nothing can be pushed")?;
        Ok(Self { config, offsite, source, outbox: Outbox::of(&config.backup.folder, source), stop, progress })
    }

    /// What is pending; a record that can't be read goes, with what was sealed.
    fn pending(&self) -> Result<Option<Pending>> {
        match self.outbox.pending() {
            Err(error) => {
                tracing::warn!(source = self.source, "{error:#}: the push begins anew");
                self.outbox.clear().map(|()| None)
            }
            pending => pending,
        }
    }

    fn doing(&self, name: &str) -> String {
        format!("pushing {}/{name} to {}", self.source, store::place(self.offsite))
    }

    fn store(&self) -> Result<Store> {
        Store::connect(self.offsite, &self.offsite.credentials, self.stop)
    }

    fn recipients(&self) -> Result<Recipients> {
        let recipients = Recipients::at(&self.config.recipients, SystemTime::now());
        recipients.require_all()?;
        Ok(recipients)
    }

    fn push(&self, snapshot: &Candidate<'_>) -> Result<Pushed> {
        if !matches!(snapshot.outcome, Outcome::Complete | Outcome::Partial) || time_of(snapshot.name).is_none() {
            bail!("this isn't a snapshot that counts");
        }
        let (recipients, store, runtime) = (self.recipients()?, self.store()?, super::runtime()?);
        let keys = store.keys(snapshot.source, snapshot.name);
        // Asked first: a store that isn't there is found before hours of sealing.
        if let Some(commit) = runtime.block_on(committed(&store, snapshot.source, snapshot.name, &keys))? {
            self.require_same(&commit, snapshot, &keys)?;
            let problem = runtime.block_on(lock::missing(&store, &commit, &keys.commit, Timestamp::now()))?;
            return self.proven(&commit, problem);
        }
        let mut pending = self.seal(snapshot, &recipients, &keys)?;
        runtime.block_on(self.bring(&store, &mut pending))
    }

    /// Makes sure that a copy that is there already is what this push would make today.
    fn require_same(&self, commit: &Commit, snapshot: &Candidate<'_>, keys: &Keys) -> Result<()> {
        let how = if !commit.is_for(&self.config.recipients) {
            String::from("sealed for others than [openpgp] recipients names now")
        } else if commit.outcome != snapshot.outcome {
            format!("{} where the snapshot is {}", commit.outcome, snapshot.outcome)
        } else {
            return Ok(());
        };
        bail!("{} is in the store, and says that the copy is {how}\nhint: {LOOK_WHO}", keys.commit)
    }

    fn resume(&self, mut pending: Pending) -> Result<Option<Pushed>> {
        if let Some(why) = self.obsolete(&pending)? {
            self.give_up(pending, &why)?;
            return Ok(None);
        }
        self.recipients()?;
        let (store, runtime) = (self.store()?, super::runtime()?);
        tracing::info!(source = self.source, "going on with the push of {}", pending.commit.snapshot);
        runtime.block_on(self.bring(&store, &mut pending)).map(Some)
    }

    /// Why a pending push can't be gone on with.
    fn obsolete(&self, pending: &Pending) -> Result<Option<String>> {
        let why = |text: &str| Ok(Some(text.to_owned()));
        if pending.abandoned {
            return why("it was given up before");
        }
        if pending.target != store::target(self.offsite) {
            return why("it was for another store");
        }
        if !pending.commit.is_for(&self.config.recipients) {
            return why("it was sealed for others than [openpgp] recipients names now");
        }
        for part in [Part::Index, Part::Archive] {
            let whole = match pending.sealed(part, self.outbox.folder()) {
                Ok(sealed) => sealed.is_whole(self.stop)?,
                Err(_) => false,
            };
            if !whole {
                return why("what was sealed is no longer whole on the backup disk");
            }
        }
        Ok(None)
    }

    /// Removes the sealed files, and throws away what is begun in the store.
    fn give_up(&self, mut pending: Pending, why: &str) -> Result<()> {
        let name = &pending.commit.snapshot;
        tracing::warn!(source = self.source, "the push of {name} that was cut short is given up: {why}");
        self.outbox.empty()?;
        if pending.target == store::target(self.offsite) {
            let begun = [Part::Archive, Part::Index].into_iter().filter(|part| pending.upload(*part).parts.is_some());
            let begun: Vec<Part> = begun.collect();
            if !begun.is_empty() {
                // Written down first, so that a store that is down is asked again.
                pending.abandoned = true;
                self.outbox.save(&pending)?;
                let (store, runtime) = (self.store()?, super::runtime()?);
                for part in begun {
                    let abort = multipart::abort_all(&store, &pending.object(part).key, pending.upload(part).parts.as_ref());
                    runtime.block_on(abort)?;
                }
            }
        } else if pending.archive.parts.is_some() || pending.index.parts.is_some() {
            tracing::warn!(
                source = self.source,
                "parts of it may be left in {}, which is no longer configured: a lifecycle rule there removes them",
                pending.target
            );
        }
        self.outbox.clear()
    }

    fn seal(&self, snapshot: &Candidate<'_>, recipients: &Recipients, keys: &Keys) -> Result<Pending> {
        self.outbox.make()?;
        self.outbox.require_space(&[snapshot.archive, snapshot.index])?;
        let seal = |file: &Path| -> Result<Sealed> {
            let mut name = file.file_name().context("a snapshot's file has a name")?.to_owned();
            name.push(SEALED_END);
            seal::seal(file, &self.outbox.folder().join(name), recipients, self.stop, self.progress)
        };
        let sealed = seal(snapshot.archive).and_then(|archive| Ok((archive, seal(snapshot.index)?)));
        let (archive, index) = sealed.inspect_err(|_| {
            // The first error is the one to tell; what this leaves goes at the beginning of the next run.
            let _ = self.outbox.empty();
        })?;
        let owners = self.config.recipients.iter().map(|recipient| recipient.fingerprint.clone()).collect();
        let objects = (Object::new(&keys.archive, &archive.sum), Object::new(&keys.index, &index.sum));
        let commit = Commit::new(snapshot.source, snapshot.name, snapshot.outcome, objects.0, objects.1, owners);
        let pending = Pending::new(store::target(self.offsite), commit, &archive, &index);
        self.outbox.save(&pending)?;
        Ok(pending)
    }

    /// Brings both objects to the store, proves them, and only then commits. The small one goes first: a store that gives
    /// nothing to prove it by isn't sent the large one, night after night.
    async fn bring(&self, store: &Store, pending: &mut Pending) -> Result<Pushed> {
        let brought = self.bring_and_commit(store, pending).await;
        if brought.as_ref().is_err_and(|error| error.downcast_ref::<Taken>().is_some()) {
            // It would never get through: the next run begins with another snapshot.
            pending.abandoned = true;
            self.outbox.save(pending)?;
        }
        let key = brought?;
        let problem = lock::missing(store, &pending.commit, &key, Timestamp::now()).await?;
        self.proven(&pending.commit, problem)
    }

    /// Gives the commit object's key.
    async fn bring_and_commit(&self, store: &Store, pending: &mut Pending) -> Result<String> {
        for part in [Part::Index, Part::Archive] {
            upload(store, &self.outbox, pending, part, self.progress).await?;
        }
        let commit = &pending.commit;
        let key = store.keys(&commit.source, &commit.snapshot).commit;
        let json = commit.to_json()?;
        store.put_new(&key, &json).await?;
        match store.read(&key).await? {
            Some(back) if back == json => Ok(key),
            Some(_) => {
                let why = String::from("the store gives back another commit object than was written");
                Err(Taken { key, why, hint: LOOK_WHO }.into())
            }
            None => bail!("the store doesn't give back the commit object that was written"),
        }
    }

    /// Sets the push clock, and lets go of what was sealed.
    fn proven(&self, commit: &Commit, problem: Option<String>) -> Result<Pushed> {
        let Commit { source, snapshot, outcome, archive, index, .. } = commit;
        let target = store::target(self.offsite);
        Clock::load(&self.config.backup.state).record(source, snapshot, *outcome, &target, Timestamp::now())?;
        if self.outbox.folder().exists() {
            self.outbox.clear()?;
        }
        let bytes = archive.size + index.size;
        Ok(Pushed { snapshot: snapshot.clone(), place: store::place(self.offsite), bytes, problem })
    }
}

/// The commit of an earlier push of the same snapshot, when its objects are still there.
async fn committed(store: &Store, source: &str, name: &str, keys: &Keys) -> Result<Option<Commit>> {
    let Some(json) = store.read(&keys.commit).await? else { return Ok(None) };
    let commit = Commit::parse(&json, source, name, keys)?;
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
