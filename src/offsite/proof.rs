//! How an object is proven: what the store says of it must be what only the bytes that were sent can lead to.
//!
//! A store gives a SHA-256 of an object, if it was uploaded with one: of the whole, or, of an object uploaded in parts, of the
//! parts' sums with the number of parts behind it. Stores that give none have an `ETag`, which is MD5 in the same two forms.

use anyhow::{Result, bail};
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
}

/// The sums of one part, or of all of a small object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSums {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// MD5: not for safety, but because it is what an `ETag` is made of.
    pub md5: [u8; 16],
}

impl PartSums {
    /// Of these bytes.
    ///
    /// # Errors
    /// OpenSSL has no MD5 here.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let mut md5 = [0; 16];
        md5.copy_from_slice(&hash(MessageDigest::md5(), bytes)?);
        Ok(Self { sha256: sha256(bytes), md5 })
    }

    /// SHA-256 as S3 writes it.
    pub fn sha256_base64(&self) -> String {
        encode_block(&self.sha256)
    }
}

/// What was sent, as the store may say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    size: u64,
    sha256: Vec<String>,
    etag: String,
}

impl Marks {
    /// Of an object sent in one piece.
    pub fn whole(size: u64, sums: &PartSums) -> Self {
        Self { size, sha256: vec![sums.sha256_base64()], etag: hex(&sums.md5) }
    }

    /// Of an object sent in these parts, in order. `whole` is the sum of all of it.
    ///
    /// # Errors
    /// OpenSSL has no MD5 here.
    pub fn parts(whole: &Sum, parts: &[PartSums]) -> Result<Self> {
        let all_sha256: Vec<u8> = parts.iter().flat_map(|part| part.sha256).collect();
        let all_md5: Vec<u8> = parts.iter().flat_map(|part| part.md5).collect();
        let composite = PartSums { sha256: sha256(&all_sha256), md5: PartSums::of(&all_md5)?.md5 };
        let count = parts.len();
        Ok(Self {
            size: whole.size,
            // Some stores leave the number away, some give the sum of the whole.
            sha256: vec![
                format!("{}-{count}", composite.sha256_base64()),
                composite.sha256_base64(),
                encode_block(&whole.sha256),
            ],
            etag: format!("{}-{count}", hex(&composite.md5)),
        })
    }

    /// Whether the store has what was sent.
    ///
    /// # Errors
    /// It has something else, or says too little to tell.
    pub fn prove(&self, said: &Said) -> Result<()> {
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
            Some(etag) if etag.eq_ignore_ascii_case(&self.etag) => Ok(()),
            Some(etag) => bail!(
                "the store gives no SHA-256, and its ETag isn't that of the bytes that were sent: {}",
                printable(etag.as_bytes())
            ),
            None => bail!("the store gives neither a SHA-256 nor an ETag, so nothing can be proven"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Marks, PartSums, Said};
    use crate::digest::Sum;

    #[test]
    fn only_what_was_sent_proves_it() {
        let (one, two) = (PartSums::of(b"one").unwrap(), PartSums::of(b"two").unwrap());
        let whole = Sum { size: 6, sha256: openssl::sha::sha256(b"onetwo") };
        let parts = Marks::parts(&whole, &[one, two]).unwrap();
        let single = Marks::whole(3, &one);
        // printf one | openssl dgst -sha256 -binary | base64; the composites over the concatenated binary sums
        let sha256_of_one = "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0=";
        let md5_of_one = "f97c5d29941bfb1b2fdab0874906ab82";
        let said = |size, sha256: Option<&str>, etag: Option<&str>| Said {
            size,
            sha256: sha256.map(String::from),
            etag: etag.map(String::from),
        };
        for (marks, said, expected) in [
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
            let found = marks.prove(&said).err().map(|error| error.to_string()).unwrap_or_default();
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
