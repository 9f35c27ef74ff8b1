//! The archive of a snapshot: tar in gzip, as GNU tar writes and reads it.
//!
//! The order is that of the configured paths, and below them that of names as bytes, each folder before what is in it; gzip
//! carries no time. So the same mirror makes the same bytes. Names are relative to the server's root
//! (`home/demo/file`). Names and link targets longer than a header takes go into GNU's long-name entries, byte for byte;
//! the tar crate would normalise them, and cut a name that isn't UTF-8 in a way that can fail.
//!
//! A file's size is said before its content, so the content must have exactly that size: a file that shrank meanwhile, or
//! can't be read to its end, is filled up with zeros, one that grew is cut; it is named, and the snapshot is `partial`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use openssl::sha::Sha256;
use tar::{Builder, EntryType, Header};

use crate::digest::{Sum, Summing};
use crate::log::printable;
use crate::snapshot::entry::{self, Entry, Kind};
use crate::source::Root;
use crate::stop::Stop;
use crate::warnings::Warnings;

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
pub struct Archived<'a> {
    /// What it is.
    pub entry: &'a Entry,
    /// A file's SHA-256, of the bytes in the archive.
    pub sha256: Option<[u8; 32]>,
    /// Whether a file's content isn't what the mirror held.
    pub damaged: bool,
}

/// Writes the archive of `roots` to `out`, and tells `each` of every entry.
pub fn write<W: Write>(
    out: W,
    roots: &[Root],
    stop: &Stop,
    each: &mut dyn FnMut(&Archived<'_>) -> Result<()>,
) -> Result<Written> {
    let gzip = GzBuilder::new().mtime(0).write(Summing::new(out), Compression::default());
    let mut writer =
        Writer { tar: Builder::new(gzip), stop, each, entries: 0, bytes: 0, damaged: false, warnings: Warnings::default() };
    for root in roots {
        let base = File::open(&root.base).with_context(|| format!("opening the mirror {}", root.base.display()))?;
        writer.tree(&OwnedFd::from(base), &root.path)?;
    }
    let Writer { tar, entries, bytes, damaged, warnings, .. } = writer;
    let out = tar.into_inner().and_then(GzEncoder::finish).and_then(Summing::finish).context("finishing the archive")?;
    Ok(Written { archive: out, entries, bytes, damaged, warnings })
}

struct Writer<'a, W: Write> {
    tar: Builder<GzEncoder<Summing<W>>>,
    stop: &'a Stop,
    each: &'a mut dyn FnMut(&Archived<'_>) -> Result<()>,
    entries: u64,
    bytes: u64,
    damaged: bool,
    warnings: Warnings,
}

impl<W: Write> Writer<'_, W> {
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
        let entry = match entry::look(base, path) {
            Ok(entry) => entry,
            Err(errno) => {
                self.missing(path, errno);
                return Ok(Vec::new());
            }
        };
        match &entry.kind {
            Kind::File => self.file(base, &entry)?,
            Kind::Folder => return self.folder(base, &entry),
            Kind::Symlink(target) => {
                let header = self.header(&entry, EntryType::Symlink, Some(target))?;
                self.tar.append(&header, io::empty()).with_context(|| adding(path))?;
                self.done(&entry, None, false)?;
            }
            Kind::Other => self.warnings.push(format!("{} is a socket, pipe or device and left out", shown(path))),
        }
        Ok(Vec::new())
    }

    fn folder(&mut self, base: &OwnedFd, entry: &Entry) -> Result<Vec<PathBuf>> {
        let names = match entry::names(base, &entry.path) {
            Ok(names) => names,
            Err(errno) => {
                self.missing(&entry.path, errno);
                Vec::new()
            }
        };
        let header = self.header(entry, EntryType::Directory, None)?;
        self.tar.append(&header, io::empty()).with_context(|| adding(&entry.path))?;
        self.done(entry, None, false)?;
        Ok(names.into_iter().map(|name| entry.path.join(name)).collect())
    }

    fn file(&mut self, base: &OwnedFd, entry: &Entry) -> Result<()> {
        let file = match entry::open(base, &entry.path) {
            Ok(file) => file,
            Err(errno) => {
                self.missing(&entry.path, errno);
                return Ok(());
            }
        };
        let header = self.header(entry, EntryType::Regular, None)?;
        let mut content = Content::new(&file, entry.size, self.stop);
        self.tar.append(&header, &mut content).with_context(|| adding(&entry.path))?;
        let (sha256, trouble) = content.finish();
        let grew = || file.metadata().is_ok_and(|now| now.len() != entry.size);
        let trouble = trouble.or_else(|| grew().then(|| "it changed while it was read".to_owned()));
        if let Some(trouble) = &trouble {
            self.damaged = true;
            self.warnings.cause(format!("{} is not whole in the snapshot: {trouble}", shown(&entry.path)));
        }
        self.bytes += entry.size;
        self.done(entry, Some(sha256), trouble.is_some())
    }

    /// The header of `entry`, with the long-name entries that must stand before it written already.
    fn header(&mut self, entry: &Entry, kind: EntryType, target: Option<&OsStr>) -> Result<Header> {
        let mut name = entry.path.as_os_str().as_bytes().to_vec();
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(entry.size);
        header.set_mtime(entry.mtime);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        let fields = header.as_gnu_mut().expect("it was made as a GNU header");
        if let Some(target) = target {
            let target = target.as_bytes();
            if !fill(&mut fields.linkname, target) {
                self.long(EntryType::GNULongLink, target).with_context(|| adding(&entry.path))?;
            }
        }
        if !fill(&mut fields.name, &name) {
            self.long(EntryType::GNULongName, &name).with_context(|| adding(&entry.path))?;
        }
        header.set_cksum();
        Ok(header)
    }

    /// GNU's entry for a name that doesn't fit: its content is the name, ended by a zero.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        fill(&mut header.as_gnu_mut().expect("it was made as a GNU header").name, b"././@LongLink");
        header.set_entry_type(kind);
        header.set_size(name.len() as u64 + 1);
        header.set_mtime(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.tar.append(&header, name.chain([0].as_slice()))
    }

    fn done(&mut self, entry: &Entry, sha256: Option<[u8; 32]>, damaged: bool) -> Result<()> {
        self.entries += 1;
        (self.each)(&Archived { entry, sha256, damaged })
    }

    fn missing(&mut self, path: &Path, errno: nix::errno::Errno) {
        self.damaged = true;
        self.warnings.cause(format!("{} is not in the snapshot: reading it from the mirror: {}", shown(path), errno.desc()));
    }
}

/// Puts as much of `text` as fits into a header's field, and says whether all did.
fn fill(field: &mut [u8], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    text.len() <= field.len()
}

fn adding(path: &Path) -> String {
    format!("adding {}", shown(path))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// A file's content, of exactly the size that was promised, hashed as it goes by.
struct Content<'a> {
    file: &'a File,
    left: u64,
    sha256: Sha256,
    stop: &'a Stop,
    trouble: Option<String>,
}

impl<'a> Content<'a> {
    fn new(file: &'a File, size: u64, stop: &'a Stop) -> Self {
        Self { file, left: size, sha256: Sha256::new(), stop, trouble: None }
    }

    /// The hash of what was given out, and what went wrong.
    fn finish(self) -> ([u8; 32], Option<String>) {
        (self.sha256.finish(), self.trouble)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> usize {
        if self.trouble.is_none() {
            match self.file.read(buffer) {
                Ok(0) => self.trouble = Some(format!("its last {} bytes were gone, zeros stand for them", self.left)),
                Ok(length) => return length,
                Err(error) => {
                    self.trouble = Some(format!("reading it: {error}; zeros stand for its last {} bytes", self.left));
                }
            }
        }
        buffer.fill(0);
        buffer.len()
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.requested() {
            return Err(io::Error::other("interrupted by a signal"));
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.fill(&mut buffer[..wanted]);
        self.sha256.update(&buffer[..length]);
        self.left -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
