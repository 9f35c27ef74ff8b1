//! Bringing back what a snapshot holds, all of it or some paths, into an empty folder.
//!
//! The archive is read once, from its beginning to its end, or, where only parts are asked for and the index is good, from their
//! places on ([`parts`]). Nothing of it is believed: [`entries`] takes only what a backup writes, [`tree`] never leaves the
//! folder and never overwrites, and [`proof`] follows the index beside the archive, entry by entry and hash by hash.
//!
//! What is wrong is told apart by what it means:
//!
//! - An entry that no backup writes, or that would come to lie behind a symbolic link, ends the restore. So does a disk that
//!   is full or failing.
//! - An archive or an index that is damaged doesn't: all that can be had is restored, and what can't is named. A file whose
//!   content isn't what it was gets `.damaged` behind its name, so that nobody takes it for a good one.
//! - A single thing that can't be made there (a name that the file system doesn't take, an owner) is named too.
//!
//! In each of these cases the exit code is 1. Nothing here needs a network, the lock, or a configuration.

mod copy;
pub mod entries;
mod parts;
pub mod proof;
pub mod tree;
pub mod wanted;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use serde::Serialize;

use crate::amount::amount;
use crate::log::printable;
use crate::progress::Progress;
use crate::snapshot::entry::{Entry, Kind};
use crate::snapshot::index_of;
use crate::snapshot::restore::copy::Copied;
use crate::snapshot::restore::entries::{Described, End};
use crate::snapshot::restore::parts::{First, Parts, Run};
use crate::snapshot::restore::proof::Proof;
use crate::snapshot::restore::tree::Tree;
use crate::snapshot::restore::wanted::Wanted;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// How much of a file is copied at once.
const BLOCK: usize = 128 << 10;

/// What came of a restore.
#[derive(Debug, Serialize)]
pub struct Restored {
    archive: PathBuf,
    to: PathBuf,
    comes_once: bool,
    /// Whole files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Folders.
    pub folders: u64,
    /// Links, symbolic and hard.
    pub links: u64,
    /// Pipes and devices.
    pub others: u64,
    /// What isn't as it was archived, or isn't there.
    pub trouble: Warnings,
}

/// What helps where something is missing or damaged, and the archive can be read from any place on.
const ELSEWHERE_ON_THE_DISK: &str = "another snapshot may have what is named here (`vaultberry snapshot list`); behind a damaged \
     place of the archive, what is asked for by its path is read from its own place";

/// The same for one that comes by once.
const ELSEWHERE_IN_THE_STORE: &str = "another copy may have what is named here (`vaultberry offsite list`); what stands behind a \
     damaged place can be read as docs/guides/fetch.md says";

impl Restored {
    /// One line for a person.
    pub fn summary(&self) -> String {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        format!(
            "restored {} ({}), {}{} and {} to {}\n",
            count(self.files, "file"),
            amount(self.bytes),
            count(self.folders, "folder"),
            if self.others > 0 { format!(", {}", count(self.others, "pipe or device")) } else { String::new() },
            count(self.links, "link"),
            self.to.display()
        )
    }

    /// An error that names everything that isn't as it should be.
    pub fn verdict(&self) -> Result<()> {
        if self.trouble.total() == 0 {
            return Ok(());
        }
        let mut lines = vec!["not everything is there or as it was archived".to_owned()];
        lines.extend(self.trouble.lines.iter().map(|line| format!("  {line}")));
        if self.trouble.more > 0 {
            lines.push(format!("  and {} more", self.trouble.more));
        }
        lines.push(format!("hint: {}", if self.comes_once { ELSEWHERE_IN_THE_STORE } else { ELSEWHERE_ON_THE_DISK }));
        Err(anyhow!(lines.join("\n"))).with_context(|| restoring(&self.archive))
    }
}

/// An archive that comes by once, as from a store.
pub struct Stream<'a> {
    /// What it is called.
    pub name: &'a Path,
    /// Its bytes.
    pub content: &'a mut dyn Read,
    /// How many there should be.
    pub size: u64,
    /// Its index, a file.
    pub index: &'a Path,
}

/// Restores `paths` of the snapshot `archive`, everything where there are none, to the folder `to`, which is made when it
/// isn't there, and must be empty.
///
/// # Errors
/// A path isn't in the snapshot as its index has it, or the folder isn't empty: nothing was touched. The other errors are those
/// that end a restore; what was restored until then stays.
pub fn restore(archive: &Path, paths: &[PathBuf], to: &Path, progress: &Progress, stop: &Stop) -> Result<Restored> {
    let file = File::open(archive).with_context(|| restoring(archive))?;
    let size = file.metadata().with_context(|| restoring(archive))?.len();
    let stream = Stream { name: archive, content: &mut &file, size, index: &index_of(archive) };
    restore_from(stream, Some(&file), paths, to, progress, stop)
}

/// The same of an archive that comes by once. All of it is read, whatever is asked for.
///
/// # Errors
/// As of [`restore`].
pub fn restore_stream(stream: Stream<'_>, paths: &[PathBuf], to: &Path, progress: &Progress, stop: &Stop) -> Result<Restored> {
    restore_from(stream, None, paths, to, progress, stop)
}

/// `file`: the archive, where it can be read from any place on.
fn restore_from(
    stream: Stream<'_>,
    file: Option<&File>,
    paths: &[PathBuf],
    to: &Path,
    progress: &Progress,
    stop: &Stop,
) -> Result<Restored> {
    let Stream { name, content, size, index } = stream;
    let mut wanted = Wanted::new(paths)?;
    tree::vacant(to)?;
    let mut trouble = Warnings::default();
    let proof = Proof::open(index, &mut trouble);
    let parts = Parts::find(&proof, &wanted).with_context(|| restoring(name))?;

    let comes_once = file.is_none();
    let restored = Restored {
        archive: name.to_owned(),
        to: to.to_owned(),
        comes_once,
        files: 0,
        bytes: 0,
        folders: 0,
        links: 0,
        others: 0,
        trouble,
    };
    let (runs, firsts) = parts.map_or((None, HashMap::new()), |parts| (Some(parts.runs), parts.firsts));
    let tree = Tree::begin(to)?;
    let mut work = Work { archive: file, tree, wanted: &mut wanted, proof, firsts, restored, buffer: vec![0; BLOCK], stop };
    let end = match (runs, file) {
        (Some(runs), Some(file)) => work.runs(file, &runs, progress).map(|()| None),
        _ => {
            entries::walk(content, size, "restoring", progress, stop, &mut |entry, content| work.entry(&entry, content)).map(Some)
        }
    };
    work.leave(None);
    let Work { tree, mut proof, mut restored, .. } = work;
    if end.is_err() {
        // It isn't told otherwise: there is nothing but the error then.
        restored.trouble.lines.iter().for_each(|line| tracing::warn!("{line}"));
    }
    match end.with_context(|| restoring(name))? {
        Some(End::Whole(digest)) => proof.end(size, Some(digest), &mut wanted, &mut restored.trouble),
        Some(End::Broken(why)) => {
            restored.trouble.push(format!("the archive is damaged and can't be read to its end: {}", printable(why.as_bytes())));
            proof.end(size, None, &mut wanted, &mut restored.trouble);
        }
        None => {}
    }
    for path in wanted.unmet() {
        restored.trouble.push(format!("{path} is not in the snapshot"));
    }
    tree.finish()?;
    Ok(restored)
}

fn restoring(archive: &Path) -> String {
    format!("restoring {}", archive.display())
}

struct Work<'a> {
    /// None when it comes by only once.
    archive: Option<&'a File>,
    tree: Tree,
    wanted: &'a mut Wanted,
    proof: Proof,
    /// Files that weren't asked for, but other names of them.
    firsts: HashMap<PathBuf, First>,
    restored: Restored,
    buffer: Vec<u8>,
    stop: &'a Stop,
}

impl Work<'_> {
    /// Restores rows of entries, each read from its own place. A row that can't be read keeps no other from it.
    fn runs(&mut self, archive: &File, runs: &[Run], progress: &Progress) -> Result<()> {
        for run in runs {
            self.proof.pass_to(run.number, &mut self.restored.trouble);
            let read = entries::some(archive, run.place, run.count, self.stop, &mut |entry, content| {
                progress.say("restoring", self.restored.bytes, None);
                self.entry(&entry, content)
            })?;
            if let Err(why) = read {
                let why = printable(why.as_bytes());
                self.restored.trouble.push(format!("the archive is damaged, and not all that was asked for can be read: {why}"));
            }
        }
        Ok(())
    }

    /// Restores an entry, if it's wanted; gives why its content couldn't be read to its end, should that be so.
    fn entry(&mut self, described: &Described, content: &mut dyn Read) -> Result<Option<String>> {
        let entry = &described.entry;
        let expected = self.proof.next(entry, &mut self.restored.trouble);
        if !self.wanted.takes(&entry.path) {
            return self.first(described, expected, content);
        }
        self.leave(Some(&entry.path));
        match &entry.kind {
            Kind::File => return self.file(described, expected, content),
            Kind::Folder => match self.tree.folder(entry) {
                Ok(()) => self.restored.folders += 1,
                Err(errno) => self.not_made(entry, errno)?,
            },
            Kind::Symlink(target) => match self.tree.symlink(&entry.path, target) {
                Ok(()) => {
                    self.restored.links += 1;
                    if let Err(errno) = self.tree.link_attributes(entry) {
                        self.bare(&entry.path, errno);
                    }
                }
                Err(errno) => self.not_made(entry, errno)?,
            },
            Kind::Hardlink(first) => self.hardlink(entry, first)?,
            Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => match self.tree.node(entry) {
                Ok(()) => {
                    self.restored.others += 1;
                    if let Err(errno) = self.tree.node_attributes(entry) {
                        self.bare(&entry.path, errno);
                    }
                }
                Err(errno) => self.not_made(entry, errno)?,
            },
            Kind::Socket => unreachable!("an archive has no sockets"),
        }
        Ok(None)
    }

    /// What isn't wanted under this name, but under another that comes later: restored now when it comes by only once.
    fn first(&mut self, described: &Described, expected: Option<[u8; 32]>, content: &mut dyn Read) -> Result<Option<String>> {
        let Some(found) = self.firsts.get_mut(&described.entry.path).filter(|_| self.archive.is_none()) else { return Ok(None) };
        let at = found.wanted_as.clone();
        found.restored = Some(at.clone());
        let mut described = described.clone();
        described.entry.path = at;
        self.leave(Some(&described.entry.path));
        self.file(&described, expected, content)
    }

    /// Another name of a file. Where its first name isn't restored, the content comes under this one.
    fn hardlink(&mut self, entry: &Entry, first: &Path) -> Result<()> {
        let (at, fetch) = match self.firsts.get(first) {
            None => (first.to_owned(), None),
            // It came with the file itself.
            Some(First { restored: Some(at), .. }) if *at == entry.path => return Ok(()),
            Some(First { restored: Some(at), .. }) => (at.clone(), None),
            Some(found) => (entry.path.clone(), Some((found.place, found.sha256))),
        };
        let (Some((place, sha256)), Some(archive)) = (fetch, self.archive) else {
            match self.tree.hardlink(&entry.path, &at) {
                Ok(()) => self.restored.links += 1,
                Err(Errno::ENOENT) => self.restored.trouble.push(format!(
                    "{} is not restored: it is another name of {}, which isn't there",
                    shown(&entry.path),
                    shown(first)
                )),
                Err(errno) => self.not_made(entry, errno)?,
            }
            return Ok(());
        };
        let read = entries::some(archive, place, 1, self.stop, &mut |mut described, content| {
            described.entry.path.clone_from(&entry.path);
            self.file(&described, Some(sha256), content)
        })?;
        match read {
            Ok(()) => self.firsts.get_mut(first).expect("it was there").restored = Some(at),
            Err(why) => self.restored.trouble.push(format!("{} can't be read: {why}", shown(&entry.path))),
        }
        Ok(())
    }

    fn file(&mut self, described: &Described, expected: Option<[u8; 32]>, content: &mut dyn Read) -> Result<Option<String>> {
        let entry = &described.entry;
        let mut file = match self.tree.file(&entry.path) {
            Ok(file) => file,
            Err(errno) => return self.not_made(entry, errno).map(|()| None),
        };
        let copied = copy::copy(content, described, &mut file, &mut self.buffer, self.stop);
        let sha256 = match copied {
            Ok(Copied::Whole(sha256)) => sha256,
            Ok(Copied::Broken(why)) => {
                self.damaged(entry, "was cut short");
                return Ok(Some(why));
            }
            Err(error) => {
                self.damaged(entry, "was cut short");
                return Err(error).with_context(|| format!("writing {}", self.shown(entry)));
            }
        };
        if expected.is_some_and(|expected| expected != sha256) {
            self.damaged(entry, "isn't what its index says");
            return Ok(None);
        }
        if let Err(errno) = self.tree.attributes(&file, entry) {
            self.bare(&entry.path, errno);
        }
        self.restored.files += 1;
        self.restored.bytes += entry.size;
        Ok(None)
    }

    /// Gives folders that are done their attributes.
    fn leave(&mut self, next: Option<&Path>) {
        for (path, errno) in self.tree.leave(next) {
            self.bare(&path, errno);
        }
    }

    /// An entry couldn't be made. That is the end where it would be for every other too, and where the archive is to be
    /// feared.
    fn not_made(&mut self, entry: &Entry, errno: Errno) -> Result<()> {
        match errno {
            Errno::ELOOP | Errno::EXDEV => {
                bail!("refusing the entry {}: in the archive it lies behind a symbolic link", self.shown(entry))
            }
            Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS | Errno::EIO => {
                Err(errno).with_context(|| format!("writing {}", self.shown(entry)))
            }
            Errno::EEXIST => {
                self.restored.trouble.push(format!("{} is not restored: something has this name already", shown(&entry.path)));
                Ok(())
            }
            errno => {
                self.restored.trouble.push(format!("{} is not restored: {}", shown(&entry.path), errno.desc()));
                Ok(())
            }
        }
    }

    fn damaged(&mut self, entry: &Entry, how: &str) {
        let place = match self.tree.damage(&entry.path) {
            Ok(name) => format!("it is {} now", printable(name.as_bytes())),
            Err(errno) => format!("it keeps its name, since renaming it failed: {}", errno.desc()),
        };
        self.restored.trouble.push(format!("the content of {} {how}; {place}", shown(&entry.path)));
    }

    /// It's there, but only the content is as it was.
    fn bare(&mut self, path: &Path, errno: Errno) {
        self.restored.trouble.push(format!("{} is restored without its owner, mode or time: {}", shown(path), errno.desc()));
    }

    fn shown(&self, entry: &Entry) -> String {
        shown(&self.tree.path().join(&entry.path))
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests;
