//! Opening sealed files with the owner's private key. Never on the appliance, which has none.
//!
//! A private key opens what was ever sealed for it, also when it has expired or was revoked meanwhile: that says whom to
//! seal for, not what may be read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::crypto::{KeyPair, Password, S2K, SessionKey};
use sequoia_openpgp::packet::key::{SecretKeyMaterial, SecretParts, UnspecifiedRole};
use sequoia_openpgp::packet::{Key, PKESK, SKESK};
use sequoia_openpgp::parse::Parse as _;
use sequoia_openpgp::parse::stream::{DecryptionHelper, DecryptorBuilder, MessageLayer, MessageStructure, VerificationHelper};
use sequoia_openpgp::types::SymmetricAlgorithm;
use sequoia_openpgp::{Cert, KeyHandle};

use crate::openpgp::{POLICY, plain};
use crate::secret::Secret;
use crate::stop::Stop;
use crate::terminal;

/// How much is opened at a time, in bytes.
const BLOCK: usize = 1 << 20;

/// The keys for decryption in a private key file, unlocked.
pub struct Keys(Vec<KeyPair>);

impl Keys {
    /// Reads the file `path`, armored or binary, as `gpg --export-secret-keys` writes it. `passphrase` is asked once, when a
    /// key is locked, also beside others that aren't: which of them a copy is sealed for shows only later.
    ///
    /// # Errors
    /// It isn't such a file, it holds no key for decryption, or the passphrase is wrong and every key is locked.
    pub fn read(path: &Path, passphrase: impl FnOnce() -> Result<Secret<String>>) -> Result<Self> {
        let reading = || format!("reading the private key {}", path.display());
        let file = File::open(path).with_context(reading)?;
        let certificates: Vec<Cert> = CertParser::from_reader(file)
            .and_then(Iterator::collect)
            .map_err(|_| anyhow!("{}: it isn't an OpenPGP key\nhint: export it with `gpg --export-secret-keys`", reading()))?;
        let secret = certificates.iter().flat_map(|certificate| certificate.keys().secret().map(|key| key.key().clone()));
        let keys: Vec<Key<SecretParts, UnspecifiedRole>> = secret.filter(|key| key.pk_algo().for_encryption()).collect();
        if keys.is_empty() {
            bail!("{}: it has no private key for decryption\nhint: export it with `gpg --export-secret-keys`", reading());
        }
        let keys: Vec<_> = keys.into_iter().filter(|key| !is_elsewhere(key)).collect();
        if keys.is_empty() {
            bail!(
                "{}: it only says that the private key is elsewhere, as on a smart card\n\
                 hint: fetch the copy without --key, and open it with `gpg --decrypt` where the card is",
                reading()
            );
        }
        Ok(Self(unlock(keys, passphrase).with_context(reading)?))
    }

    /// The same, and asks for the passphrase on the terminal, or reads it from standard input.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn read_asking(path: &Path) -> Result<Self> {
        Self::read(path, || terminal::read_secret("passphrase of the private key"))
    }

    /// Opens the sealed `message`, of `size` bytes, into `out`. What was written counts only when this returns without
    /// error: whether the message was changed on its way shows at its end.
    ///
    /// No more comes out than went in: only a message that is compressed inside could be larger, and ours never are. Whoever
    /// can write to the bucket can put one there, which shall not fill the disk, whatever the library can unpack.
    ///
    /// # Errors
    /// It isn't sealed, not for these keys, it was changed, it is larger opened than sealed, or reading or writing failed.
    pub fn open(&self, message: impl Read + Send + Sync, size: u64, out: &mut impl Write, stop: &Stop) -> Result<()> {
        let mut message = DecryptorBuilder::from_reader(message)
            .and_then(|message| message.buffer_size(BLOCK).with_policy(&POLICY, None, Helper(&self.0)))
            .map_err(|error| plain(&error))?;
        let mut block = vec![0; BLOCK];
        let mut left = size;
        loop {
            stop.check()?;
            match message.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    left = left.checked_sub(length as u64).with_context(|| {
                        format!("more comes out of it than its {size} bytes, which is so of no copy of ours: it was put there")
                    })?;
                    out.write_all(&block[..length]).context("writing what was opened")?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(plain(&error.into())),
            }
        }
    }
}

/// Whether only the place of the private key is told, as GnuPG does for keys on smart cards, and for those that it left out of
/// an export: by a way of locking of its own, which no passphrase opens.
fn is_elsewhere(key: &Key<SecretParts, UnspecifiedRole>) -> bool {
    matches!(key.secret(), SecretKeyMaterial::Encrypted(locked) if matches!(locked.s2k(), S2K::Private { .. }))
}

fn unlock(
    keys: Vec<Key<SecretParts, UnspecifiedRole>>,
    passphrase: impl FnOnce() -> Result<Secret<String>>,
) -> Result<Vec<KeyPair>> {
    let (open, locked): (Vec<_>, Vec<_>) = keys.into_iter().partition(Key::has_unencrypted_secret);
    let mut pairs = Vec::new();
    for key in open {
        pairs.push(key.into_keypair()?);
    }
    if !locked.is_empty() {
        let typed = passphrase()?;
        let passphrase = Password::from(typed.expose().trim_end_matches(['\n', '\r']));
        let unlocked = locked.into_iter().filter_map(|key| key.decrypt_secret(&passphrase).ok());
        let open = pairs.len();
        for key in unlocked {
            pairs.push(key.into_keypair()?);
        }
        ensure!(!pairs.is_empty() || !typed.expose().trim().is_empty(), "it is locked, and no passphrase was given");
        ensure!(!pairs.is_empty(), "the passphrase is wrong");
        if pairs.len() == open {
            tracing::warn!("the passphrase is wrong: only keys that aren't locked are tried");
        }
    }
    Ok(pairs)
}

/// What is said of a message for others.
const STRANGER: &str = "it isn't sealed for this key: name the private key of one of those whom it was sealed for";

struct Helper<'a>(&'a [KeyPair]);

impl DecryptionHelper for Helper<'_> {
    fn decrypt(
        &mut self,
        pkesks: &[PKESK],
        _: &[SKESK],
        algorithm: Option<SymmetricAlgorithm>,
        decrypt: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> sequoia_openpgp::Result<Option<Cert>> {
        for pkesk in pkesks {
            // A recipient may be hidden, and then any key may fit.
            let fits = |pair: &&KeyPair| {
                pkesk.recipient().is_none_or(|recipient| recipient.aliases(KeyHandle::from(pair.public().fingerprint())))
            };
            for pair in self.0.iter().filter(fits) {
                let opened = pkesk.decrypt(&mut pair.clone(), algorithm);
                if opened.is_some_and(|(algorithm, key)| decrypt(algorithm, &key)) {
                    return Ok(None);
                }
            }
        }
        Err(anyhow!(STRANGER))
    }
}

impl VerificationHelper for Helper<'_> {
    fn get_certs(&mut self, _: &[KeyHandle]) -> sequoia_openpgp::Result<Vec<Cert>> {
        Ok(Vec::new())
    }

    fn check(&mut self, structure: MessageStructure) -> sequoia_openpgp::Result<()> {
        if structure.iter().any(|layer| matches!(layer, MessageLayer::Encryption { .. })) {
            return Ok(());
        }
        Err(anyhow!("it isn't sealed at all"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::SystemTime;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use sequoia_openpgp::cert::CertBuilder;
    use sequoia_openpgp::crypto::S2K;
    use sequoia_openpgp::crypto::mpi::SecretKeyChecksum;
    use sequoia_openpgp::packet::Key;
    use sequoia_openpgp::packet::key::{Encrypted, SecretParts, UnspecifiedRole};
    use sequoia_openpgp::serialize::SerializeInto as _;
    use sequoia_openpgp::serialize::stream::{Encryptor, LiteralWriter, Message};
    use sequoia_openpgp::types::SymmetricAlgorithm;
    use sequoia_openpgp::{Cert, Packet, serialize::Serialize as _};

    use super::{Keys, STRANGER};
    use crate::config::Recipient;
    use crate::openpgp::{POLICY, Recipients};
    use crate::secret::Secret;
    use crate::stop::Stop;

    fn certificate(passphrase: Option<&str>) -> Cert {
        let builder = CertBuilder::general_purpose(Some("owner@example.org"));
        builder.set_password(passphrase.map(Into::into)).generate().unwrap().0
    }

    /// `content` sealed for the certificate.
    fn sealed(certificate: &Cert, content: &[u8]) -> Vec<u8> {
        let armored = String::from_utf8(certificate.armored().to_vec().unwrap()).unwrap();
        let recipients =
            Recipients::at(&[Recipient { fingerprint: certificate.fingerprint().to_hex(), armored }], SystemTime::now());
        let mut sealed = Vec::new();
        recipients.seal(&mut &content[..], &mut sealed, false).unwrap();
        sealed
    }

    fn keys(certificate: &Cert, typed: Option<&str>) -> Result<Keys, String> {
        keys_of(&[certificate], typed)
    }

    /// The keys of a file with all of these.
    fn keys_of(certificates: &[&Cert], typed: Option<&str>) -> Result<Keys, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        for certificate in certificates {
            certificate.as_tsk().serialize(&mut file.as_file()).unwrap();
        }
        let passphrase = || Ok(Secret::new(String::from(typed.expect("it isn't asked for"))));
        Keys::read(file.path(), passphrase).map_err(|error| format!("{error:#}").replace(file.path().to_str().unwrap(), "FILE"))
    }

    fn opened(keys: &Keys, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        keys.open(message, message.len() as u64, &mut out, &Stop::default()).map(|()| out).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_was_sealed_opens_with_the_key_locked_or_not() {
        let content = vec![7; 3_000_000];
        let open = certificate(None);
        assert_eq!(opened(&keys(&open, None).unwrap(), &sealed(&open, &content)).unwrap(), content);
        let locked = certificate(Some("correct horse"));
        assert_eq!(opened(&keys(&locked, Some("correct horse\n")).unwrap(), &sealed(&locked, &content)).unwrap(), content);
        assert_eq!(keys(&locked, Some("wrong\n")).err().unwrap(), "reading the private key FILE: the passphrase is wrong");
    }

    #[test]
    fn a_locked_key_is_tried_beside_one_that_is_not() {
        let (open, locked) = (certificate(None), certificate(Some("correct horse")));
        let both = [&open, &locked];
        let keys = keys_of(&both, Some("correct horse")).unwrap();
        for owner in both {
            assert_eq!(opened(&keys, &sealed(owner, b"content")).unwrap(), b"content");
        }
        // Whoever doesn't know it gets by with the other.
        let keys = keys_of(&both, Some("wrong")).unwrap();
        assert_eq!(opened(&keys, &sealed(&open, b"content")).unwrap(), b"content");
        assert_eq!(opened(&keys, &sealed(&locked, b"content")).unwrap_err(), STRANGER);
    }

    #[test]
    fn a_key_on_a_smart_card_is_told_from_a_wrong_passphrase() {
        let owner = certificate(None);
        // What GnuPG writes for it: a way of locking of its own (101), "GNU", and 2 for "on a card".
        let stub = |key: Key<SecretParts, UnspecifiedRole>| -> Packet {
            let s2k = S2K::Private { tag: 101, parameters: Some(Box::from(&b"\0GNU\x02"[..])) };
            let on_card = Encrypted::new(s2k, SymmetricAlgorithm::AES128, Some(SecretKeyChecksum::SHA1), Box::default());
            Packet::from(key.parts_into_public().role_into_subordinate().add_secret(on_card.into()).0)
        };
        let for_encryption = owner.keys().secret().filter(|key| key.key().pk_algo().for_encryption());
        let stubs: Vec<Packet> = for_encryption.map(|key| stub(key.key().clone())).collect();
        let on_card = owner.clone().strip_secret_key_material().insert_packets(stubs).unwrap().0;
        let error = keys(&on_card, None).err().unwrap();
        assert!(error.starts_with("reading the private key FILE: it only says that the private key is elsewhere"), "{error}");
        // Beside a real one it doesn't matter.
        let other = certificate(None);
        assert_eq!(opened(&keys_of(&[&on_card, &other], None).unwrap(), &sealed(&other, b"content")).unwrap(), b"content");
    }

    #[test]
    fn content_of_any_length_opens_again() {
        let owner = certificate(None);
        let keys = keys(&owner, None).unwrap();
        let mut content = vec![0; (2 << 20) + 8];
        openssl::rand::rand_bytes(&mut content).unwrap();
        // Where lengths are written in another way, and where chunks end.
        for (before, border) in [(0, 0), (30, 192), (30, 8384), (40, 1 << 20), (40, 2 << 20)] {
            for size in border - before..border + 8 {
                assert!(opened(&keys, &sealed(&owner, &content[..size])).unwrap() == content[..size], "{size}");
            }
        }
    }

    #[test]
    fn another_key_a_changed_a_cut_and_an_unsealed_message_are_refused() {
        let (owner, stranger) = (certificate(None), certificate(None));
        let message = sealed(&owner, &vec![7; 3_000_000]);
        let owner = keys(&owner, None).unwrap();
        assert_eq!(opened(&keys(&stranger, None).unwrap(), &message).unwrap_err(), STRANGER);
        // In the middle of the content, in its last bytes, in the code that ends the message.
        for place in [1_500_000, message.len() - 60, message.len() - 1] {
            let mut changed = message.clone();
            changed[place] ^= 1;
            assert!(opened(&owner, &changed).is_err(), "{place}");
        }
        assert!(opened(&owner, &message[..message.len() - 100]).is_err());
        assert!(opened(&owner, &message[..1_500_000]).is_err());
        let mut plain = Vec::new();
        let mut writer = LiteralWriter::new(Message::new(&mut plain)).build().unwrap();
        writer.write_all(b"content").unwrap();
        writer.finalize().unwrap();
        assert_eq!(opened(&owner, &plain).unwrap_err(), "it isn't sealed at all");
        assert!(opened(&owner, b"").is_err());
    }

    #[test]
    fn a_message_that_grows_when_opened_is_refused_before_it_fills_the_disk() {
        let owner = certificate(None);
        let mut message = Vec::new();
        let keys_of = owner.keys().with_policy(&POLICY, None).for_storage_encryption();
        let mut inner = Encryptor::for_recipients(Message::new(&mut message), keys_of).build().unwrap();
        let mut literal = Vec::new();
        let mut writer = LiteralWriter::new(Message::new(&mut literal)).build().unwrap();
        writer.write_all(&vec![0; 16 << 20]).unwrap();
        writer.finalize().unwrap();
        let mut zip = DeflateEncoder::new(Vec::new(), Compression::default());
        zip.write_all(&literal).unwrap();
        let packed = zip.finish().unwrap();
        // A packet of compressed data, its length in four bytes, and ZIP as its algorithm.
        let length = u32::try_from(packed.len() + 1).unwrap().to_be_bytes();
        inner.write_all(&[&[0xc8, 0xff], &length[..], &[1], &packed].concat()).unwrap();
        inner.finalize().unwrap();
        let mut out = Vec::new();
        let size = message.len() as u64;
        let opened = keys(&owner, None).unwrap().open(&message[..], size, &mut out, &Stop::default());
        assert!(opened.is_err());
        assert!(out.len() as u64 <= size, "{} of {size}", out.len());

        // Whatever makes it grow.
        let mut out = Vec::new();
        let error = keys(&owner, None).unwrap().open(&sealed(&owner, &[7; 1000])[..], 999, &mut out, &Stop::default());
        let told = "more comes out of it than its 999 bytes, which is so of no copy of ours: it was put there";
        assert_eq!((error.unwrap_err().to_string().as_str(), out.len()), (told, 0));
    }

    #[test]
    fn a_file_without_a_private_key_says_what_to_do() {
        let public = certificate(None).strip_secret_key_material();
        let error = keys(&public, None).err().unwrap();
        assert!(error.starts_with("reading the private key FILE: it has no private key for decryption\nhint: export"), "{error}");
    }
}
