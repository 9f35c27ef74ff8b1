//! Unpacking what stands compressed at the front of a buffer, and finding where it ends.
//!
//! An initrd is several segments behind one another, so that the length of a compressed one matters as much as its content.
//! The decoders of gzip (RFC 1952) and zstd (RFC 8878) know it. Neither may unpack to more than [`MAX_UNPACKED`].

use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

/// The most bytes that one segment may unpack to: 1 GiB, twice the memory of the smallest board.
pub const MAX_UNPACKED: u64 = 1 << 30;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Unpacks the gzip member or zstd frame at the front of `bytes`; gives its content and its length, or none when there is
/// neither.
pub fn unpack(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    if bytes.starts_with(&GZIP) {
        gunzip(bytes).map(Some)
    } else if bytes.starts_with(&ZSTD) {
        unzstd(bytes).map(Some)
    } else {
        Ok(None)
    }
}

/// Unpacks the gzip member at the front of `bytes`; gives its content and its length.
fn gunzip(bytes: &[u8]) -> Result<(Vec<u8>, usize)> {
    let mut decoder = GzDecoder::new(bytes);
    let unpacked = read_all(&mut decoder, "unpacking gzip")?;
    let rest = decoder.into_inner().len();
    Ok((unpacked, bytes.len() - rest))
}

/// Unpacks the zstd frame at the front of `bytes`; gives its content and its length.
fn unzstd(bytes: &[u8]) -> Result<(Vec<u8>, usize)> {
    let doing = "unpacking zstd";
    let mut decoder = ZstdDecoder::with_buffer(bytes).context(doing)?.single_frame();
    let unpacked = read_all(&mut decoder, doing)?;
    let rest = decoder.finish().len();
    Ok((unpacked, bytes.len() - rest))
}

fn read_all(decoder: &mut impl Read, doing: &str) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    decoder.take(MAX_UNPACKED + 1).read_to_end(&mut unpacked).context(doing.to_owned())?;
    ensure!(unpacked.len() as u64 <= MAX_UNPACKED, "{doing}: more than {MAX_UNPACKED} bytes come out");
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::{ZSTD, unpack};

    #[test]
    fn a_frame_that_could_grow_without_end_is_refused() {
        // no checksum, a window and no content size; then blocks that repeat one byte
        let mut bomb = ZSTD.to_vec();
        bomb.extend_from_slice(&[0, 0x58]);
        for _ in 0..9000 {
            bomb.extend_from_slice(&[0x02, 0, 0x10, b'x']);
        }
        bomb.extend_from_slice(&[0x03, 0, 0x10, b'x']);
        let error = unpack(&bomb).unwrap_err();
        assert_eq!(error.to_string(), "unpacking zstd: more than 1073741824 bytes come out");
    }

    #[test]
    fn anything_else_is_left_alone() {
        assert_eq!(unpack(b"070701").unwrap(), None);
        assert_eq!(unpack(b"").unwrap(), None);
    }
}
