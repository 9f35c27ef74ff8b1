//! Files with holes (lseek(2), `SEEK_DATA`): where their data is, and reading them without what isn't there. The kernel would fill
//! a page of memory with zeros for each page of a hole.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The first stretch of data at or behind `from`, in bytes; none when there are but holes up to `size`, the file's end.
///
/// # Errors
/// The file system doesn't say.
pub fn data_from(file: &File, from: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |from: u64, whence| match lseek(file, i64::try_from(from).map_err(io::Error::other)?, whence) {
        Ok(found) => Ok(u64::try_from(found).map_err(io::Error::other)?.min(size)),
        // There is no data behind this place.
        Err(Errno::ENXIO) => Ok(size),
        Err(error) => Err(io::Error::from(error)),
    };
    if from >= size {
        return Ok(None);
    }
    let begin = seek(from, Whence::SeekData)?;
    if begin == size {
        return Ok(None);
    }
    Ok(Some(begin..seek(begin, Whence::SeekHole)?))
}

/// A file from its beginning to the end that it had when it was opened. One that becomes shorter meanwhile, or gets a hole
/// where it is being read, is an error.
pub struct Reader {
    file: File,
    at: u64,
    size: u64,
    /// The stretch of data that comes next, or that is being read.
    data: Range<u64>,
}

impl Reader {
    /// # Errors
    /// It isn't there, or can't be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, at: 0, size, data: 0..0 })
    }

    /// How many bytes it gives in all.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.data.end {
            self.data = data_from(&self.file, self.at, self.size)?.unwrap_or(self.size..self.size);
            // What is gone at the end would look like a hole, and so would a stretch that has just become one.
            if self.file.metadata()?.len() < self.size || self.data.is_empty() && self.data.end < self.size {
                return Err(changed());
            }
        }
        let end = if self.at < self.data.start { self.data.start } else { self.data.end };
        let length = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = if self.at < self.data.start {
            buffer[..length].fill(0);
            length
        } else {
            self.file.read_at(&mut buffer[..length], self.at)?
        };
        if read == 0 && length > 0 {
            return Err(changed());
        }
        self.at += read as u64;
        Ok(read)
    }
}

fn changed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it was changed while it was read")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;

    use super::{Reader, data_from};

    #[test]
    fn a_file_with_holes_reads_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // Holes in front, between and behind; none; nothing but one; nothing at all.
        for (size, pieces) in [
            (1 << 20, &[(8192, 5000), (1 << 18, 4096)][..]),
            (10_000, &[(0, 10_000)]),
            (1 << 20, &[]),
            (0, &[]),
            (9000, &[(8192, 808)]),
        ] {
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            for (at, length) in pieces {
                file.write_all_at(&vec![7; *length], *at).unwrap();
            }
            let mut read = Vec::new();
            Reader::open(&path).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == fs::read(&path).unwrap(), "{size} {pieces:?}");
            let first = pieces.first().map(|(at, _)| *at);
            assert_eq!(data_from(&File::open(&path).unwrap(), 0, size).unwrap().map(|data| data.start), first);
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_is_not_taken_for_one_with_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 10_000]).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("it was changed while"), "{error}");
    }
}
