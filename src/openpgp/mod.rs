//! Sealing: OpenPGP messages (RFC 9580) that only the owner's private key opens, which is never on the appliance.
//!
//! Whatever a certificate advertises, a message is made so that GnuPG 2.2 reads it, for as long as there are archives of it:
//! session keys in version 3 packets, one encrypted container with a modification detection code (SEIPD version 1), AES-256,
//! and no compression, since what is sealed is compressed already.
//!
//! Certificates expire and are revoked, so which of them can be used is asked anew each time ([`Recipients::at`]).

mod cfb;
mod message;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use sequoia_openpgp::Cert;
use sequoia_openpgp::armor;
use sequoia_openpgp::cert::amalgamation::ValidAmalgamation as _;
use sequoia_openpgp::packet::key::{Key, PublicParts, UnspecifiedRole};
use sequoia_openpgp::parse::Parse as _;
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::types::{KeyFlags, RevocationStatus};

use crate::config;
use crate::log::printable;

/// Which algorithms are safe enough.
pub(crate) static POLICY: StandardPolicy<'static> = StandardPolicy::new();

/// The certificates of a configuration, as they stand at one moment.
#[derive(Debug)]
pub struct Recipients {
    usable: Vec<Cert>,
    unusable: Vec<String>,
    expiring: Vec<String>,
    now: SystemTime,
}

/// How long before a certificate expires its owner is told.
const AHEAD: Duration = Duration::from_hours(60 * 24);

/// What helps against one that has expired, or will.
pub const EXTEND: &str = "extend it with `gpg --quick-set-expire`, its subkeys too, and put what `gpg --armor --export` prints into \
                      [openpgp] recipients";

impl Recipients {
    /// Looks at each certificate as of `now`.
    pub fn at(recipients: &[config::Recipient], now: SystemTime) -> Self {
        let mut all = Self { usable: Vec::new(), unusable: Vec::new(), expiring: Vec::new(), now };
        for recipient in recipients {
            let name = format!("the certificate {}", recipient.fingerprint);
            match Cert::from_bytes(&recipient.armored).and_then(|certificate| {
                check(&certificate, now)?;
                Ok(certificate)
            }) {
                Ok(certificate) => {
                    all.expiring.extend(expiring(&certificate, now).map(|when| format!("{name} {when}\nhint: {EXTEND}")));
                    all.usable.push(certificate);
                }
                Err(error) => all.unusable.push(format!("{name}: {error:#}")),
            }
        }
        all
    }

    /// Why some can't be sealed for, a sentence each, with the certificate's fingerprint.
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// Which will soon be unusable, from 60 days before, each told for a person, with what helps.
    pub fn expiring(&self) -> &[String] {
        &self.expiring
    }

    /// Whether there is one to seal for.
    pub fn any(&self) -> bool {
        !self.usable.is_empty()
    }

    /// Refuses when not every one of them can be sealed for: a copy that one of its owners can't open isn't what they
    /// asked for.
    ///
    /// # Errors
    /// Names those that can't, and what helps.
    pub fn require_all(&self) -> Result<()> {
        if self.unusable.is_empty() && self.any() {
            return Ok(());
        }
        let remedies: BTreeSet<&str> = self.unusable.iter().map(|problem| remedy(problem)).collect();
        let remedies: Vec<&str> = remedies.into_iter().collect();
        bail!(
            "{}\nhint: {}\nhint: `vaultberry offsite recipients` shows all of them",
            self.unusable.join("; "),
            remedies.join("\nhint: ")
        )
    }

    /// Seals all of `content` into `out` for those that can be used; in ASCII armor for a mail, binary for a store.
    ///
    /// # Errors
    /// There is none to seal for, or reading or writing failed.
    pub fn seal(&self, content: &mut dyn Read, out: &mut (dyn Write + Send), armored: bool) -> Result<()> {
        let keys = self.keys();
        if keys.is_empty() {
            bail!("sealing: there is no certificate to seal for");
        }
        if !armored {
            return message::write(&keys, content, out).context("sealing");
        }
        let mut armor = armor::Writer::new(out, armor::Kind::Message).context("sealing: beginning the armor")?;
        message::write(&keys, content, &mut armor).context("sealing")?;
        armor.finalize().context("sealing: ending the armor")?;
        Ok(())
    }

    /// The keys for encryption of those that can be used, all of them: which of a certificate's keys its owner still has is
    /// not for us to guess.
    pub fn keys(&self) -> Vec<Key<PublicParts, UnspecifiedRole>> {
        let keys = self.usable.iter().flat_map(|certificate| {
            let keys = certificate.keys().with_policy(&POLICY, self.now).supported().alive().revoked(false);
            keys.key_flags(flags()).map(|key| key.key().clone())
        });
        keys.collect()
    }
}

/// What helps against a certificate that can't be used, for this `problem`.
pub fn remedy(problem: &str) -> &'static str {
    if problem.contains("revoked") {
        "take another certificate, and put it into [openpgp] recipients"
    } else if problem.contains("isn't valid now") {
        EXTEND
    } else {
        "make a new key pair with `gpg --quick-generate-key you@example.org future-default default never`, and put what \
         `gpg --armor --export` prints into [openpgp] recipients; keep the old private key for the old copies"
    }
}

fn flags() -> KeyFlags {
    KeyFlags::empty().set_storage_encryption().set_transport_encryption()
}

/// Whether `certificate` can be encrypted to now; the error says why it can't.
fn check(certificate: &Cert, now: SystemTime) -> Result<()> {
    let valid = certificate.with_policy(&POLICY, now).map_err(|error| plain(&error)).context("it isn't valid")?;
    if let RevocationStatus::Revoked(_) = valid.revocation_status() {
        bail!("it was revoked");
    }
    valid.alive().map_err(|error| plain(&error)).context("it isn't valid now")?;
    let mut reason = None;
    for key in certificate.keys().with_policy(&POLICY, now).supported().key_flags(flags()) {
        match (key.revocation_status(), key.alive()) {
            (RevocationStatus::Revoked(_), _) => reason = Some("its key for encryption was revoked".to_owned()),
            (_, Err(error)) => reason = Some(format!("its key for encryption isn't valid now: {}", plain(&error))),
            (_, Ok(())) => return Ok(()),
        }
    }
    bail!(reason.unwrap_or_else(|| "it has no key for encryption that is supported and safe".to_owned()))
}

/// How soon a usable certificate can't be used any more, when that is soon.
fn expiring(certificate: &Cert, now: SystemTime) -> Option<String> {
    let left = expiry(certificate, now)?.duration_since(now).ok().filter(|left| *left <= AHEAD)?;
    Some(match left.as_secs() / 86_400 {
        0 => String::from("expires within a day"),
        1 => String::from("expires in 1 day"),
        days => format!("expires in {days} days"),
    })
}

/// When a usable certificate can no longer be sealed for; none when that is never.
pub fn expiry(certificate: &Cert, now: SystemTime) -> Option<SystemTime> {
    let valid = certificate.with_policy(&POLICY, now).ok()?;
    let whole = valid.primary_key().key_expiration_time();
    let keys = certificate.keys().with_policy(&POLICY, now).supported().alive().revoked(false).key_flags(flags());
    let times: Vec<Option<SystemTime>> = keys.map(|key| key.key_expiration_time()).collect();
    // One key that lives on is enough.
    let last = if times.contains(&None) { None } else { times.into_iter().flatten().max() };
    [whole, last].into_iter().flatten().min()
}

/// An error of the library on one line.
pub(crate) fn plain(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!(printable(format!("{error:#}").as_bytes()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use sequoia_openpgp::cert::CertBuilder;
    use sequoia_openpgp::packet::Packet;
    use sequoia_openpgp::parse::{PacketParser, PacketParserResult, Parse as _};
    use sequoia_openpgp::serialize::SerializeInto as _;
    use sequoia_openpgp::types::KeyFlags;

    use super::Recipients;
    use crate::config::Recipient;

    /// A certificate that is valid for a day from `from`.
    pub fn recipient(from: SystemTime) -> Recipient {
        let (certificate, _) = CertBuilder::general_purpose(Some("owner@example.org"))
            .set_creation_time(from)
            .set_validity_period(Duration::from_hours(24))
            .generate()
            .unwrap();
        let armored = String::from_utf8(certificate.armored().to_vec().unwrap()).unwrap();
        Recipient { fingerprint: certificate.fingerprint().to_hex(), armored }
    }

    #[test]
    fn a_message_is_of_the_form_that_old_programs_read() {
        let now = SystemTime::now();
        let recipients = Recipients::at(&[recipient(now)], now + Duration::from_mins(1));
        recipients.require_all().unwrap();
        let mut sealed = Vec::new();
        recipients.seal(&mut &b"content"[..], &mut sealed, false).unwrap();
        let mut kinds = Vec::new();
        let mut parsed = PacketParser::from_bytes(&sealed).unwrap();
        while let PacketParserResult::Some(parser) = parsed {
            kinds.push(match &parser.packet {
                Packet::PKESK(packet) => format!("PKESK {}", packet.version()),
                Packet::SEIP(packet) => format!("SEIPD {}", packet.version()),
                other => format!("{:?}", other.tag()),
            });
            parsed = parser.next().unwrap().1;
        }
        assert_eq!(kinds, ["PKESK 3", "SEIPD 1"]);
    }

    #[test]
    fn expiry_is_told_from_sixty_days_before_by_whichever_key_goes_first() {
        let now = SystemTime::now();
        let days = |days: u64| Duration::from_hours(24 * days);
        let made = |whole: Option<Duration>, subkey: Option<Duration>| {
            let builder = CertBuilder::new().set_creation_time(now).set_validity_period(whole);
            let flags = KeyFlags::empty().set_storage_encryption();
            let (certificate, _) = builder.add_subkey(flags, subkey, None).generate().unwrap();
            let armored = String::from_utf8(certificate.armored().to_vec().unwrap()).unwrap();
            Recipient { fingerprint: "F".into(), armored }
        };
        let told =
            |recipient: &Recipient, at: SystemTime| Recipients::at(std::slice::from_ref(recipient), at).expiring().to_vec();
        assert_eq!(told(&made(None, None), now + days(7)), Vec::<String>::new());
        for recipient in [made(Some(days(100)), None), made(Some(days(100)), Some(days(200))), made(None, Some(days(100)))] {
            assert_eq!(told(&recipient, now + days(39)), Vec::<String>::new());
            for (after, when) in [
                (days(40) + days(1) / 2, "in 59 days"),
                (days(98) + days(1) / 2, "in 1 day"),
                (days(99) + days(1) / 2, "within a day"),
            ] {
                let told = told(&recipient, now + after);
                let start = format!("the certificate F expires {when}\nhint: extend it with `gpg --quick-set-expire`");
                assert!(told.len() == 1 && told[0].starts_with(&start), "{told:?} {start}");
            }
            let after = Recipients::at(std::slice::from_ref(&recipient), now + days(101));
            assert_eq!((after.expiring().len(), after.unusable().len()), (0, 1));
        }
    }

    #[test]
    fn an_expired_certificate_is_named_with_what_helps_and_never_sealed_for() {
        let now = SystemTime::now();
        let (old, good) = (recipient(now - Duration::from_hours(48)), recipient(now - Duration::from_mins(1)));
        let both = Recipients::at(&[old.clone(), good], now);
        let error = both.require_all().unwrap_err().to_string();
        let start = format!("the certificate {}: it isn't valid now: ", old.fingerprint);
        assert!(error.starts_with(&start) && error.contains("\nhint: extend it"), "{error}");
        assert!(both.any());
        let none = Recipients::at(&[old], now);
        assert!(!none.any());
        assert!(none.seal(&mut &b""[..], &mut Vec::new(), true).is_err());
    }
}
