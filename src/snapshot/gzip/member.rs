//! One block of bytes as gzip members.
//!
//! Photos, films and what is compressed or encrypted already can't be made smaller, and trying takes the time that all the rest does. So a
//! block is looked at in pieces: where each byte value is about as frequent as any other, the pieces are stored as they are. That is
//! judged by the sum of the squares of the counts in a sample, in whole numbers, so that every machine judges alike.

use libdeflater::{CompressionLvl, Compressor};

/// How much is judged as one, in bytes.
const PIECE: usize = 128 << 10;

/// A sample is this many slices of a piece…
const SLICES: usize = 16;

/// … of this many bytes.
const SLICE: usize = 512;

/// As small as gzip -6, on source code, at four times its speed.
const LEVEL: i32 = 6;

/// Makes gzip members.
pub(super) struct Packer {
    compress: Compressor,
    store: Compressor,
}

impl Packer {
    pub(super) fn new() -> Self {
        let of = |level| Compressor::new(CompressionLvl::new(level).expect("libdeflate has this level"));
        Self { compress: of(LEVEL), store: of(0) }
    }

    /// Puts `plain` into `packed` as one member or some.
    pub(super) fn pack(&mut self, plain: &[u8], packed: &mut Vec<u8>) {
        packed.clear();
        let mut rest = plain;
        while !rest.is_empty() {
            let (noise, length) = run(rest);
            let (member, after) = rest.split_at(length);
            rest = after;
            let compressor = if noise { &mut self.store } else { &mut self.compress };
            let begin = packed.len();
            packed.resize(begin + compressor.gzip_compress_bound(length), 0);
            let written = compressor.gzip_compress(member, &mut packed[begin..]).expect("there is as much room as it asked for");
            packed.truncate(begin + written);
        }
    }
}

/// How far the beginning of `bytes` is all of one kind, and whether that is noise.
fn run(bytes: &[u8]) -> (bool, usize) {
    let mut pieces = bytes.chunks(PIECE);
    let first = pieces.next().unwrap_or_default();
    let noise = is_noise(first);
    let same = pieces.take_while(|piece| is_noise(piece) == noise).map(<[u8]>::len).sum::<usize>();
    (noise, first.len() + same)
}

/// Whether compressing `piece` isn't worth the time. In noise the sum of the squares is about `n + n²/256`; text has some
/// twenty times as much, and with 15 % more than noise there are less than three per cent to be gained.
fn is_noise(piece: &[u8]) -> bool {
    if piece.len() < SLICES * SLICE {
        return false;
    }
    let mut counts = [0_u64; 256];
    for slice in piece.chunks(piece.len() / SLICES).take(SLICES) {
        for &byte in &slice[..SLICE] {
            counts[usize::from(byte)] += 1;
        }
    }
    let length = (SLICES * SLICE) as u64;
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    squares * 100 < (length + length * length / 256) * 115
}

#[cfg(test)]
mod tests {
    use super::{PIECE, SLICE, SLICES, is_noise, run};

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        openssl::rand::rand_bytes(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn noise_is_told_from_what_can_be_made_smaller() {
        assert!(is_noise(&noise(PIECE)) && is_noise(&noise(SLICES * SLICE)));
        assert!(!is_noise(&noise(SLICES * SLICE - 1)));
        assert!(!is_noise(&[]));
        let base64 = openssl::base64::encode_block(&noise(PIECE));
        assert!(!is_noise(base64.as_bytes()));
        let text: Vec<u8> = (0..20_000).flat_map(|number| format!("{number} ").into_bytes()).collect();
        assert!(!is_noise(&text));
        let mut half = noise(PIECE);
        half[..PIECE / 4].fill(0);
        assert!(!is_noise(&half));
    }

    #[test]
    fn a_run_ends_where_the_kind_changes() {
        let bytes = [noise(2 * PIECE), vec![0; PIECE + 5]].concat();
        assert_eq!(run(&bytes), (true, 2 * PIECE));
        assert_eq!(run(&bytes[2 * PIECE..]), (false, PIECE + 5));
        assert_eq!(run(&[1]), (false, 1));
    }
}
