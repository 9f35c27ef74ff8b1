//! Whether a snapshot could be restored, without restoring it.
//!
//! Whole: every byte of the archive is read, unpacked and compared with the index, as a restore does. A sample: files chosen at
//! random, each read from its own place, so that a disk of many terabytes can be looked over in a night.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use serde::Serialize;

use crate::amount::amount;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::snapshot::entry::Kind;
use crate::snapshot::index::read::{Indexed, Reader};
use crate::snapshot::index_of;
use crate::snapshot::restore::entries::{self, Described, End};
use crate::snapshot::restore::proof::{Proof, same};
use crate::snapshot::restore::wanted::Wanted;
use crate::stop::Stop;
use crate::warnings::Warnings;

/// How much of a file is read at once.
const BLOCK: usize = 128 << 10;

/// What came of looking at a snapshot.
#[derive(Debug, Serialize)]
pub struct Verified {
    archive: String,
    /// [`Outcome::Complete`] when all is as it should be, else [`Outcome::Failed`].
    pub outcome: Outcome,
    files: u64,
    bytes: u64,
    /// How many per cent of the files were looked at; none: all.
    sample: Option<u8>,
    trouble: Warnings,
}

impl Verified {
    /// A line for a person, and one for each trouble.
    pub fn text(&self) -> String {
        let what = if self.sample.is_some() { "a sample of " } else { "" };
        let verdict = if self.outcome == Outcome::Complete { "good" } else { "DAMAGED" };
        let mut text = format!(
            "{}: {verdict}; {what}{} files ({}) read\n",
            printable(self.archive.as_bytes()),
            self.files,
            amount(self.bytes)
        );
        for line in &self.trouble.lines {
            let _ = writeln!(text, "  {line}");
        }
        if self.trouble.more > 0 {
            let _ = writeln!(text, "  and {} more", self.trouble.more);
        }
        text
    }
}

/// Reads the snapshot `archive`, or of about `sample` per cent of its files what is needed.
///
/// # Errors
/// A stop, or what can't be read at all; damage is no error.
pub fn verify(archive: &Path, sample: Option<u8>, progress: &Progress, stop: &Stop) -> Result<Verified> {
    let doing = || format!("verifying {}", archive.display());
    let file = File::open(archive).with_context(doing)?;
    let mut work = Work { stop, files: 0, bytes: 0, trouble: Warnings::default(), buffer: vec![0; BLOCK] };
    match sample {
        None => work.whole(archive, &file, progress).with_context(doing)?,
        Some(percent) => work.sample(archive, &file, percent, progress).with_context(doing)?,
    }
    let outcome = if work.trouble.total() == 0 { Outcome::Complete } else { Outcome::Failed };
    let Work { files, bytes, trouble, .. } = work;
    Ok(Verified { archive: archive.display().to_string(), outcome, files, bytes, sample, trouble })
}

struct Work<'a> {
    stop: &'a Stop,
    files: u64,
    bytes: u64,
    trouble: Warnings,
    buffer: Vec<u8>,
}

impl Work<'_> {
    fn whole(&mut self, archive: &Path, file: &File, progress: &Progress) -> Result<()> {
        let size = file.metadata().context("asking for its size")?.len();
        let index = index_of(archive);
        ensure!(index.symlink_metadata().is_ok(), "there is no index {} to compare it with", index.display());
        let mut proof = Proof::open(&index, &mut self.trouble);
        let stop = self.stop;
        let end = entries::walk(&mut &*file, size, "verifying", progress, stop, &mut |described, content| {
            let expected = proof.next(&described.entry, &mut self.trouble);
            self.content(&described, expected, content)
        })?;
        let sum = match end {
            End::Whole(sum) => Some(sum),
            End::Broken(why) => {
                self.trouble.push(format!("the archive can't be read to its end: {}", printable(why.as_bytes())));
                None
            }
        };
        proof.end(size, sum, &mut Wanted::new(&[])?, &mut self.trouble);
        Ok(())
    }

    fn sample(&mut self, archive: &Path, file: &File, percent: u8, progress: &Progress) -> Result<()> {
        let index = index_of(archive);
        let mut reader = Reader::open(&index)?;
        while let Some(indexed) = reader.entry()? {
            self.stop.check()?;
            if indexed.entry.kind == Kind::File && chosen(percent)? {
                self.one(file, &indexed)?;
                progress.say("verifying", self.bytes, None);
            }
        }
        let size = file.metadata().context("asking for its size")?.len();
        if let Some(trailer) = reader.trailer().filter(|trailer| trailer.archive.size != size) {
            self.trouble.push(format!("the archive has {size} bytes, and its index says {}", trailer.archive.size));
        }
        Ok(())
    }

    fn one(&mut self, file: &File, indexed: &Indexed) -> Result<()> {
        let shown = printable(indexed.entry.path.as_os_str().as_bytes());
        let stop = self.stop;
        let read = entries::some(file, indexed.place, 1, stop, &mut |described, content| {
            if !same(indexed, &described.entry) {
                self.trouble.push(format!("{shown} is something else in the archive than in the index"));
            }
            self.content(&described, indexed.sha256, content)
        })?;
        if let Err(why) = read {
            self.trouble.push(format!("{shown} can't be read: {}", printable(why.as_bytes())));
        }
        Ok(())
    }

    /// Reads a content and compares its sum; gives why it couldn't be read to its end.
    fn content(&mut self, described: &Described, expected: Option<[u8; 32]>, content: &mut dyn Read) -> Result<Option<String>> {
        if described.entry.kind != Kind::File {
            return Ok(None);
        }
        let mut sum = Sha256::new();
        let mut left = described.stored;
        while left > 0 {
            self.stop.check()?;
            match content.read(&mut self.buffer) {
                Ok(0) => return Ok(Some(format!("{left} bytes of a file are missing"))),
                Ok(length) => {
                    sum.update(&self.buffer[..length]);
                    left = left.saturating_sub(length as u64);
                }
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
        self.files += 1;
        self.bytes += described.stored;
        if expected.is_some_and(|expected| expected != sum.finish()) {
            let shown = printable(described.entry.path.as_os_str().as_bytes());
            self.trouble.push(format!("the content of {shown} isn't what its index says"));
        }
        Ok(None)
    }
}

/// Whether chance takes this one: `percent` of all.
fn chosen(percent: u8) -> Result<bool> {
    let mut random = [0; 4];
    rand_bytes(&mut random).context("drawing a random number")?;
    Ok(u64::from(u32::from_le_bytes(random)) * 100 < u64::from(percent) << 32)
}
