//! Sealing a file into the outbox, and the sums of what was sealed.
//!
//! What was written isn't synced: a sealed file that a power cut has spoiled is told by its sum before it is used.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use openssl::sha::Sha256;

use super::pieces;
use crate::digest::{Sum, Summing};
use crate::openpgp::Recipients;
use crate::progress::Progress;
use crate::stop::Stop;

/// What sealing adds at most to a file, but for one byte in a thousand: headers, and a session key for each recipient.
const HEADERS: u64 = 64 << 10;

/// A sealed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where it is.
    pub path: PathBuf,
    /// Its size and SHA-256.
    pub sum: Sum,
    /// How long its pieces are, but the last.
    pub piece: u64,
}

/// How large a file of `size` bytes is at most when it is sealed.
pub fn largest(size: u64) -> u64 {
    size + size / 1000 + HEADERS
}

/// Seals `file` for `recipients` to be `to`, which is replaced.
///
/// # Errors
/// Reading, sealing or writing failed, or a stop was asked for.
pub fn seal(file: &Path, to: &Path, recipients: &Recipients, stop: &Stop, progress: &Progress) -> Result<Sealed> {
    let sealing = || format!("sealing {}", file.display());
    let content = File::open(file).with_context(sealing)?;
    let total = content.metadata().with_context(sealing)?.len();
    let mut content = Watched { file: content, done: 0, total, stop, progress };
    let mut options = OpenOptions::new();
    let out = options.write(true).create(true).truncate(true).mode(0o600).open(to);
    let out = out.with_context(|| format!("creating {}", to.display()))?;
    let mut out = Summing::new(BufWriter::with_capacity(1 << 16, out));
    recipients.seal(&mut content, &mut out, false).with_context(sealing)?;
    let sum = out.finish().with_context(|| format!("writing {}", to.display()))?;
    Ok(Sealed { path: to.to_owned(), sum, piece: pieces::length_for(sum.size) })
}

impl Sealed {
    /// Reads all of it, gives `piece` the SHA-256 of each piece in their order, as long as it returns true, and then returns
    /// the sum of all.
    ///
    /// # Errors
    /// It can't be read, or a stop was asked for.
    pub fn sums(&self, stop: &Stop, mut piece: impl FnMut([u8; 32]) -> bool) -> Result<Sum> {
        let reading = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).with_context(reading)?;
        let (mut whole, mut size, mut block) = (Sha256::new(), 0, vec![0; 1 << 18]);
        loop {
            let (mut part, mut left) = (Sha256::new(), self.piece);
            while left > 0 {
                stop.check()?;
                let wanted = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let length = file.read(&mut block[..wanted]).with_context(reading)?;
                if length == 0 {
                    break;
                }
                whole.update(&block[..length]);
                part.update(&block[..length]);
                size += length as u64;
                left -= length as u64;
            }
            let (is_empty, is_last) = (left == self.piece && size > 0, left > 0);
            if (!is_empty && !piece(part.finish())) || is_last {
                return Ok(Sum { size, sha256: whole.finish() });
            }
        }
    }

    /// The SHA-256 of each piece, of a file that is still what was sealed.
    ///
    /// # Errors
    /// It isn't, it can't be read, or a stop was asked for.
    pub fn proven_sums(&self, stop: &Stop) -> Result<Vec<[u8; 32]>> {
        let mut sums = Vec::new();
        let sum = self.sums(stop, |sum| {
            sums.push(sum);
            true
        })?;
        self.require(&sum)?;
        Ok(sums)
    }

    /// Makes sure that `sum`, which was just read, is the one from sealing.
    ///
    /// # Errors
    /// It isn't.
    pub fn require(&self, sum: &Sum) -> Result<()> {
        ensure!(*sum == self.sum, "{} isn't what was sealed any more: the disk has changed it", self.path.display());
        Ok(())
    }

    /// Whether the file is still what was sealed.
    ///
    /// # Errors
    /// A stop was asked for.
    pub fn is_whole(&self, stop: &Stop) -> Result<bool> {
        let sum = self.sums(stop, |_| true);
        stop.check()?;
        Ok(sum.is_ok_and(|sum| sum == self.sum))
    }
}

/// A file that says how far it is read, and ends with an error when a stop is asked for.
struct Watched<'a> {
    file: File,
    done: u64,
    total: u64,
    stop: &'a Stop,
    progress: &'a Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let length = self.file.read(buffer)?;
        self.done += length as u64;
        self.progress.say("sealing", self.done, Some(self.total));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use openssl::sha::sha256;

    use super::{Sealed, seal};
    use crate::digest::Sum;
    use crate::openpgp::{Recipients, tests::recipient};
    use crate::progress::Progress;
    use crate::stop::Stop;

    #[test]
    fn sums_are_of_all_and_of_each_piece() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        for (size, lengths) in [(0, vec![0]), (9, vec![9]), (10, vec![10]), (11, vec![10, 1]), (30, vec![10; 3])] {
            let bytes = &bytes[..size];
            fs::write(file.path(), bytes).unwrap();
            let sum = Sum { size: size as u64, sha256: sha256(bytes) };
            let sealed = Sealed { path: file.path().to_owned(), sum, piece: 10 };
            let mut found = Vec::new();
            let told = sealed.sums(&Stop::default(), |piece| {
                found.push(piece);
                true
            });
            assert_eq!(told.unwrap(), sum);
            let mut expected = Vec::new();
            lengths.iter().fold(0, |at, length| {
                expected.push(sha256(&bytes[at..at + length]));
                at + length
            });
            assert_eq!(found, expected, "{size}");
            assert!(sealed.is_whole(&Stop::default()).unwrap());
            fs::write(file.path(), "other").unwrap();
            assert!(!sealed.is_whole(&Stop::default()).unwrap());
        }
        fs::remove_file(file.path()).unwrap();
        let gone = Sealed { path: file.path().to_owned(), sum: Sum { size: 0, sha256: [0; 32] }, piece: 10 };
        assert!(!gone.is_whole(&Stop::default()).unwrap());
    }

    #[test]
    fn a_sealed_file_has_the_sum_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("1.tar.gz"), folder.path().join("1.tar.gz.pgp"));
        fs::write(&file, vec![7; 3_000_000]).unwrap();
        let recipients = Recipients::at(&[recipient(SystemTime::now())], SystemTime::now());
        let sealed = seal(&file, &to, &recipients, &Stop::default(), &Progress::default()).unwrap();
        let bytes = fs::read(&to).unwrap();
        assert!(bytes.len() > 3_000_000 && bytes.len() as u64 <= super::largest(3_000_000), "{}", bytes.len());
        assert_eq!((sealed.sum.size, sealed.sum.sha256), (bytes.len() as u64, sha256(&bytes)));
        assert!(sealed.is_whole(&Stop::default()).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);

        let stop = Stop::default();
        stop.request();
        let error = seal(&file, &to, &recipients, &stop, &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").ends_with("interrupted by a signal"), "{error:#}");
        // Every write to this device fails.
        let error = seal(&file, "/dev/full".as_ref(), &recipients, &Stop::default(), &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").contains("No space left"), "{error:#}");
    }
}
