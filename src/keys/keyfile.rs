//! The key file on the stick, `vaultberry/<LUKS UUID>.key`.
//!
//! Format, version 1, 128 bytes:
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 7 | the magic `VBERRY\0` |
//! | 7 | 1 | the version, 1 |
//! | 8 | 16 | the LUKS UUID of the root that it opens, in RFC 9562 byte order |
//! | 24 | 8 | zeros |
//! | 32 | 64 | the key: random bytes, the passphrase of a LUKS2 keyslot |
//! | 96 | 32 | SHA-256 of bytes 0 to 95 |
//!
//! The key stands at a fixed offset, so that it can be used without vaultberry:
//! `cryptsetup open --key-file FILE --keyfile-offset 32 --keyfile-size 64 DEVICE root`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use openssl::sha::sha256;
use uuid::Uuid;

use crate::secret::Secret;

/// Bytes of a key file.
pub const FILE_SIZE: usize = 128;
/// Where the key begins in the file.
pub const KEY_OFFSET: usize = 32;
/// Bytes of the key itself.
pub const KEY_SIZE: usize = 64;

const MAGIC: &[u8; 7] = b"VBERRY\0";
const VERSION: u8 = 1;
const CHECKED: usize = KEY_OFFSET + KEY_SIZE;

/// A key for one appliance's root.
#[derive(Debug)]
pub struct KeyFile {
    /// The LUKS UUID of the root that it opens.
    pub uuid: Uuid,
    /// The passphrase of its keyslot, [`KEY_SIZE`] bytes.
    pub key: Secret<Vec<u8>>,
}

/// Where the key of `uuid` lies on a stick.
pub fn path_on_stick(uuid: Uuid) -> PathBuf {
    Path::new("vaultberry").join(format!("{uuid}.key"))
}

/// `length` random bytes from the operating system.
pub fn random(length: usize) -> Result<Secret<Vec<u8>>> {
    let mut bytes = vec![0; length];
    openssl::rand::rand_bytes(&mut bytes).context("drawing random bytes")?;
    Ok(Secret::new(bytes))
}

impl KeyFile {
    /// A new random key for the root `uuid`.
    pub fn generate(uuid: Uuid) -> Result<Self> {
        Ok(Self { uuid, key: random(KEY_SIZE)? })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Secret<Vec<u8>> {
        // Reserved whole, so that no copy of the key is left behind by a growing vector.
        let mut bytes = Vec::with_capacity(FILE_SIZE);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(self.uuid.as_bytes());
        bytes.resize(KEY_OFFSET, 0);
        bytes.extend_from_slice(self.key.expose());
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum);
        Secret::new(bytes)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// Tells apart a file that is too short or too long, isn't a key file, is of a later version, or is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= FILE_SIZE, "the key file is too short: {} of {FILE_SIZE} bytes", bytes.len());
        ensure!(bytes.len() == FILE_SIZE, "the key file is too long: it has more than {FILE_SIZE} bytes");
        ensure!(bytes.starts_with(MAGIC), "this is not a vaultberry key file");
        ensure!(bytes[7] == VERSION, "the key file is of version {}; this program reads version {VERSION}", bytes[7]);
        ensure!(sha256(&bytes[..CHECKED]) == bytes[CHECKED..], "the key file is damaged: its checksum is wrong");
        let uuid = Uuid::from_slice(&bytes[8..24]).expect("the slice has sixteen bytes");
        Ok(Self { uuid, key: Secret::new(bytes[KEY_OFFSET..CHECKED].to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{FILE_SIZE, KEY_OFFSET, KEY_SIZE, KeyFile};

    #[test]
    fn a_key_survives_encoding_and_stands_at_its_offset() {
        let key = KeyFile::generate(Uuid::new_v4()).unwrap();
        let bytes = key.encode();
        assert_eq!(bytes.expose().len(), FILE_SIZE);
        assert_eq!(&bytes.expose()[KEY_OFFSET..KEY_OFFSET + KEY_SIZE], key.key.expose().as_slice());
        let read = KeyFile::decode(bytes.expose()).unwrap();
        assert_eq!(read.uuid, key.uuid);
        assert_eq!(read.key.expose(), key.key.expose());
    }

    #[test]
    fn each_damage_has_its_own_message() {
        let good = KeyFile::generate(Uuid::new_v4()).unwrap().encode().expose().clone();
        let with = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let mut long = good.clone();
        long.push(b'\n');
        let table: [(Vec<u8>, &str); 6] = [
            (good[..100].to_vec(), "the key file is too short: 100 of 128 bytes"),
            (long, "the key file is too long: it has more than 128 bytes"),
            (with(0), "this is not a vaultberry key file"),
            (with(7), "the key file is of version 0; this program reads version 1"),
            (with(40), "the key file is damaged: its checksum is wrong"),
            (with(100), "the key file is damaged: its checksum is wrong"),
        ];
        for (bytes, message) in table {
            assert_eq!(KeyFile::decode(&bytes).unwrap_err().to_string(), message);
        }
    }
}
