//! AES-256 in cipher feedback mode (NIST SP 800-38A section 6.3) from an all-zero IV, which is what OpenPGP's container is
//! encrypted with, at the speed of cipher block chaining, which OpenSSL has in assembler for each processor.
//!
//! The two are one chain. With `y[i] = E(p[i] ^ y[i-1])`, which is what CBC puts out for the IV `y[0]`, CFB is
//! `c[i] = p[i] ^ E(c[i-1]) = p[i] ^ y[i-1]`, where `y[0]` is the encrypted IV of CFB.

use anyhow::Result;
use openssl::symm::{Cipher, Crypter, Mode, encrypt};

/// The block size of AES, in bytes.
pub const BLOCK: usize = 16;

/// A stream that is being encrypted.
pub struct Cfb {
    cbc: Crypter,
    /// What the next block of plain text is combined with.
    last: [u8; BLOCK],
}

impl Cfb {
    /// Begins with this key of 32 bytes.
    ///
    /// # Errors
    /// OpenSSL doesn't want to.
    pub fn new(key: &[u8]) -> Result<Self> {
        let mut last = [0; BLOCK];
        // Padding makes two blocks of it.
        let encrypted = encrypt(Cipher::aes_256_ecb(), key, None, &last)?;
        last.copy_from_slice(&encrypted[..BLOCK]);
        let mut cbc = Crypter::new(Cipher::aes_256_cbc(), Mode::Encrypt, key, Some(&last))?;
        cbc.pad(false);
        Ok(Self { cbc, last })
    }

    /// The next whole blocks, encrypted.
    ///
    /// # Errors
    /// OpenSSL doesn't want to.
    pub fn encrypt(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        debug_assert!(plain.len().is_multiple_of(BLOCK));
        let mut chain = vec![0; plain.len() + 2 * BLOCK];
        chain[..BLOCK].copy_from_slice(&self.last);
        self.cbc.update(plain, &mut chain[BLOCK..])?;
        self.last.copy_from_slice(&chain[plain.len()..plain.len() + BLOCK]);
        chain.truncate(plain.len());
        chain.iter_mut().zip(plain).for_each(|(chain, plain)| *chain ^= plain);
        Ok(chain)
    }

    /// The end, of any length, encrypted.
    ///
    /// # Errors
    /// OpenSSL doesn't want to.
    pub fn finish(mut self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut padded = plain.to_vec();
        padded.resize(plain.len().next_multiple_of(BLOCK), 0);
        let mut sealed = self.encrypt(&padded)?;
        sealed.truncate(plain.len());
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use openssl::symm::{Cipher, encrypt};

    use super::Cfb;

    #[test]
    fn it_is_what_openssl_calls_cfb() {
        let mut random = vec![0; 5000];
        openssl::rand::rand_bytes(&mut random).unwrap();
        let (key, plain) = random.split_at(32);
        for (blocks, rest) in [(0, 0), (0, 1), (1, 0), (1, 15), (3, 16), (100, 33), (300, 7)] {
            let plain = &plain[..blocks * 16 + rest];
            let mut cfb = Cfb::new(key).unwrap();
            let mut sealed = Vec::new();
            for stretch in plain[..blocks * 16].chunks(48) {
                sealed.extend(cfb.encrypt(stretch).unwrap());
            }
            sealed.extend(cfb.finish(&plain[blocks * 16..]).unwrap());
            let expected = encrypt(Cipher::aes_256_cfb128(), key, Some(&[0; 16]), plain).unwrap();
            assert_eq!(sealed, expected, "{blocks} {rest}");
        }
    }
}
