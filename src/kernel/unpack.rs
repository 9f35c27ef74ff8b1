//! Unpacking what stands compressed at the front of a buffer, and finding where it ends.
//!
//! An initrd is several segments behind one another, so that the length of a compressed one matters as much as its content.
//! For gzip (RFC 1952) the decoder knows it. For zstd (RFC 8878) it is found by walking over the frame's blocks, which tells how
//! much could come out before anything does. Neither may unpack to more than [`MAX_UNPACKED`].

use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;

/// The most bytes that one segment may unpack to: 1 GiB, twice the memory of the smallest board.
pub const MAX_UNPACKED: u64 = 1 << 30;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// `Block_Maximum_Size` of RFC 8878, section 3.1.1.2.4.
const ZSTD_BLOCK: u64 = 128 << 10;

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
    let mut unpacked = Vec::new();
    decoder.by_ref().take(MAX_UNPACKED + 1).read_to_end(&mut unpacked).context("unpacking gzip")?;
    ensure!(unpacked.len() as u64 <= MAX_UNPACKED, "unpacking gzip: more than {MAX_UNPACKED} bytes come out");
    let rest = decoder.into_inner().len();
    Ok((unpacked, bytes.len() - rest))
}

/// Unpacks the zstd frame at the front of `bytes`; gives its content and its length.
fn unzstd(bytes: &[u8]) -> Result<(Vec<u8>, usize)> {
    let (length, blocks) = zstd_frame(bytes).context("unpacking zstd: the frame is cut short or damaged")?;
    ensure!(blocks * ZSTD_BLOCK <= MAX_UNPACKED, "unpacking zstd: more than {MAX_UNPACKED} bytes could come out");
    let unpacked = zstd::decode_all(&bytes[..length]).context("unpacking zstd")?;
    Ok((unpacked, length))
}

/// The length of the zstd frame at the front of `bytes` and how many blocks it has, by RFC 8878, section 3.1.1.
fn zstd_frame(bytes: &[u8]) -> Option<(usize, u64)> {
    let descriptor = *bytes.get(4)?;
    let single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    let mut at = 5 + window + dictionary + content_size;
    let mut blocks = 0;
    loop {
        let header = bytes.get(at..at + 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let size = usize::try_from(header >> 3).ok()?;
        blocks += 1;
        at += 3 + match header >> 1 & 3 {
            0 | 2 => size,
            // one byte, repeated
            1 => 1,
            _ => return None,
        };
        if header & 1 == 1 {
            break;
        }
    }
    let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
    (at + checksum <= bytes.len()).then_some((at + checksum, blocks))
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
        assert_eq!(error.to_string(), "unpacking zstd: more than 1073741824 bytes could come out");
    }

    #[test]
    fn anything_else_is_left_alone() {
        assert_eq!(unpack(b"070701").unwrap(), None);
        assert_eq!(unpack(b"").unwrap(), None);
    }
}
