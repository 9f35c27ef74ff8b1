//! The payload of a LUKS2 volume, written in user space: AES-256-XTS, block by block, with no device-mapper.
//!
//! As dm-crypt does it for `aes-xts-plain64` with 4096-byte sectors: the tweak is the little-endian number of the 512-byte
//! sector, counted from the start of the payload (LUKS2 doesn't set `iv_large_sectors`). Only blocks in use are written;
//! the rest of the image stays a hole.

use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;

use anyhow::{Context, Result};
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;

use crate::luks::SECTOR_SIZE;
use crate::secret::Secret;

/// Bytes of a block: one encryption sector, one block of the file system.
pub const BLOCK_SIZE: usize = SECTOR_SIZE as usize;
/// Blocks that a worker takes at a time: 1 MiB.
const BATCH: u64 = 256;

/// Which way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a plain file into a volume.
    Encrypt,
    /// From a volume into a plain file.
    Decrypt,
}

/// A file and where its block 0 begins, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// The file.
    pub file: &'a File,
    /// The offset of block 0.
    pub start: u64,
}

/// Carries `blocks` (ranges of block numbers) from one file to another through the cipher, on every core.
///
/// A block beyond the end of `from` is read as zeros.
pub fn convert(direction: Direction, key: &Secret<Vec<u8>>, from: Blocks, to: Blocks, blocks: &[Range<u64>]) -> Result<()> {
    let batches: Vec<Range<u64>> = blocks.iter().flat_map(batches).collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|first| {
                let mine = batches.iter().skip(first).step_by(workers);
                scope.spawn(move || convert_batches(direction, key, from, to, mine))
            })
            .collect();
        running.into_iter().try_for_each(|worker| worker.join().expect("a worker doesn't panic"))
    })
}

fn batches(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.clone().step_by(usize::try_from(BATCH).expect("a small number")).map(move |start| start..end.min(start + BATCH))
}

fn convert_batches<'a>(
    direction: Direction,
    key: &Secret<Vec<u8>>,
    from: Blocks,
    to: Blocks,
    batches: impl Iterator<Item = &'a Range<u64>>,
) -> Result<()> {
    let mut cipher = CipherCtx::new().context("preparing the cipher")?;
    let aes = Some(Cipher::aes_256_xts());
    match direction {
        Direction::Encrypt => cipher.encrypt_init(aes, Some(key.expose()), None),
        Direction::Decrypt => cipher.decrypt_init(aes, Some(key.expose()), None),
    }
    .context("keying the cipher")?;
    for batch in batches {
        let length = usize::try_from(batch.end - batch.start).expect("a batch is small") * BLOCK_SIZE;
        let mut buffer = vec![0; length];
        read_padded(from, batch.start, &mut buffer).context("reading the payload")?;
        for (number, block) in batch.clone().zip(buffer.chunks_exact_mut(BLOCK_SIZE)) {
            let tweak = u128::from(number * (BLOCK_SIZE as u64 / 512)).to_le_bytes();
            match direction {
                Direction::Encrypt => cipher.encrypt_init(None, None, Some(&tweak)),
                Direction::Decrypt => cipher.decrypt_init(None, None, Some(&tweak)),
            }
            .and_then(|()| cipher.cipher_update_inplace(block, BLOCK_SIZE))
            .context("ciphering a block")?;
        }
        to.file.write_all_at(&buffer, to.start + batch.start * BLOCK_SIZE as u64).context("writing the payload")?;
    }
    Ok(())
}

fn read_padded(from: Blocks, block: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut offset = from.start + block * BLOCK_SIZE as u64;
    let mut rest = buffer;
    while !rest.is_empty() {
        match from.file.read_at(rest, offset)? {
            0 => return Ok(()),
            read => {
                offset += read as u64;
                rest = &mut rest[read..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::{BLOCK_SIZE, Blocks, Direction, convert};
    use crate::keys::keyfile::random;
    use crate::secret::Secret;

    #[test]
    fn used_blocks_come_back_and_unused_ones_stay_holes() {
        let key = random(64).unwrap();
        let (plain, cipher, back) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let content: Vec<u8> = (0..600 * BLOCK_SIZE).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        plain.write_all_at(&content, 0).unwrap();
        let used = [0..300, 310..311, 599..601];
        let at = |file, start| Blocks { file, start };
        convert(Direction::Encrypt, &key, at(&plain, 0), at(&cipher, 4096), &used).unwrap();
        convert(Direction::Decrypt, &key, at(&cipher, 4096), at(&back, 0), &used).unwrap();

        let mut block = [1_u8; BLOCK_SIZE];
        cipher.read_exact_at(&mut block, 4096 + 305 * BLOCK_SIZE as u64).unwrap();
        assert!(block.iter().all(|byte| *byte == 0), "an unused block was written");
        for number in [0, 299, 310, 599_usize] {
            back.read_exact_at(&mut block, (number * BLOCK_SIZE) as u64).unwrap();
            assert_eq!(block[..], content[number * BLOCK_SIZE..][..BLOCK_SIZE], "block {number}");
        }
        back.read_exact_at(&mut block, 600 * BLOCK_SIZE as u64).unwrap();
        assert!(block.iter().all(|byte| *byte == 0), "a block past the end isn't zeros");
        let wrong = Secret::new(vec![7; 64]);
        assert!(convert(Direction::Encrypt, &wrong, at(&plain, 0), at(&cipher, 0), &used).is_err(), "equal halves are refused");
    }
}
