//! How fast one core encrypts a payload, in MiB a second: a line for each cipher. `benches/image.py` sets them beside OpenSSL's
//! own measurement.

use std::time::Instant;

use vaultberry::image::payload::{BLOCK_SIZE, Direction, Sectors, VolumeKey};
use vaultberry::keys::keyfile::random;
use vaultberry::luks::cipher::Cipher;

/// Blocks of a pass: 64 MiB, more than any cache holds.
const BLOCKS: u64 = 16_384;
const PASSES: u32 = 8;

fn main() {
    let mut content = vec![0x5a; usize::try_from(BLOCKS).expect("a small number") * BLOCK_SIZE];
    for cipher in [Cipher::Aes, Cipher::Adiantum] {
        let key = random(cipher.key_size()).expect("the kernel gives random bytes");
        let mut sectors = Sectors::new(Direction::Encrypt, &VolumeKey { cipher, key: &key }).expect("the key fits");
        let best = (0..PASSES).map(|_| {
            let begun = Instant::now();
            for (block, number) in content.chunks_exact_mut(BLOCK_SIZE).zip(0..) {
                sectors.convert(number * 8, block).expect("the cipher works");
            }
            begun.elapsed()
        });
        let best = best.min().expect("there is a pass").as_secs_f64();
        println!("{} {:.0}", cipher.name(), 64.0 / best);
    }
}
