//! Size and SHA-256 of what goes by.

use std::io::{self, Write};

use openssl::sha::Sha256;

/// The size and the SHA-256 of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// How many bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

/// Passes bytes on, and counts and hashes them.
pub struct Summing<W> {
    out: W,
    size: u64,
    sha256: Sha256,
}

impl<W: Write> Summing<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, size: 0, sha256: Sha256::new() }
    }

    /// How many bytes went by so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Flushes, and gives the sum of all that went by.
    pub fn finish(mut self) -> io::Result<Sum> {
        self.out.flush()?;
        Ok(Sum { size: self.size, sha256: self.sha256.finish() })
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.size += length as u64;
        self.sha256.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::Summing;
    use crate::digest::hex;

    #[test]
    fn the_sum_is_that_of_sha256sum_and_the_bytes_go_through() {
        let mut out = Vec::new();
        let mut summing = Summing::new(&mut out);
        summing.write_all(b"im").unwrap();
        summing.write_all(b"g").unwrap();
        assert_eq!(summing.size(), 3);
        let sum = summing.finish().unwrap();
        assert_eq!(
            (sum.size, hex(&sum.sha256).as_str()),
            (3, "b29814cf5792e684cd75d6a7fce7a67a11887e312f87ca2ac2496d81f365ff72")
        );
        assert_eq!(out, b"img");
    }
}
