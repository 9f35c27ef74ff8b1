//! Sealing a file into the outbox: one thread encrypts, another sums and writes, so that a push is as fast as the cipher.
//!
//! What was written isn't synced: a sealed file that a power cut has spoiled is told by its sum before it is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use openssl::sha::Sha256;

use super::pieces;
use crate::digest::Sum;
use crate::openpgp::Recipients;
use crate::progress::Progress;
use crate::stop::Stop;

/// How much goes from one thread to the other at a time, in bytes.
const BLOCK: usize = 1 << 18;

/// How many such blocks may wait.
const WAITING: usize = 8;

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
    /// The SHA-256 of each.
    pub pieces: Vec<[u8; 32]>,
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
    let sums = Sums::new(pieces::length_for(largest(total)));
    let (send, receive) = sync_channel(WAITING);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(move || write(out, sums, &receive));
        let mut ahead = Ahead { block: Vec::with_capacity(BLOCK), send };
        let sealed = recipients.seal(&mut content, &mut ahead, false).and_then(|()| ahead.flush().context("sealing"));
        drop(ahead);
        // Why the writer has ended says more than that it has.
        let written = writer.join().map_err(|_| anyhow!("the thread that writes has ended"))?;
        let written = written.with_context(|| format!("writing {}", to.display()))?;
        sealed.map(|()| written)
    });
    let written = written.with_context(sealing)?;
    Ok(Sealed { path: to.to_owned(), sum: written.sum(), piece: written.length, pieces: written.pieces() })
}

/// The sum of all of the file at `path`.
///
/// # Errors
/// It can't be read, or a stop was asked for.
pub fn sum_of(path: &Path, stop: &Stop) -> Result<Sum> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let (mut sha256, mut size, mut block) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        stop.check()?;
        match file.read(&mut block).with_context(reading)? {
            0 => return Ok(Sum { size, sha256: sha256.finish() }),
            length => {
                sha256.update(&block[..length]);
                size += length as u64;
            }
        }
    }
}

fn write(mut out: File, mut sums: Sums, blocks: &Receiver<Vec<u8>>) -> io::Result<Sums> {
    for block in blocks {
        out.write_all(&block)?;
        sums.add(&block);
    }
    Ok(sums)
}

/// The sums of a stream: of all of it, and of each piece.
struct Sums {
    /// Bytes of a piece.
    length: u64,
    size: u64,
    whole: Sha256,
    piece: Sha256,
    done: Vec<[u8; 32]>,
}

impl Sums {
    fn new(length: u64) -> Self {
        Self { length, size: 0, whole: Sha256::new(), piece: Sha256::new(), done: Vec::new() }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = usize::try_from(self.length - self.size % self.length).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.update(now);
            self.size += now.len() as u64;
            if self.size.is_multiple_of(self.length) {
                self.done.push(std::mem::take(&mut self.piece).finish());
            }
            bytes = later;
        }
    }

    fn sum(&self) -> Sum {
        Sum { size: self.size, sha256: self.whole.clone().finish() }
    }

    fn pieces(mut self) -> Vec<[u8; 32]> {
        if !self.size.is_multiple_of(self.length) || self.size == 0 {
            self.done.push(self.piece.finish());
        }
        self.done
    }
}

/// Gives blocks to the thread that writes.
struct Ahead {
    block: Vec<u8>,
    send: SyncSender<Vec<u8>>,
}

impl Write for Ahead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.send.send(block).map_err(|_| io::Error::other("nothing more can be written"))
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

    use super::{Sums, seal, sum_of};
    use crate::openpgp::{Recipients, tests::recipient};
    use crate::progress::Progress;
    use crate::stop::Stop;

    #[test]
    fn sums_are_of_all_and_of_each_piece() {
        let bytes: Vec<u8> = (0..100).collect();
        for (size, lengths) in [(0, vec![0]), (9, vec![9]), (10, vec![10]), (11, vec![10, 1]), (30, vec![10; 3])] {
            for block in [1, 3, 10, 100] {
                let mut sums = Sums::new(10);
                bytes[..size].chunks(block).for_each(|block| sums.add(block));
                assert_eq!((sums.sum().size, sums.sum().sha256), (size as u64, sha256(&bytes[..size])));
                let mut expected = Vec::new();
                lengths.iter().fold(0, |at, length| {
                    expected.push(sha256(&bytes[at..at + length]));
                    at + length
                });
                assert_eq!(sums.pieces(), expected, "{size} {block}");
            }
        }
    }

    #[test]
    fn a_sealed_file_has_the_sums_that_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("1.tar.gz"), folder.path().join("1.tar.gz.pgp"));
        fs::write(&file, vec![7; 3_000_000]).unwrap();
        let recipients = Recipients::at(&[recipient(SystemTime::now())], SystemTime::now());
        let sealed = seal(&file, &to, &recipients, &Stop::default(), &Progress::default()).unwrap();
        let bytes = fs::read(&to).unwrap();
        assert!(bytes.len() > 3_000_000 && bytes.len() as u64 <= super::largest(3_000_000), "{}", bytes.len());
        assert_eq!((sealed.sum.size, sealed.sum.sha256), (bytes.len() as u64, sha256(&bytes)));
        assert_eq!(sealed.pieces, [sha256(&bytes)]);
        assert_eq!(sum_of(&to, &Stop::default()).unwrap(), sealed.sum);
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);

        let stop = Stop::default();
        stop.request();
        let error = seal(&file, &to, &recipients, &stop, &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").ends_with("interrupted by a signal"), "{error:#}");
        // Every write to this device fails.
        let error = seal(&file, "/dev/full".as_ref(), &recipients, &Stop::default(), &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").contains("writing /dev/full: No space left"), "{error:#}");
    }
}
