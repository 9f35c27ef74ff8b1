//! What the index says, followed line by line beside the archive: both have the same entries in the same order.
//!
//! An index that disagrees doesn't stop a restore. It is said, at the end at the latest, and the exit code is 1: the owner may
//! hold the only copy of good data beside a bad index. Once the two name different entries, the rest of the index
//! is worth nothing, and only the archive's own sum is still compared.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::digest::Sum;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::snapshot::entry::{Entry, Extras};
use crate::snapshot::index::read::{self, Indexed, Lines, Reader, Trailer};
use crate::snapshot::restore::wanted::Wanted;
use crate::warnings::Warnings;

/// How many names and warnings are shown where there may be many.
const SHOWN: usize = 5;

/// The index of an archive, as far as there is one.
pub struct Proof {
    index: PathBuf,
    reader: Option<Reader<Lines>>,
    trailer: Option<Trailer>,
}

impl Proof {
    /// Opens `index`; what is wrong with it goes to `trouble`. That there is none is a warning only.
    pub fn open(index: &Path, trouble: &mut Warnings) -> Self {
        let mut proof = Self { index: index.to_owned(), reader: None, trailer: None };
        if index.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            tracing::warn!("there is no index {}: nothing can be checked but gzip's own sums", index.display());
            return proof;
        }
        match read::trailer(index).and_then(|trailer| Ok((trailer, Reader::open(index)?))) {
            Ok((trailer, reader)) => {
                proof.trailer = Some(trailer);
                proof.reader = Some(reader);
            }
            Err(error) => trouble.push(one_line(&error)),
        }
        proof.notice();
        proof
    }

    /// Says what the owner should know of a snapshot that isn't complete.
    fn notice(&self) {
        let Some(Trailer { outcome: Outcome::Partial, warnings, .. }) = &self.trailer else { return };
        tracing::warn!("this snapshot is partial: something is missing, or isn't as it was on the server");
        for line in warnings.lines.iter().take(SHOWN) {
            tracing::warn!("{}", printable(line.as_bytes()));
        }
        let more = warnings.total().saturating_sub(SHOWN as u64);
        if more > 0 {
            tracing::warn!("and {more} more, in the last line of {}", self.index.display());
        }
    }

    /// The index once more, from its beginning; none without a good one.
    pub fn reopen(&self) -> Option<Reader<Lines>> {
        self.reader.as_ref()?;
        Reader::open(&self.index).ok()
    }

    /// Passes over entries of the index, so that the next is the one with this number, from 0.
    pub fn pass_to(&mut self, number: u64, trouble: &mut Warnings) {
        while let Some(reader) = &mut self.reader
            && reader.read() < number
        {
            match reader.entry() {
                Ok(Some(_)) => {}
                Ok(None) => self.reader = None,
                Err(error) => {
                    trouble.push(one_line(&error));
                    self.reader = None;
                }
            }
        }
    }

    /// Takes the archive's next entry, and gives a file's SHA-256 as the index has it.
    pub fn next(&mut self, entry: &Entry, trouble: &mut Warnings) -> Option<[u8; 32]> {
        let reader = self.reader.as_mut()?;
        let shown = printable(entry.path.as_os_str().as_bytes());
        match reader.entry() {
            Ok(Some(indexed)) if indexed.entry.path == entry.path => {
                if !same(&indexed, entry) {
                    trouble.push(format!("{shown} has another kind, size, target, time, mode, owner or attribute in the index"));
                }
                if indexed.damaged {
                    tracing::warn!("{shown} wasn't whole already when the snapshot was made");
                }
                return indexed.sha256;
            }
            Ok(Some(indexed)) => trouble.push(format!(
                "the index {} is of another archive: it has {} where the archive has {shown}",
                self.index.display(),
                printable(indexed.entry.path.as_os_str().as_bytes())
            )),
            Ok(None) => trouble
                .push(format!("the index {} is of another archive: it ends where the archive has {shown}", self.index.display())),
            Err(error) => trouble.push(one_line(&error)),
        }
        self.reader = None;
        None
    }

    /// Compares what is left when the archive has ended: entries that it should have had, and its own size and hash.
    /// `digest` is none when it couldn't be read to its end.
    pub fn end(&mut self, size: u64, digest: Option<Sum>, wanted: &mut Wanted, trouble: &mut Warnings) {
        if let Some(mut reader) = self.reader.take() {
            loop {
                match reader.entry() {
                    Ok(Some(indexed)) if wanted.takes(&indexed.entry.path) => {
                        trouble.push(format!("{} is missing", printable(indexed.entry.path.as_os_str().as_bytes())));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        trouble.push(one_line(&error));
                        break;
                    }
                }
            }
        }
        let Some(trailer) = &self.trailer else { return };
        let said = trailer.archive;
        if said.size != size {
            trouble.push(format!("the archive has {size} bytes, and its index says {}", said.size));
        } else if digest.is_some_and(|digest| digest.sha256 != said.sha256) {
            trouble.push("the archive's SHA-256 isn't the one in its index".to_owned());
        }
    }
}

/// Whether the index says of an entry what the archive says.
pub fn same(indexed: &Indexed, entry: &Entry) -> bool {
    let bare = Entry { extras: Extras::default(), ..entry.clone() };
    indexed.entry == bare && indexed.extras == entry.extras.sha256()
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "; ")
}
