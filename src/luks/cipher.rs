//! The ciphers of volumes, and how a header comes to name one that libcryptsetup can't set up here.
//!
//! libcryptsetup tries a cipher before it formats with it. With AES it can do so by itself; for Adiantum it asks device-mapper,
//! which a builder hasn't. So such a volume is formatted for AES, and then its header is made to name Adiantum: in both copies of
//! the JSON area, with their checksums ("LUKS2 On-Disk Format Specification", version 1.1, sections 2 and 3). The keyslots
//! stay under AES, which protects the volume key as well.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libcryptsetup_rs::{CryptDevice, LibcryptErr};
use openssl::sha::sha256;
use serde_json::Value;

use super::shown;

/// A volume's cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-XTS, for a CPU with instructions for AES.
    Aes,
    /// Adiantum (`XChaCha12`, AES-256 once a sector), for one without: several times as fast there, and made for it
    /// (Crowley and Biggers, "Adiantum: length-preserving encryption for entry-level processors", 2018).
    Adiantum,
}

impl Cipher {
    /// The one that suits this machine's CPU.
    ///
    /// # Errors
    /// The kernel doesn't say what the CPU has.
    pub fn of_this_cpu() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context("reading what the CPU can do")?;
        Ok(Self::of_cpu(&text))
    }

    /// By the words of `/proc/cpuinfo`: `Features` on ARM, `flags` on x86.
    fn of_cpu(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let mut words = lines.filter(|(name, _)| matches!(name.trim(), "Features" | "flags")).map(|(_, words)| words);
        if words.next().is_some_and(|words| words.split_whitespace().any(|word| word == "aes")) {
            Self::Aes
        } else {
            Self::Adiantum
        }
    }

    /// The one of the volume at `path`.
    ///
    /// # Errors
    /// It isn't a volume, or has a cipher that no volume of ours has.
    pub fn of_volume(path: &Path) -> Result<Self> {
        let mut device = super::load(path)?;
        let mut status = device.status_handle();
        let part = |part: Result<String, LibcryptErr>| part.with_context(|| format!("asking for the cipher of {}", shown(path)));
        let name = format!("{}-{}", part(status.get_cipher())?, part(status.get_cipher_mode())?);
        let known = [Self::Aes, Self::Adiantum].into_iter().find(|cipher| cipher.name() == name);
        known.with_context(|| format!("{} is under {name}, which no volume of an appliance is", shown(path)))
    }

    /// What dm-crypt and a LUKS2 header call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes-xts-plain64",
            Self::Adiantum => "xchacha12,aes-adiantum-plain64",
        }
    }

    /// Bytes of its volume keys: two of 256 bits for XTS, one for Adiantum.
    pub fn key_size(self) -> usize {
        match self {
            Self::Aes => 64,
            Self::Adiantum => 32,
        }
    }
}

/// Lets keyslots that are added to a volume be under AES, as those of its format are: else they would be under the volume's own
/// cipher, for which libcryptsetup needs device-mapper.
///
/// # Errors
/// libcryptsetup doesn't take it.
pub fn set_for_keyslots(device: &mut CryptDevice) -> Result<()> {
    device
        .keyslot_handle()
        .set_encryption(Cipher::Aes.name(), Cipher::Aes.key_size())
        .context("choosing the cipher of the keyslots")
}

/// Bytes of the binary header.
const BINARY: usize = super::BINARY_HEADER_SIZE;

/// Where the binary header has the length of itself and its JSON area, and where its checksum: fields `hdr_size` and `csum`.
const LENGTH_FIELD: usize = 8;
const SUM_FIELD: usize = 0x1c0;
const SUM_LENGTH: usize = 64;

/// Lets a volume that was just formatted have another cipher. Its content, if it had one, would be lost.
///
/// # Errors
/// It isn't such a volume, or can't be read or written.
pub fn set(path: &Path, cipher: Cipher) -> Result<()> {
    let setting = || format!("setting the cipher of {}", shown(path));
    let file = File::options().read(true).write(true).open(path).with_context(setting)?;
    let mut start = [0; LENGTH_FIELD + 8];
    file.read_exact_at(&mut start, 0).with_context(setting)?;
    let length = u64::from_be_bytes(start[LENGTH_FIELD..].try_into().expect("eight bytes"));
    ensure!((0x4000..=0x40_0000).contains(&length), "{}: its header can't be so long", setting());
    // The second copy first, as libcryptsetup reads the first one first.
    for offset in [length, 0] {
        let mut header = vec![0; usize::try_from(length).context("reading a header")?];
        file.read_exact_at(&mut header, offset).with_context(setting)?;
        rename(&mut header, cipher).with_context(setting)?;
        file.write_all_at(&header, offset).with_context(setting)?;
        file.sync_all().with_context(setting)?;
    }
    Ok(())
}

/// The same for one copy: binary header and JSON area.
fn rename(header: &mut [u8], cipher: Cipher) -> Result<()> {
    let (_, area) = header.split_at(BINARY);
    let end = area.iter().position(|&byte| byte == 0).unwrap_or(area.len());
    let mut json: Value = serde_json::from_slice(&area[..end]).context("reading the JSON area")?;
    let segment = json.pointer_mut("/segments/0/encryption").context("there is no segment in the JSON area")?;
    *segment = Value::from(cipher.name());
    let text = serde_json::to_vec(&json).context("writing the JSON area")?;
    let (binary, area) = header.split_at_mut(BINARY);
    ensure!(text.len() < area.len(), "the JSON area is full");
    area.fill(0);
    area[..text.len()].copy_from_slice(&text);
    binary[SUM_FIELD..SUM_FIELD + SUM_LENGTH].fill(0);
    let sum = sha256(header);
    header[SUM_FIELD..SUM_FIELD + sum.len()].copy_from_slice(&sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use uuid::Uuid;

    use super::Cipher;
    use crate::keys::keyfile::random;
    use crate::luks::tests::blank;
    use crate::luks::{Key, Tried, format, test_key, volume_key};
    use crate::process;

    #[test]
    fn the_cpu_decides() {
        let pi_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n";
        let pi_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\n";
        let x86 = "flags\t\t: fpu sse aes avx\nbugs\t\t: x\n";
        assert_eq!([pi_4, pi_5, x86, ""].map(Cipher::of_cpu), [Cipher::Adiantum, Cipher::Aes, Cipher::Aes, Cipher::Adiantum]);
    }

    #[test]
    fn cryptsetup_finds_either_cipher_and_every_key() {
        for cipher in [Cipher::Aes, Cipher::Adiantum] {
            let folder = tempfile::tempdir().unwrap();
            let path = blank(folder.path());
            let (key, own) = (random(64).unwrap(), random(cipher.key_size()).unwrap());
            format(&path, Uuid::new_v4(), "test", cipher, Some(&own), &[Key::Random(&key)]).unwrap();
            assert_eq!(test_key(&path, Key::Random(&key)).unwrap(), Tried::Opened);
            assert_eq!(volume_key(&path, Key::Random(&key)).unwrap().expose(), own.expose());
            assert_eq!(Cipher::of_volume(&path).unwrap(), cipher);
            let dump = process::output(Command::new("cryptsetup").arg("luksDump").arg(&path), "dumping the header").unwrap();
            let dump = String::from_utf8(dump).unwrap();
            let segment = dump.split_once("Data segments:").unwrap().1.split_once("Keyslots:").unwrap().0;
            assert!(segment.contains(&format!("cipher: {}\n", cipher.name())), "{dump}");
            // Both copies are whole: with the first one gone, the second serves.
            let spoiled = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&spoiled, &[0; 4096], 0).unwrap();
            assert_eq!(test_key(&path, Key::Random(&key)).unwrap(), Tried::Opened);
        }
    }
}
