//! The archive of a snapshot: tar in gzip, which GNU tar, bsdtar and 7-Zip read.
//!
//! The order is that of the configured paths, and below them that of names as bytes, each folder before what is in it; gzip
//! carries no time. So the same mirror makes the same bytes. Names are relative to the server's root (`home/demo/file`).
//!
//! A file's size is said before its content, so the content must have exactly that size: a file that shrank meanwhile, or
//! can't be read to its end, is filled up with zeros, one that grew is cut; it is named, and the snapshot is `partial`.
//!
//! Of a file with several names the first has the content, and the others are links to it. Of a sparse file only what
//! isn't a hole is there. [`header`] knows how all that is written, [`gzip`] how it is compressed, [`look`] what stands in the mirror.

mod content;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::digest::Sum;
use crate::log::printable;
use crate::snapshot::archive::content::Content;
use crate::snapshot::entry::{Entry, Kind};
use crate::snapshot::gzip::{self, Members, Place};
use crate::snapshot::header;
use crate::snapshot::look::{self, Found, Inode};
use crate::source::Root;
use crate::source::owners::Owners;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// How many files with several names are remembered. What comes beyond is archived once for each name.
const MOST_LINKED: usize = 200_000;

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The compressed archive.
    pub archive: Sum,
    /// How many entries it has.
    pub entries: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Whether something isn't in it as it should be.
    pub damaged: bool,
    /// What isn't, and what was left out.
    pub warnings: Warnings,
}

/// An entry as it went into the archive.
#[derive(Debug)]
pub struct Archived {
    /// What it is.
    pub entry: Entry,
    /// A file's SHA-256, of the bytes in the archive.
    pub sha256: Option<[u8; 32]>,
    /// Whether a file's holes were left out.
    pub sparse: bool,
    /// Whether a file's content isn't what the mirror held.
    pub damaged: bool,
}

/// Writes the archive of `roots` to `out` with `threads` threads that compress, and tells `each` of every entry and its place.
pub fn write<W: Write + Send>(
    out: W,
    roots: &[Root],
    owners: &Owners,
    threads: usize,
    stop: &Stop,
    each: &mut (dyn FnMut(Place, &Archived) -> Result<()> + Send),
) -> Result<Written> {
    let each = |place, archived: Archived| each(place, &archived);
    let (mut written, archive) = gzip::compress(out, threads, each, |tar| {
        let mut writer = Writer {
            tar,
            owners,
            stop,
            linked: HashMap::new(),
            written: Written {
                archive: Sum { size: 0, sha256: [0; 32] },
                entries: 0,
                bytes: 0,
                damaged: false,
                warnings: Warnings::default(),
            },
        };
        for root in roots {
            let base = look::folder(&root.base).with_context(|| format!("opening the mirror {}", root.base.display()))?;
            writer.tree(&base, &root.path)?;
        }
        // Two empty blocks end an archive.
        writer.tar.write_all(&[0; 2 * header::BLOCK]).context("ending the archive")?;
        Ok(writer.written)
    })?;
    written.archive = archive;
    Ok(written)
}

struct Writer<'a> {
    tar: &'a mut Members<Archived>,
    owners: &'a Owners,
    stop: &'a Stop,
    linked: HashMap<Inode, PathBuf>,
    written: Written,
}

impl Writer<'_> {
    /// Adds `path` below `base` and everything in it.
    fn tree(&mut self, base: &OwnedFd, path: &Path) -> Result<()> {
        // A stack of what is still to come, the next on top: as deep as the mirror is, it takes no call stack and no descriptors.
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            self.stop.check()?;
            let inside = self.add(base, &path)?;
            waiting.extend(inside.into_iter().rev());
        }
        Ok(())
    }

    /// Adds `path`, and gives what is inside it.
    fn add(&mut self, base: &OwnedFd, path: &Path) -> Result<Vec<PathBuf>> {
        let mut found = match look::look(base, path) {
            Ok(found) => found,
            Err(errno) => {
                self.missing(path, errno);
                return Ok(Vec::new());
            }
        };
        if found.unclear {
            self.written.damaged = true;
            self.written.warnings.cause(format!("{}: what rsync says of it can't be read; it stands as it is here", shown(path)));
        }
        found.entry.extras.xattrs.retain(|(name, _)| header::takes(Path::new(name)));
        match found.entry.kind {
            Kind::File => self.file(base, found)?,
            Kind::Folder => return self.folder(base, found.entry),
            Kind::Socket => self.written.warnings.push(format!("{} is a socket and left out", shown(path))),
            _ => self.bare(found.entry)?,
        }
        Ok(Vec::new())
    }

    fn folder(&mut self, base: &OwnedFd, entry: Entry) -> Result<Vec<PathBuf>> {
        let names = look::names(base, &entry.path).unwrap_or_else(|errno| {
            self.missing(&entry.path, errno);
            Vec::new()
        });
        let inside = names.into_iter().map(|name| entry.path.join(name)).collect();
        self.bare(entry)?;
        Ok(inside)
    }

    /// An entry that is its header only.
    fn bare(&mut self, entry: Entry) -> Result<()> {
        self.header(&entry, None)?;
        self.done(Archived { entry, sha256: None, sparse: false, damaged: false })
    }

    fn file(&mut self, base: &OwnedFd, found: Found) -> Result<()> {
        let Found { mut entry, inode, sparse, .. } = found;
        if let Some(first) = inode.and_then(|inode| self.linked.get(&inode)) {
            (entry.kind, entry.size) = (Kind::Hardlink(first.clone()), 0);
            return self.bare(entry);
        }
        let file = match look::open(base, &entry.path) {
            Ok(file) => file,
            Err(errno) => {
                self.missing(&entry.path, errno);
                return Ok(());
            }
        };
        let data = if sparse { content::stretches(&file, entry.size) } else { None };
        self.header(&entry, data.as_deref())?;
        let sparse = data.is_some();
        let (sha256, trouble) = self.content(&file, &entry, data)?;
        if let Some(trouble) = &trouble {
            self.written.damaged = true;
            self.written.warnings.cause(format!("{} is not whole in the snapshot: {trouble}", shown(&entry.path)));
        }
        if let Some(inode) = inode.filter(|_| self.linked.len() < MOST_LINKED) {
            self.linked.insert(inode, entry.path.clone());
        }
        self.written.bytes += entry.size;
        self.done(Archived { entry, sha256: Some(sha256), sparse, damaged: trouble.is_some() })
    }

    /// A file's content; its SHA-256, and what is wrong with it.
    fn content(&mut self, file: &File, entry: &Entry, data: Option<Vec<Range<u64>>>) -> Result<([u8; 32], Option<String>)> {
        let whole = std::slice::from_ref(&(0..entry.size)).to_vec();
        let data = data.unwrap_or(whole);
        let size = data.iter().map(|stretch| stretch.end - stretch.start).sum();
        let mut content = Content::new(file, data);
        while !content.is_over() {
            self.stop.check()?;
            self.tar.fill(content.next_length(), |room| content.read(room)).with_context(|| adding(&entry.path))?;
        }
        self.tar.write_all(header::padding(size)).with_context(|| adding(&entry.path))?;
        let (sha256, trouble) = content.finish();
        let changed = || {
            let now = file.metadata();
            now.is_ok_and(|now| now.len() != entry.size).then(|| "it changed while it was read".to_owned())
        };
        Ok((sha256, trouble.or_else(changed)))
    }

    fn header(&mut self, entry: &Entry, data: Option<&[Range<u64>]>) -> Result<()> {
        self.tar.mark().and_then(|()| header::write(self.tar, entry, self.owners, data)).with_context(|| adding(&entry.path))
    }

    fn done(&mut self, archived: Archived) -> Result<()> {
        self.written.entries += 1;
        Ok(self.tar.note(archived)?)
    }

    fn missing(&mut self, path: &Path, errno: nix::errno::Errno) {
        self.written.damaged = true;
        let line = format!("{} is not in the snapshot: reading it from the mirror: {}", shown(path), errno.desc());
        self.written.warnings.cause(line);
    }
}

fn adding(path: &Path) -> String {
    format!("adding {}", shown(path))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests;
