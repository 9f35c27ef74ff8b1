//! Writing an encrypted message (RFC 9580): session keys, and one container with a modification detection code.
//!
//! sequoia makes the session key packets. The container, which is nearly all of a message, is made here, because three
//! threads make it in a fraction of the time: one reads and encrypts, one sums what was read, and one writes what was
//! encrypted. The cipher can't be divided further, since each block depends on the one before. And SHA-1 is OpenSSL's: the
//! modification detection code isn't a signature, so that sequoia's search for collisions, which costs as much as all else,
//! finds nothing here that matters.
//!
//! ```text
//! PKESK v3 …                                     section 5.1.1, one for each key
//! SEIPD v1, in chunks of 128 KiB                 sections 5.13.1 and 4.2.1.4
//!   AES-256-CFB, from an all-zero IV, of
//!     16 random bytes and the last two of them again
//!     a literal data packet, chunked likewise    section 5.9: binary, no name, no time
//!     0xd3 0x14 and the SHA-1 of all before      section 5.13.1
//! ```

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use openssl::sha::Sha1;
use sequoia_openpgp::Packet;
use sequoia_openpgp::crypto::SessionKey;
use sequoia_openpgp::packet::PKESK;
use sequoia_openpgp::packet::key::{Key, PublicParts, UnspecifiedRole};
use sequoia_openpgp::packet::pkesk::PKESK3;
use sequoia_openpgp::serialize::Serialize as _;
use sequoia_openpgp::types::SymmetricAlgorithm;

use super::cfb::{BLOCK, Cfb};

/// Bytes of a chunk: 2 to this.
const CHUNK_BITS: u8 = 17;
const CHUNK: usize = 1 << CHUNK_BITS;

/// How many chunks wait for the thread that writes.
const WAITING: usize = 8;

/// The header of each packet: two bits that are set, and the packet's type ID (section 5).
const SEIPD: u8 = 0xc0 + 18;
const LITERAL: u8 = 0xc0 + 11;
/// With the length, 20.
const MDC: [u8; 2] = [0xc0 + 19, 20];

/// Writes `content` to `out`, encrypted so that each of `keys` opens it.
///
/// # Errors
/// Reading, encrypting or writing failed.
pub fn write(keys: &[Key<PublicParts, UnspecifiedRole>], content: &mut dyn Read, out: &mut (dyn Write + Send)) -> Result<()> {
    let session_key = SessionKey::new(32).context("making a session key")?;
    for key in keys {
        let packet =
            PKESK3::for_recipient(SymmetricAlgorithm::AES256, &session_key, key).context("encrypting the session key")?;
        Packet::from(PKESK::V3(packet)).serialize(out).context("writing the session key")?;
    }
    let mut cipher = Cfb::new(&session_key).context("encrypting")?;
    let mut body = Chunks { buffer: Vec::with_capacity(CHUNK + 8), out };
    body.out.write_all(&[SEIPD]).context(WRITING)?;
    body.add(&[1]).context(WRITING)?;
    let (plain, to_sum) = sync_channel(WAITING);
    let (sealed, to_write) = sync_channel(WAITING);
    let (read, summed, written) = thread::scope(|scope| {
        let summer = scope.spawn(move || sum_behind(&to_sum));
        let writer = scope.spawn(move || write_behind(body, &to_write));
        let read = read_ahead(content, &mut cipher, &plain, &sealed);
        drop((plain, sealed));
        (read, summer.join(), writer.join())
    });
    // Why nothing more can be written says more than that.
    let mut body = written.map_err(|_| anyhow!("the thread that writes has ended"))?.context(WRITING)?;
    let mut sha1 = summed.map_err(|_| anyhow!("the thread that sums has ended"))?;
    let mut end = read?;
    sha1.update(&end);
    end.extend(sha1.finish());
    body.add(&cipher.finish(&end).context("encrypting")?).and_then(|()| body.finish()).context(WRITING)
}

const WRITING: &str = "writing the message";

/// Reads all of `content` and encrypts it, with everything round it but the sum, and sends each stretch as it was and as it
/// became; gives the last bytes, of which there is no whole block.
fn read_ahead(
    content: &mut dyn Read,
    cipher: &mut Cfb,
    to_sum: &SyncSender<Vec<u8>>,
    to_write: &SyncSender<Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut plain = vec![0; BLOCK];
    openssl::rand::rand_bytes(&mut plain).context("drawing the beginning of a message")?;
    plain.extend_from_within(BLOCK - 2..);
    plain.push(LITERAL);
    // Of the literal packet's body: binary, a name of no bytes, no time.
    let mut head: &[u8] = &[b'b', 0, 0, 0, 0, 0];
    loop {
        let at = plain.len();
        plain.push(0xe0 | CHUNK_BITS);
        plain.extend_from_slice(head);
        let wanted = CHUNK - head.len();
        head = &[];
        let length = content.take(wanted as u64).read_to_end(&mut plain).context("reading what to seal")?;
        let last = length < wanted;
        if last {
            let length = definite_length(plain.len() - at - 1);
            plain.splice(at..=at, length);
            plain.extend(MDC);
        }
        let mut rest = Vec::with_capacity(CHUNK + 2 * BLOCK);
        rest.extend(plain.drain(plain.len() / BLOCK * BLOCK..));
        let sealed = cipher.encrypt(&plain).context("encrypting")?;
        // Who can't go on any more says why.
        if to_sum.send(plain).is_err() || to_write.send(sealed).is_err() || last {
            return Ok(rest);
        }
        plain = rest;
    }
}

/// Sums what was read.
fn sum_behind(stretches: &Receiver<Vec<u8>>) -> Sha1 {
    let mut sha1 = Sha1::new();
    for plain in stretches {
        sha1.update(&plain);
    }
    sha1
}

/// Writes what was encrypted.
fn write_behind<'a>(mut body: Chunks<'a>, stretches: &Receiver<Vec<u8>>) -> io::Result<Chunks<'a>> {
    for sealed in stretches {
        body.add(&sealed)?;
    }
    Ok(body)
}

/// A packet's body whose length isn't known before, as chunks (section 4.2.1.4).
struct Chunks<'a> {
    buffer: Vec<u8>,
    out: &'a mut (dyn Write + Send),
}

impl Chunks<'_> {
    fn add(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == CHUNK {
                self.out.write_all(&[0xe0 | CHUNK_BITS])?;
                self.out.write_all(&self.buffer)?;
                self.buffer.clear();
            }
            bytes = later;
        }
        Ok(())
    }

    /// The last chunk says its length.
    fn finish(self) -> io::Result<()> {
        self.out.write_all(&definite_length(self.buffer.len()))?;
        self.out.write_all(&self.buffer)?;
        self.out.flush()
    }
}

/// The length of a body, or of what is left of it (sections 4.2.1.1 to 4.2.1.3).
fn definite_length(length: usize) -> Vec<u8> {
    match u32::try_from(length).expect("a chunk is short") {
        length @ 0..192 => vec![length.to_be_bytes()[3]],
        length @ 192..8384 => {
            let [.., high, low] = (length - 192).to_be_bytes();
            vec![high + 192, low]
        }
        length => [&[0xff][..], &length.to_be_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::definite_length;

    #[test]
    fn lengths_are_those_of_the_examples_in_the_rfc() {
        // RFC 9580 section 4.2.1.5.
        assert_eq!(definite_length(100), [0x64]);
        assert_eq!(definite_length(1723), [0xc5, 0xfb]);
        assert_eq!(definite_length(100_000), [0xff, 0x00, 0x01, 0x86, 0xa0]);
        assert_eq!((definite_length(0), definite_length(191)), (vec![0], vec![191]));
        assert_eq!((definite_length(192), definite_length(8383)), (vec![192, 0], vec![223, 255]));
        assert_eq!(definite_length(8384), [0xff, 0, 0, 0x20, 0xc0]);
    }
}
