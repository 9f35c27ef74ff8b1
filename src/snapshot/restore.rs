//! Bringing back what a snapshot holds, all of it or some paths, into an empty folder.
//!
//! The archive is read once, from its beginning to its end, and nothing of it is believed: [`entries`] takes only what a
//! backup writes, [`tree`] never leaves the folder and never overwrites, and [`proof`] follows the index beside the archive,
//! entry by entry and hash by hash.
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

pub mod entries;
pub mod proof;
pub mod tree;
pub mod wanted;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use openssl::sha::Sha256;

use crate::amount::amount;
use crate::log::printable;
use crate::progress::Progress;
use crate::snapshot::entry::{Entry, Kind};
use crate::snapshot::restore::entries::End;
use crate::snapshot::restore::proof::Proof;
use crate::snapshot::restore::tree::Tree;
use crate::snapshot::restore::wanted::Wanted;
use crate::snapshot::{ARCHIVE_END, INDEX_END};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// How much of a file is copied at once.
const BLOCK: usize = 128 << 10;

/// What came of a restore.
#[derive(Debug)]
pub struct Restored {
    archive: PathBuf,
    to: PathBuf,
    /// Whole files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// What isn't as it was archived, or isn't there.
    pub trouble: Warnings,
}

impl Restored {
    /// One line for a person.
    pub fn summary(&self) -> String {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        format!(
            "restored {} ({}), {} and {} to {}\n",
            count(self.files, "file"),
            amount(self.bytes),
            count(self.folders, "folder"),
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
        lines.push("hint: another snapshot may have what is named here; `vaultberry snapshot list` shows them".to_owned());
        Err(anyhow!(lines.join("\n"))).with_context(|| restoring(&self.archive))
    }
}

/// Restores `paths` of the snapshot `archive`, everything where there are none, to the folder `to`, which is made when it
/// isn't there, and must be empty.
///
/// # Errors
/// A path isn't in the snapshot as its index has it, or the folder isn't empty: nothing was touched. The other errors are those
/// that end a restore; what was restored until then stays.
pub fn restore(archive: &Path, paths: &[PathBuf], to: &Path, progress: &Progress, stop: &Stop) -> Result<Restored> {
    let mut wanted = Wanted::new(paths)?;
    tree::vacant(to)?;
    let file = File::open(archive).with_context(|| restoring(archive))?;
    let size = file.metadata().with_context(|| restoring(archive))?.len();
    let mut trouble = Warnings::default();
    let proof = Proof::open(&index_of(archive), &mut trouble);
    proof.look(&wanted).with_context(|| restoring(archive))?;

    let restored = Restored { archive: archive.to_owned(), to: to.to_owned(), files: 0, bytes: 0, folders: 0, links: 0, trouble };
    let mut work = Work { tree: Tree::begin(to)?, wanted: &mut wanted, proof, restored, buffer: vec![0; BLOCK], stop };
    let end = entries::walk(&file, progress, stop, &mut |entry, content| work.entry(entry, content));
    work.leave(None);
    let Work { tree, mut proof, mut restored, .. } = work;
    if end.is_err() {
        // It isn't told otherwise: there is nothing but the error then.
        restored.trouble.lines.iter().for_each(|line| tracing::warn!("{line}"));
    }
    let digest = match end.with_context(|| restoring(archive))? {
        End::Whole(digest) => Some(digest),
        End::Broken(why) => {
            restored.trouble.push(format!("the archive is damaged and can't be read to its end: {}", printable(why.as_bytes())));
            None
        }
    };
    proof.end(size, digest, &mut wanted, &mut restored.trouble);
    for path in wanted.unmet() {
        restored.trouble.push(format!("{path} is not in the snapshot"));
    }
    tree.finish()?;
    Ok(restored)
}

fn restoring(archive: &Path) -> String {
    format!("restoring {}", archive.display())
}

/// The index beside an archive.
fn index_of(archive: &Path) -> PathBuf {
    let name = archive.as_os_str().as_bytes();
    let stem = name.strip_suffix(ARCHIVE_END.as_bytes()).unwrap_or(name);
    PathBuf::from(std::ffi::OsString::from_vec([stem, INDEX_END.as_bytes()].concat()))
}

struct Work<'a> {
    tree: Tree,
    wanted: &'a mut Wanted,
    proof: Proof,
    restored: Restored,
    buffer: Vec<u8>,
    stop: &'a Stop,
}

impl Work<'_> {
    /// Restores an entry, if it's wanted; gives why its content couldn't be read to its end, should that be so.
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<Option<String>> {
        let expected = self.proof.next(entry, &mut self.restored.trouble);
        if !self.wanted.takes(&entry.path) {
            return Ok(None);
        }
        self.leave(Some(&entry.path));
        match &entry.kind {
            Kind::File => return self.file(entry, expected, content),
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
            Kind::Other => unreachable!("an archive's entry is a file, a folder or a link"),
        }
        Ok(None)
    }

    fn file(&mut self, entry: &Entry, expected: Option<[u8; 32]>, content: &mut dyn Read) -> Result<Option<String>> {
        let mut file = match self.tree.file(&entry.path) {
            Ok(file) => file,
            Err(errno) => return self.not_made(entry, errno).map(|()| None),
        };
        let copied = copy(content, entry.size, &mut file, &mut self.buffer, self.stop);
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

/// How copying a content ended.
enum Copied {
    /// All of it is there, with this SHA-256.
    Whole([u8; 32]),
    /// The archive can't be read on, and why.
    Broken(String),
}

/// Copies `size` bytes. The error is one of writing, or a stop.
fn copy(content: &mut dyn Read, size: u64, file: &mut File, buffer: &mut [u8], stop: &Stop) -> Result<Copied> {
    let mut sha256 = Sha256::new();
    let mut left = size;
    while left > 0 {
        stop.check()?;
        match content.read(buffer) {
            Ok(0) => return Ok(Copied::Broken(format!("{left} bytes of a file are missing"))),
            Ok(length) => {
                sha256.update(&buffer[..length]);
                file.write_all(&buffer[..length])?;
                left = left.saturating_sub(length as u64);
            }
            Err(error) => {
                stop.check()?;
                return Ok(Copied::Broken(error.to_string()));
            }
        }
    }
    Ok(Copied::Whole(sha256.finish()))
}

#[cfg(test)]
mod tests;
