//! How an object is proven: what the store says of it must be what only the bytes that were sent can lead to.
//!
//! A store gives a SHA-256 of an object, if it was uploaded with one: of the whole, or, of an object uploaded in parts, of the
//! parts' sums with the number of parts behind it. Stores that give none have an `ETag`, which is MD5 in the same two forms.

use anyhow::{Result, bail};
use jiff::Timestamp;
use openssl::base64::encode_block;
use openssl::hash::{MessageDigest, hash};
use openssl::sha::sha256;

use crate::digest::Sum;
use crate::digest::hex;
use crate::log::printable;

/// What the store says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How many bytes it has.
    pub size: u64,
    /// Its `x-amz-checksum-sha256`.
    pub sha256: Option<String>,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// Whether it is encrypted with a key of a service or of a customer (SSE-KMS, SSE-C), so that its `ETag` isn't MD5.
    pub foreign_key: bool,
    /// Until when the store keeps it from being deleted (Object Lock).
    pub locked_until: Option<Timestamp>,
}

/// SHA-256 as S3 writes it.
pub fn sha256_base64(sum: &[u8; 32]) -> String {
    encode_block(sum)
}

/// The `ETag` of an object with these MD5s of its pieces, without quotes.
///
/// # Errors
/// OpenSSL has no MD5 here.
pub fn etag(md5s: &[[u8; 16]]) -> Result<String> {
    Ok(match md5s {
        [one] => hex(one),
        several => format!("{}-{}", hex(&hash(MessageDigest::md5(), &several.concat())?), several.len()),
    })
}

/// What was sent, as the store may say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    size: u64,
    sha256: Vec<String>,
}

impl Marks {
    /// Of an object with these sums, of all of it and of each of the pieces that it was sent in.
    pub fn of(whole: &Sum, pieces: &[[u8; 32]]) -> Self {
        let whole_sha256 = sha256_base64(&whole.sha256);
        let sha256 = match pieces.len() {
            0 | 1 => vec![whole_sha256],
            count => {
                let composite = sha256_base64(&sha256(&pieces.concat()));
                // Some stores leave the number away, some give the sum of the whole.
                vec![format!("{composite}-{count}"), composite, whole_sha256]
            }
        };
        Self { size: whole.size, sha256 }
    }

    /// Whether the store has what was sent. `etag` gives the `ETag` that it must have then; it is asked only when the store
    /// gives no SHA-256.
    ///
    /// # Errors
    /// It has something else, or says too little to tell.
    pub fn prove(&self, said: &Said, etag: impl FnOnce() -> Result<String>) -> Result<()> {
        if said.size != self.size {
            bail!("{} bytes were sent, and the store has {}", self.size, said.size);
        }
        if let Some(sha256) = &said.sha256 {
            if self.sha256.contains(sha256) {
                return Ok(());
            }
            bail!("the store has other bytes than were sent: their SHA-256 is {}", printable(sha256.as_bytes()));
        }
        match said.etag.as_deref().map(|etag| etag.trim_matches('"')) {
            Some(found) if found.eq_ignore_ascii_case(&etag()?) => Ok(()),
            Some(_) if said.foreign_key => {
                bail!("the store gives no SHA-256, and encrypts with a key of a service (SSE-KMS): its ETag proves nothing")
            }
            Some(found) => bail!(
                "the store gives no SHA-256, and its ETag isn't that of the bytes that were sent: {}",
                printable(found.as_bytes())
            ),
            None => bail!("the store gives neither a SHA-256 nor an ETag, so nothing can be proven"),
        }
    }
}

#[cfg(test)]
mod tests {
    use openssl::hash::{MessageDigest, hash};
    use openssl::sha::sha256;

    use super::{Marks, Said, etag};
    use crate::digest::Sum;

    #[test]
    fn only_what_was_sent_proves_it() {
        let md5 = |bytes: &[u8]| <[u8; 16]>::try_from(&*hash(MessageDigest::md5(), bytes).unwrap()).unwrap();
        let whole = Sum { size: 6, sha256: sha256(b"onetwo") };
        let parts = (Marks::of(&whole, &[sha256(b"one"), sha256(b"two")]), etag(&[md5(b"one"), md5(b"two")]).unwrap());
        let single = (Marks::of(&Sum { size: 3, sha256: sha256(b"one") }, &[sha256(b"one")]), etag(&[md5(b"one")]).unwrap());
        // printf one | openssl dgst -sha256 -binary | base64; the composites over the concatenated binary sums
        let sha256_of_one = "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0=";
        let md5_of_one = "f97c5d29941bfb1b2fdab0874906ab82";
        let said = |size, sha256: Option<&str>, etag: Option<&str>| Said {
            size,
            sha256: sha256.map(String::from),
            etag: etag.map(String::from),
            ..Said::default()
        };
        for ((marks, etag), said, expected) in [
            (&single, said(3, Some(sha256_of_one), None), ""),
            (&single, said(3, None, Some(&format!("\"{md5_of_one}\""))), ""),
            (&single, said(4, Some(sha256_of_one), None), "3 bytes were sent, and the store has 4"),
            (&single, said(3, Some("AAAA"), Some(md5_of_one)), "the store has other bytes than were sent: their SHA-256 is AAAA"),
            (
                &single,
                said(3, None, Some("\"x\n\"")),
                "the store gives no SHA-256, and its ETag isn't that of the bytes that were sent: x\\n",
            ),
            (&single, said(3, None, None), "the store gives neither a SHA-256 nor an ETag, so nothing can be proven"),
            (&parts, said(6, Some("COMPOSITE-2"), None), ""),
            (&parts, said(6, Some("COMPOSITE"), None), ""),
            (&parts, said(6, Some("WHOLE"), None), ""),
            (&parts, said(6, None, Some("ETAG-2")), ""),
            (
                &parts,
                said(6, Some(sha256_of_one), None),
                "the store has other bytes than were sent: their SHA-256 is dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0=",
            ),
            (&parts, said(6, None, Some("ETAG-3")), "the store gives no SHA-256, and its ETag isn't"),
        ] {
            let mut said = said;
            for (name, value) in [("COMPOSITE", COMPOSITE_SHA256), ("WHOLE", WHOLE_SHA256), ("ETAG", COMPOSITE_MD5)] {
                said.sha256 = said.sha256.map(|text| text.replace(name, value));
                said.etag = said.etag.map(|text| text.replace(name, value));
            }
            let found = marks.prove(&said, || Ok(etag.clone())).err().map(|error| error.to_string()).unwrap_or_default();
            if expected.is_empty() {
                assert_eq!(found, "", "{said:?}");
            } else {
                assert!(found.to_lowercase().starts_with(&expected.to_lowercase()), "{said:?}: {found}");
            }
        }
    }

    const COMPOSITE_SHA256: &str = "EZFMGaKKmMV9EvPM5sMreUR4T0tHgacGwk6x3ChOKFY=";
    const WHOLE_SHA256: &str = "JbZ0bVFy7WNSlmoBPZOshG4RENWiXo8YO1kx9GiIQqE=";
    const COMPOSITE_MD5: &str = "1397b7ee3222e3980d0d20f23a871b02";
}
