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

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
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

/// What a new key file is called until it has taken the old one's place.
pub fn new_name(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// What the key file of a stick that is added is called until it has a keyslot. The unlock doesn't look at it.
pub fn coming_name(path: &Path) -> PathBuf {
    beside(path, ".coming")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The key for the root `uuid` on a stick that is called `stick`, of which `read` gives the files; none when there is none.
///
/// Where the power went while a key was replaced, its name is missing, or isn't whole: then the new one counts.
///
/// # Errors
/// It can't be read, or isn't that key.
pub fn find(uuid: Uuid, stick: &str, read: impl Fn(&Path) -> Result<Option<Secret<Vec<u8>>>>) -> Result<Option<KeyFile>> {
    let path = path_on_stick(uuid);
    let key = |path: &Path| {
        let bytes = read(path)?;
        let decode = |bytes: Secret<Vec<u8>>| KeyFile::decode(bytes.expose(), uuid);
        bytes.map(decode).transpose().map_err(|fault| anyhow!("the key on {stick} {fault}"))
    };
    match key(&path) {
        Ok(Some(key)) => Ok(Some(key)),
        missing => match (missing, key(&new_name(&path))) {
            (_, Ok(Some(key))) => Ok(Some(key)),
            (Ok(None), new) => new,
            (fault, _) => fault,
        },
    }
}

/// Reads what may be a key file; none when nothing is there. No more is read than shows that it is too long.
///
/// # Errors
/// It can't be read, or is something else than a file: links aren't followed, and a named pipe of that name stops nobody.
pub fn read(path: &Path) -> Result<Option<Secret<Vec<u8>>>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("opening the key file"),
    };
    ensure!(file.metadata().context("looking at the key file")?.is_file(), "the key file is not a file");
    let mut bytes = Secret::new(vec![0; FILE_SIZE + 1]);
    let mut length = 0;
    while length < bytes.expose().len() {
        match (&file).read(&mut bytes.expose_mut()[length..]).context("reading the key file")? {
            0 => break,
            read => length += read,
        }
    }
    bytes.expose_mut().truncate(length);
    Ok(Some(bytes))
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

    /// Reads the key file that opens the root `uuid`.
    ///
    /// # Errors
    /// Tells apart a file that is too short or too long, isn't a key file, is of a later version, is damaged, or is for
    /// another appliance. The sentence wants the file's name before it.
    pub fn decode(bytes: &[u8], uuid: Uuid) -> Result<Self> {
        let key = Self::decode_any(bytes)?;
        ensure!(key.uuid == uuid, "is for another appliance, {}", key.uuid);
        Ok(key)
    }

    /// Reads a key file, whichever root it opens.
    ///
    /// # Errors
    /// As for [`Self::decode`].
    pub fn decode_any(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= FILE_SIZE, "is too short: it has {} of {FILE_SIZE} bytes", bytes.len());
        ensure!(bytes.len() == FILE_SIZE, "is too long: it has more than {FILE_SIZE} bytes");
        ensure!(bytes.starts_with(MAGIC), "is not a vaultberry key");
        ensure!(bytes[7] == VERSION, "is of version {}, and this program reads version {VERSION}", bytes[7]);
        ensure!(sha256(&bytes[..CHECKED]) == bytes[CHECKED..], "is damaged: its checksum is wrong");
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
        let read = KeyFile::decode_any(bytes.expose()).unwrap();
        assert_eq!(read.uuid, key.uuid);
        assert_eq!(read.key.expose(), key.key.expose());
    }

    #[test]
    fn each_damage_has_its_own_message() {
        let uuid = Uuid::new_v4();
        let good = KeyFile::generate(uuid).unwrap().encode().expose().clone();
        let with = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let mut long = good.clone();
        long.push(b'\n');
        let table: [(Vec<u8>, &str); 6] = [
            (good[..100].to_vec(), "is too short: it has 100 of 128 bytes"),
            (long, "is too long: it has more than 128 bytes"),
            (with(0), "is not a vaultberry key"),
            (with(7), "is of version 0, and this program reads version 1"),
            (with(40), "is damaged: its checksum is wrong"),
            (with(100), "is damaged: its checksum is wrong"),
        ];
        for (bytes, message) in table {
            assert_eq!(KeyFile::decode(&bytes, uuid).unwrap_err().to_string(), message);
        }
        assert_eq!(KeyFile::decode(&good, uuid).unwrap().uuid, uuid);
        let other = KeyFile::decode(&good, Uuid::nil()).unwrap_err().to_string();
        assert_eq!(other, format!("is for another appliance, {uuid}"));
    }
}
