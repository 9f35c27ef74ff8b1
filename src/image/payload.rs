//! The payload of a LUKS2 volume, written in user space, block by block, with no device-mapper.
//!
//! As dm-crypt does it for `plain64` with 4096-byte sectors: the tweak is the little-endian number of the 512-byte sector,
//! counted from the start of the payload (LUKS2 doesn't set `iv_large_sectors`). Only blocks in use are written; the rest of
//! the image stays a hole.

use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;

use adiantum::cipher::KeyInit as _;
use adiantum::cipher::array::Array;
use aes::Aes256;
use anyhow::{Context, Result, ensure};
use chacha20::XChaCha12;
use openssl::cipher_ctx::CipherCtx;

use crate::luks::SECTOR_SIZE;
use crate::luks::cipher::Cipher;
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

/// A volume's key, and what it is a key of.
#[derive(Clone, Copy, Debug)]
pub struct VolumeKey<'a> {
    /// The volume's cipher.
    pub cipher: Cipher,
    /// As many bytes as the cipher takes.
    pub key: &'a Secret<Vec<u8>>,
}

/// Carries `blocks` (ranges of block numbers) from one file to another through the cipher, on every core.
///
/// A block beyond the end of `from` is read as zeros.
pub fn convert(direction: Direction, key: &VolumeKey, from: Blocks, to: Blocks, blocks: &[Range<u64>]) -> Result<()> {
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
    key: &VolumeKey,
    from: Blocks,
    to: Blocks,
    batches: impl Iterator<Item = &'a Range<u64>>,
) -> Result<()> {
    let mut sectors = Sectors::new(direction, key).context("preparing the cipher")?;
    for batch in batches {
        let length = usize::try_from(batch.end - batch.start).expect("a batch is small") * BLOCK_SIZE;
        let mut buffer = vec![0; length];
        read_padded(from, batch.start, &mut buffer).context("reading the payload")?;
        for (number, block) in batch.clone().zip(buffer.chunks_exact_mut(BLOCK_SIZE)) {
            sectors.convert(number * (BLOCK_SIZE as u64 / 512), block).context("ciphering a block")?;
        }
        to.file.write_all_at(&buffer, to.start + batch.start * BLOCK_SIZE as u64).context("writing the payload")?;
    }
    Ok(())
}

/// A keyed cipher with a direction.
enum Sectors {
    Aes(Direction, CipherCtx),
    Adiantum(Direction, Box<adiantum::Cipher<XChaCha12, Aes256>>),
}

impl Sectors {
    fn new(direction: Direction, key: &VolumeKey) -> Result<Self> {
        let bytes = key.key.expose();
        ensure!(bytes.len() == key.cipher.key_size(), "{} takes a key of another length", key.cipher.name());
        match key.cipher {
            Cipher::Aes => {
                let mut context = CipherCtx::new()?;
                let aes = Some(openssl::cipher::Cipher::aes_256_xts());
                match direction {
                    Direction::Encrypt => context.encrypt_init(aes, Some(bytes), None)?,
                    Direction::Decrypt => context.decrypt_init(aes, Some(bytes), None)?,
                }
                Ok(Self::Aes(direction, context))
            }
            Cipher::Adiantum => {
                let key = Array::slice_as_array(bytes).context("the key's length")?;
                Ok(Self::Adiantum(direction, Box::new(adiantum::Cipher::new(key))))
            }
        }
    }

    /// Converts one block in place; `sector` is the number of its first 512 bytes.
    fn convert(&mut self, sector: u64, block: &mut [u8]) -> Result<()> {
        match self {
            Self::Aes(direction, context) => {
                let tweak = u128::from(sector).to_le_bytes();
                match direction {
                    Direction::Encrypt => context.encrypt_init(None, None, Some(&tweak))?,
                    Direction::Decrypt => context.decrypt_init(None, None, Some(&tweak))?,
                }
                context.cipher_update_inplace(block, BLOCK_SIZE)?;
            }
            Self::Adiantum(direction, cipher) => {
                let mut tweak = [0; 32];
                tweak[..8].copy_from_slice(&sector.to_le_bytes());
                match direction {
                    Direction::Encrypt => cipher.encrypt(block, &tweak),
                    Direction::Decrypt => cipher.decrypt(block, &tweak),
                }
            }
        }
        Ok(())
    }
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

    use super::{BLOCK_SIZE, Blocks, Direction, VolumeKey, convert};
    use crate::keys::keyfile::random;
    use crate::luks::cipher::Cipher;
    use crate::secret::Secret;

    #[test]
    fn used_blocks_come_back_and_unused_ones_stay_holes() {
        for cipher in [Cipher::Aes, Cipher::Adiantum] {
            there_and_back(cipher);
        }
    }

    fn there_and_back(cipher: Cipher) {
        let bytes = random(cipher.key_size()).unwrap();
        let key = VolumeKey { cipher, key: &bytes };
        let (plain, volume, back) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let content: Vec<u8> = (0..600 * BLOCK_SIZE).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        plain.write_all_at(&content, 0).unwrap();
        let used = [0..300, 310..311, 599..601];
        let at = |file, start| Blocks { file, start };
        convert(Direction::Encrypt, &key, at(&plain, 0), at(&volume, 4096), &used).unwrap();
        convert(Direction::Decrypt, &key, at(&volume, 4096), at(&back, 0), &used).unwrap();

        let mut block = [1_u8; BLOCK_SIZE];
        volume.read_exact_at(&mut block, 4096 + 305 * BLOCK_SIZE as u64).unwrap();
        assert!(block.iter().all(|byte| *byte == 0), "an unused block was written");
        for number in [0, 299, 310, 599_usize] {
            back.read_exact_at(&mut block, (number * BLOCK_SIZE) as u64).unwrap();
            assert_eq!(block[..], content[number * BLOCK_SIZE..][..BLOCK_SIZE], "block {number}");
        }
        back.read_exact_at(&mut block, 600 * BLOCK_SIZE as u64).unwrap();
        assert!(block.iter().all(|byte| *byte == 0), "a block past the end isn't zeros");
        // Equal halves are refused, and so is a key of another length.
        let wrong = Secret::new(vec![7; if cipher == Cipher::Aes { 64 } else { 64 - 1 }]);
        let wrong = VolumeKey { cipher, key: &wrong };
        assert!(convert(Direction::Encrypt, &wrong, at(&plain, 0), at(&volume, 0), &used).is_err());
    }
}
