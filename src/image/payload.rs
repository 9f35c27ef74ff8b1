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

/// Bytes of a tweak: what Adiantum takes, and the front of it that XTS does.
const TWEAK: usize = 32;
const AES_TWEAK: usize = 16;

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
pub struct Sectors(Keyed);

enum Keyed {
    Aes(Direction, CipherCtx),
    Adiantum(Direction, Box<adiantum::Cipher<XChaCha12, Aes256>>),
}

impl Sectors {
    /// # Errors
    /// The key isn't one of its cipher.
    pub fn new(direction: Direction, key: &VolumeKey) -> Result<Self> {
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
                Ok(Self(Keyed::Aes(direction, context)))
            }
            Cipher::Adiantum => {
                let key = Array::slice_as_array(bytes).context("the key's length")?;
                Ok(Self(Keyed::Adiantum(direction, Box::new(adiantum::Cipher::new(key)))))
            }
        }
    }

    /// Converts one block in place; `sector` is the number of its first 512 bytes.
    ///
    /// # Errors
    /// The cipher fails.
    pub fn convert(&mut self, sector: u64, block: &mut [u8]) -> Result<()> {
        let mut tweak = [0; TWEAK];
        tweak[..8].copy_from_slice(&sector.to_le_bytes());
        self.convert_under(&tweak, block)
    }

    /// The same under any tweak.
    fn convert_under(&mut self, tweak: &[u8; TWEAK], block: &mut [u8]) -> Result<()> {
        match &mut self.0 {
            Keyed::Aes(direction, context) => {
                let tweak = Some(&tweak[..AES_TWEAK]);
                match direction {
                    Direction::Encrypt => context.encrypt_init(None, None, tweak)?,
                    Direction::Decrypt => context.decrypt_init(None, None, tweak)?,
                }
                context.cipher_update_inplace(block, block.len())?;
            }
            Keyed::Adiantum(direction, cipher) => match direction {
                Direction::Encrypt => cipher.encrypt(block, tweak),
                Direction::Decrypt => cipher.decrypt(block, tweak),
            },
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
    use std::ops::Range;
    use std::os::unix::fs::FileExt;

    use aes::Aes256;
    use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{BLOCK_SIZE, Blocks, Direction, Sectors, TWEAK, VolumeKey, convert};
    use crate::digest::unhex;
    use crate::keys::keyfile::random;
    use crate::luks::cipher::Cipher;
    use crate::secret::Secret;

    #[test]
    fn used_blocks_come_back_and_unused_ones_stay_holes() {
        for cipher in [Cipher::Aes, Cipher::Adiantum] {
            there_and_back(cipher);
        }
    }

    /// Key, tweak, plain text and cipher text, in hexadecimal.
    fn agrees(cipher: Cipher, key: &str, tweak: &str, plain: &[u8], expected: &str) {
        let secret = Secret::new(unhex(key).unwrap());
        let key = VolumeKey { cipher, key: &secret };
        let mut full = [0; TWEAK];
        let tweak = unhex(tweak).unwrap();
        full[..tweak.len()].copy_from_slice(&tweak);
        let mut block = plain.to_vec();
        Sectors::new(Direction::Encrypt, &key).unwrap().convert_under(&full, &mut block).unwrap();
        let (front, end) = expected.split_once("...").unwrap_or((expected, ""));
        assert!(block.starts_with(&unhex(front).unwrap()) && block.ends_with(&unhex(end).unwrap()), "{cipher:?}");
        Sectors::new(Direction::Decrypt, &key).unwrap().convert_under(&full, &mut block).unwrap();
        assert_eq!(block, plain);
    }

    /// IEEE Std 1619-2007, annex B, vector 10, and the vectors "Random (1)" and "Random (3)" that Adiantum's authors publish for
    /// `XChaCha12` with AES-256 and a tweak of 32 bytes.
    #[test]
    fn published_vectors_come_out() {
        let all_bytes: Vec<u8> = (0..=255).cycle().take(512).collect();
        agrees(
            Cipher::Aes,
            "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
            "ff00000000000000",
            &all_bytes,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b...2fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
        );
        agrees(
            Cipher::Adiantum,
            "9eebb2493c1cf5f46a99c2c4dfb1f4dd752057ea2c4fcdb2a53d7b491eabfd0f",
            "df63d4abd249f3d8338137607dfa7308d8496d80e82f6254eb0ea9395b457f8a",
            &unhex("67c9f23084418e43fbf3b33e79367fe8").unwrap(),
            "6d32861867860f3f967c9d280d53ec9f",
        );
        agrees(
            Cipher::Adiantum,
            "182e46fa302a59c0f6f1c695c8aecb846b1c603d336a301ae4aef00157739bbe",
            "e9fd4e4e7a5f2385b5e50957528ee17595790c41a743fbb662c5bf4b49c800d7",
            &unhex("c44647c98d10a9ac3296cfa32362efa5c67b11aa6991d073a08896d0df6ef11141f35a06fc13272463f3178418d2b6f7ca6b3284eb96317a95a4c6a192adc344eb881a160f482b9efd8546cf5cd56951dc2db3fd41704568ad03b4e81101d5fde020121f97bd7b67e907a1f31c59002e336bf29fd6fb6dc2cf9845db77f6ab60").unwrap(),
            "044d7fd458a2c3adb435f0edd977282bcd39b16d77db12c15cfd5781aea179669157af23453901769e4daba65bbf999f5019a82297cad9124df22b9e101fbb9e33e29f1848a694680b7fb0e25ef7fd68240254811788c3d4346c79b265f5bda63e9fee549b1391262e7b6e581b72e3176ff9ba76405c9af9526a6d5517de52fc",
        );
    }

    /// One block as IEEE 1619 words it: each 16 bytes under the tweak's encryption, doubled in GF(2^128) from one to the next.
    fn xts(key: &[u8], block_number: u64, block: &[u8]) -> Vec<u8> {
        let (data, tweak) = key.split_at(32);
        let [data, tweak] = [data, tweak].map(|key| Aes256::new_from_slice(key).unwrap());
        let mut mask = u128::from(block_number * 8).to_le_bytes().into();
        tweak.encrypt_block(&mut mask);
        let mut mask = u128::from_le_bytes(mask.into());
        let mut out = Vec::new();
        for part in block.chunks_exact(16) {
            let mut part = (u128::from_le_bytes(part.try_into().unwrap()) ^ mask).to_le_bytes().into();
            data.encrypt_block(&mut part);
            out.extend((u128::from_le_bytes(part.into()) ^ mask).to_le_bytes());
            mask = (mask << 1) ^ if mask >> 127 == 1 { 0x87 } else { 0 };
        }
        out
    }

    fn some_ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((1..40_u64, 1..300_u64), 1..6).prop_map(|parts| {
            let mut at = 0;
            parts
                .into_iter()
                .map(|(gap, length)| {
                    at += gap + length;
                    at - length..at
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 24, ..proptest::test_runner::Config::default() })]

        #[test]
        fn whatever_blocks_are_used_each_is_its_own_and_no_other_is_touched(
            ranges in some_ranges(), seed in any::<u64>(), is_aes in any::<bool>(),
        ) {
            let cipher = if is_aes { Cipher::Aes } else { Cipher::Adiantum };
            let secret = random(cipher.key_size()).unwrap();
            let key = VolumeKey { cipher, key: &secret };
            let end = usize::try_from(ranges.last().unwrap().end).unwrap();
            let mut state = seed | 1;
            let mut byte = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state.to_le_bytes()[3] };
            let content: Vec<u8> = (0..end * BLOCK_SIZE).map(|_| byte()).collect();
            let noise = [0xa5; BLOCK_SIZE];
            let (plain, volume) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            plain.write_all_at(&content, 0).unwrap();
            volume.write_all_at(&noise.repeat(end), 0).unwrap();
            let at = |file| Blocks { file, start: 0 };
            convert(Direction::Encrypt, &key, at(&plain), at(&volume), &ranges).unwrap();
            let mut alone = Sectors::new(Direction::Encrypt, &key).unwrap();
            for number in 0..end {
                let mut found = [0; BLOCK_SIZE];
                volume.read_exact_at(&mut found, (number * BLOCK_SIZE) as u64).unwrap();
                if !ranges.iter().any(|range| range.contains(&(number as u64))) {
                    prop_assert!(found == noise, "block {} was touched", number);
                    continue;
                }
                let block = &content[number * BLOCK_SIZE..][..BLOCK_SIZE];
                let expected = if is_aes {
                    xts(secret.expose(), number as u64, block)
                } else {
                    let mut block = block.to_vec();
                    alone.convert(number as u64 * 8, &mut block).unwrap();
                    block
                };
                prop_assert_eq!(&found[..], &expected[..], "block {}", number);
            }
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
