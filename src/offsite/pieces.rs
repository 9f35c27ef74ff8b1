//! The pieces in which a file is sent.

use std::path::Path;

use anyhow::{Context, Result};
use openssl::hash::{Hasher, MessageDigest};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The least length of a piece but the last, in bytes.
const LEAST: u64 = 16 << 20;

/// S3 takes no more parts than this.
const MOST: u64 = 10_000;

/// How much is read at a time.
const BLOCK: usize = 1 << 18;

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From 1, as S3 counts parts.
    pub number: i32,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// How long each piece but the last is, for a file of up to `size` bytes: in whole MiB, so that 10,000 are enough.
pub fn length_for(size: u64) -> u64 {
    size.div_ceil(MOST).next_multiple_of(1 << 20).max(LEAST)
}

/// The pieces of a file of `size` bytes, each `length` bytes long but the last.
pub fn pieces(size: u64, length: u64) -> impl Iterator<Item = Piece> {
    (1..).zip((0..size).step_by(usize::try_from(length).unwrap_or(usize::MAX))).map(move |(number, offset)| Piece {
        number,
        offset,
        length: length.min(size - offset),
    })
}

impl Piece {
    /// The MD5 of this piece of the file `path`: what an `ETag` is made of, and `Content-MD5`.
    ///
    /// # Errors
    /// It can't be read, or is shorter.
    pub fn md5(&self, path: &Path) -> Result<[u8; 16]> {
        let reading = || format!("reading {}", path.display());
        let file = File::open(path).with_context(reading)?;
        let mut md5 = Hasher::new(MessageDigest::md5()).context("beginning an MD5")?;
        let mut block = vec![0; BLOCK];
        let mut done = 0;
        while done < self.length {
            let wanted = block.len().min(usize::try_from(self.length - done).unwrap_or(usize::MAX));
            let block = &mut block[..wanted];
            file.read_exact_at(block, self.offset + done).with_context(reading)?;
            md5.update(block).context("going on with an MD5")?;
            done += wanted as u64;
        }
        let mut sum = [0; 16];
        sum.copy_from_slice(&md5.finish().context("ending an MD5")?);
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, length_for, pieces};

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_cover_a_file_in_at_most_ten_thousand() {
        let all: Vec<Piece> = pieces(40 * MIB + 5, 16 * MIB).collect();
        assert_eq!(
            all,
            [
                Piece { number: 1, offset: 0, length: 16 * MIB },
                Piece { number: 2, offset: 16 * MIB, length: 16 * MIB },
                Piece { number: 3, offset: 32 * MIB, length: 8 * MIB + 5 },
            ]
        );
        for size in [1, 16 * MIB, 160_000 * MIB, 160_000 * MIB + 1, 5 << 40] {
            let (mut end, mut count) = (0, 0);
            for piece in pieces(size, length_for(size)) {
                assert_eq!(piece.offset, end);
                assert!(piece.length > 0);
                (end, count) = (end + piece.length, count + 1);
            }
            assert_eq!(end, size);
            assert!(count <= 10_000, "{size}: {count}");
        }
    }

    #[test]
    fn the_sum_is_that_of_the_stretch() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, [vec![1; 300_000], vec![2; 300_000]].concat()).unwrap();
        let piece = Piece { number: 2, offset: 299_999, length: 300_000 };
        let stretch = [vec![1; 1], vec![2; 299_999]].concat();
        let expected = openssl::hash::hash(openssl::hash::MessageDigest::md5(), &stretch).unwrap();
        assert_eq!(piece.md5(file.path()).unwrap(), *expected);
        assert!(Piece { length: 300_002, ..piece }.md5(file.path()).is_err());
    }
}
