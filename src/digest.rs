//! SHA-256 and sizes: of streams as they go by, of files, and as text.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use openssl::sha::Sha256;

use crate::sparse;

/// Lower-case hexadecimal digits, two for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string doesn't fail");
        text
    })
}

/// The bytes that such digits stand for; none when it's something else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if let &[high, low] = pair { Some(digit(high)? << 4 | digit(low)?) } else { None }).collect()
}

/// The SHA-256 of a file's content, as sha256sum(1) writes it.
pub fn sha256_of(path: &Path) -> Result<String> {
    let reading = || format!("reading {}", path.display());
    let mut file = sparse::Reader::open(path).with_context(reading)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(reading)? {
            0 => return Ok(hex(&hash.finish())),
            read => hash.update(&buffer[..read]),
        }
    }
}

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
    use std::io::Write as _;

    use super::{Summing, hex, sha256_of, unhex};

    #[test]
    fn only_pairs_of_lower_case_digits_are_read_back() {
        assert_eq!(unhex(&hex(&[0, 0x9f, 0xff])).unwrap(), [0, 0x9f, 0xff]);
        assert_eq!(["0", "0g", "AB", " 1"].map(unhex), [const { None }; 4]);
    }

    #[test]
    fn a_file_s_sum_is_that_of_sha256sum() {
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "img").unwrap();
        assert_eq!(sha256_of(file.path()).unwrap(), "b29814cf5792e684cd75d6a7fce7a67a11887e312f87ca2ac2496d81f365ff72");
    }

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
