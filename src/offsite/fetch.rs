//! Getting a copy back, on any machine.
//!
//! Both objects come as files beside each other, under temporary names until they are what the commit object says. With the
//! private key they are opened too, and the opened archive must be what the opened index says. A file gets its name only
//! then, and none that is there is ever replaced.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use jiff::Timestamp;

use super::commit::{Commit, Object, SEALED_END};
use super::content;
use super::list::{Objects, found};
use super::store::{self, Store};
use super::unseal::Keys;
use crate::config::Offsite;
use crate::digest::hex;
use crate::digest::{Sum, Summing};
use crate::durable::{self, Durable};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::index::read;
use crate::snapshot::list::time_of;
use crate::snapshot::{ARCHIVE_END, INDEX_END};
use crate::stop::Stop;

/// What to fetch, and where to.
#[derive(Debug)]
pub struct Request<'a> {
    /// The store.
    pub offsite: &'a Offsite,
    /// The file with its access key.
    pub credentials: &'a Path,
    /// `SOURCE/NAME`, or `SOURCE/latest`: the newest complete one.
    pub snapshot: &'a str,
    /// The folder to put it in; made when it isn't there.
    pub to: &'a Path,
    /// The private key to open it with.
    pub key: Option<&'a Path>,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The archive, opened or sealed.
    pub archive: PathBuf,
    /// The index, likewise.
    pub index: PathBuf,
    /// Whether both are still sealed.
    pub sealed: bool,
}

impl Fetched {
    /// What a person wants to know: the two files, and how to go on with sealed ones.
    pub fn told(&self) -> String {
        let mut text = format!("{}\n{}\n", self.archive.display(), self.index.display());
        if self.sealed
            && let Some(name) = self.archive.file_name().and_then(|name| name.to_str())
        {
            let opened = name.trim_end_matches(SEALED_END);
            writeln!(text, "both are sealed; to open one: gpg --output {opened} --decrypt {name}")
                .expect("writing to a string doesn't fail");
        }
        text
    }
}

/// Fetches a copy.
///
/// # Errors
/// There is no such copy, it isn't what it should be, or a file of that name is there. No file has its name then.
pub fn fetch(request: &Request<'_>, stop: &Stop, progress: &Progress) -> Result<Fetched> {
    let wanted: Wanted = request.snapshot.parse()?;
    // Before the long download, so that a passphrase is asked for while somebody is there.
    let keys = request.key.map(Keys::read_asking).transpose()?;
    let fetching = || format!("fetching {wanted} from {}", store::place(request.offsite));
    let store = Store::connect(request.offsite, request.credentials, stop)?;
    let runtime = super::runtime()?;
    let commit = runtime.block_on(committed(&store, &wanted)).with_context(fetching)?;
    let ends = if keys.is_some() { ["", ""] } else { [SEALED_END; 2] };
    let file = |end: &str, sealed: &str| request.to.join(format!("{}{end}{sealed}", commit.snapshot));
    let fetched = Fetched { archive: file(ARCHIVE_END, ends[0]), index: file(INDEX_END, ends[1]), sealed: keys.is_none() };
    for path in [&fetched.archive, &fetched.index] {
        if path.symlink_metadata().is_ok() {
            bail!("{}: {} is there already\nhint: fetch into another folder", fetching(), path.display());
        }
    }
    durable::private_folder(request.to)?;
    let download = |object, end| {
        let path = file(end, SEALED_END);
        runtime.block_on(download(&store, object, &path, progress)).with_context(fetching)
    };
    let (index, archive) = (download(&commit.index, INDEX_END)?, download(&commit.archive, ARCHIVE_END)?);
    match keys {
        None => publish(index, archive)?,
        Some(keys) => open(&keys, &commit, [index, archive], &fetched, stop).with_context(fetching)?,
    }
    Ok(fetched)
}

/// A copy that a person asks for: `SOURCE/NAME`, or `SOURCE/latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The source's name.
    pub source: String,
    /// The snapshot's, or `latest` for the newest complete one.
    pub name: String,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/').filter(|(source, name)| is_snapshot(source, name)) {
            Some((source, name)) => Ok(Self { source: source.to_owned(), name: name.to_owned() }),
            None => bail!("{text:?} is not a snapshot\nhint: write SOURCE/NAME as in web/20261123T023000Z, or SOURCE/latest"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.source, self.name)
    }
}

fn is_snapshot(source: &str, name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !source.is_empty() && source.bytes().all(plain) && (name == "latest" || time_of(name).is_some())
}

/// The error of a copy that isn't there.
#[derive(Debug)]
pub struct Absent(&'static str);

impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\nhint: `vaultberry offsite list` shows what is there", self.0)
    }
}

impl std::error::Error for Absent {}

/// The commit object of a copy.
///
/// # Errors
/// There is no such copy: [`Absent`]. Or it can't be read.
pub async fn committed(store: &Store, wanted: &Wanted) -> Result<Commit> {
    let (source, name) = (wanted.source.as_str(), wanted.name.as_str());
    if name != "latest" {
        let keys = store.keys(source, name);
        let json = store.read(&keys.commit).await?;
        let json = json.ok_or(Absent("there is no proven copy of it"))?;
        return Commit::parse(&json, source, name, &keys);
    }
    let found: BTreeMap<String, Objects> =
        found(store, Some(source)).await?.into_iter().map(|((_, name), objects)| (name, objects)).collect();
    let committed = found.iter().filter(|(_, objects)| objects.commit).map(|(name, _)| name.clone());
    for name in newest_first(committed, Timestamp::now()) {
        let keys = store.keys(source, &name);
        let Some(json) = store.read(&keys.commit).await? else { continue };
        match Commit::parse(&json, source, &name, &keys) {
            // An older one may be whole.
            Ok(commit) => match found[&name].differ(&commit) {
                Some(problem) => tracing::warn!("{source}/{name} is passed over: {problem}"),
                None if commit.outcome == Outcome::Complete => return Ok(commit),
                None => {}
            },
            Err(error) => tracing::warn!("{source}/{name} is passed over: {error:#}"),
        }
    }
    bail!(Absent("there is no proven and complete copy"))
}

/// The names of copies in the order in which `latest` means them: from new to old, and last those whose time hasn't come yet,
/// which are from a clock that was wrong.
fn newest_first(names: impl Iterator<Item = String>, now: Timestamp) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_by_key(|name| (time_of(name).is_none_or(|time| time > now), Reverse(name.clone())));
    names
}

/// Downloads an object to be `path`, and gives the file, still under its temporary name.
async fn download(store: &Store, object: &Object, path: &Path, progress: &Progress) -> Result<Durable> {
    let mut durable = Durable::create(path, 0o600)?;
    let mut out = BufWriter::with_capacity(1 << 20, durable.file());
    let writing = || format!("writing {}", path.display());
    content::read(store, object, &mut |bytes, done| {
        progress.say("fetching", done, Some(object.size));
        out.write_all(bytes).with_context(writing)
    })
    .await?;
    out.flush().with_context(writing)?;
    drop(out);
    Ok(durable)
}

/// Opens both, and lets go of the sealed ones.
fn open(keys: &Keys, commit: &Commit, [index, archive]: [Durable; 2], fetched: &Fetched, stop: &Stop) -> Result<()> {
    let (mut index, _) = unseal(keys, index, &fetched.index, stop)?;
    let expected = read::trailer_of(index.file(), &fetched.index)?.archive;
    commit.ensure_named(index.part())?;
    let (archive, sum) = unseal(keys, archive, &fetched.archive, stop)?;
    if sum != expected {
        let [sha256, expected] = [sum, expected].map(|sum| hex(&sum.sha256));
        bail!("the archive isn't the one that the index speaks of: its SHA-256 is {sha256} and not {expected}");
    }
    publish(index, archive)
}

/// The index first, as everywhere: where there is an archive, its index is there too.
fn publish(index: Durable, archive: Durable) -> Result<()> {
    index.publish()?;
    archive.publish()
}

/// Opens `sealed` to be `path`, and gives the file, still under its temporary name, and its sum.
fn unseal(keys: &Keys, mut sealed: Durable, path: &Path, stop: &Stop) -> Result<(Durable, Sum)> {
    let opening = || format!("opening {}", path.display());
    let mut durable = Durable::create(path, 0o600)?;
    sealed.file().rewind().with_context(opening)?;
    let message = sealed.file().try_clone().with_context(opening)?;
    let size = message.metadata().with_context(opening)?.len();
    let mut out = Summing::new(BufWriter::with_capacity(1 << 20, durable.file()));
    keys.open(message, size, &mut out, stop).with_context(opening)?;
    let sum = out.finish().with_context(opening)?;
    Ok((durable, sum))
}

#[cfg(test)]
mod tests {
    use super::is_snapshot;

    #[test]
    fn the_latest_is_the_newest_whose_time_has_come() {
        let names = ["20261120T023000Z", "20301123T023000Z", "20261122T023000Z"].map(String::from);
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        assert_eq!(super::newest_first(names.into_iter(), now), ["20261122T023000Z", "20261120T023000Z", "20301123T023000Z"]);
    }

    #[test]
    fn a_snapshot_is_named_by_source_and_start() {
        assert!(is_snapshot("web", "20261123T023000Z") && is_snapshot("mail-1_x", "latest"));
        for (source, name) in
            [("", "latest"), ("web", ""), ("web", "newest"), ("..", "latest"), ("web", "../20261123T023000Z"), ("WEB", "latest")]
        {
            assert!(!is_snapshot(source, name), "{source}/{name}");
        }
    }
}
