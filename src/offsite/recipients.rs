//! Whom copies and reports are sealed for: each certificate with what can be done with it today.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use sequoia_openpgp::Cert;
use sequoia_openpgp::parse::Parse as _;
use serde::Serialize;

use crate::config::{self, Config};
use crate::log::printable;
use crate::openpgp::{Recipients, expiry, remedy};

/// A certificate of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its fingerprint, in upper-case hexadecimal.
    pub fingerprint: String,
    /// Whom it says that it is of: its first user ID, made printable. Nobody vouches for that but whoever wrote the config.
    pub user: Option<String>,
    /// The algorithms of its keys for encryption.
    pub algorithms: Vec<String>,
    /// From when on it can't be sealed for; none when that is never, or when it can't even now.
    pub expires: Option<Timestamp>,
    /// Why it can't be sealed for today, or soon won't be, told for a person.
    pub problem: Option<String>,
    /// Whether it can be sealed for today.
    pub usable: bool,
}

/// All certificates of `config`, as of `now`.
pub fn show(config: &Config, now: SystemTime) -> Vec<Shown> {
    config.recipients.iter().map(|recipient| one(recipient, now)).collect()
}

fn one(recipient: &config::Recipient, now: SystemTime) -> Shown {
    let looked = Recipients::at(std::slice::from_ref(recipient), now);
    let certificate = Cert::from_bytes(&recipient.armored).ok();
    let user =
        certificate.as_ref().and_then(|certificate| certificate.userids().next().map(|user| user.userid().value().to_vec()));
    let unusable = looked.unusable().first().map(|problem| format!("{problem}\nhint: {}", remedy(problem)));
    let problem = unusable.or_else(|| looked.expiring().first().cloned());
    Shown {
        fingerprint: recipient.fingerprint.clone(),
        user: user.map(|user| printable(&user)),
        algorithms: looked.keys().iter().map(|key| key_name(&key.pk_algo().to_string(), key.mpis().bits())).collect(),
        expires: certificate.filter(|_| looked.any()).and_then(|certificate| expiry(&certificate, now)?.try_into().ok()),
        problem,
        usable: looked.any(),
    }
}

/// An algorithm, with the length of its keys where it has several.
fn key_name(algorithm: &str, bits: Option<usize>) -> String {
    match bits {
        Some(bits) if algorithm.contains("RSA") || algorithm.contains("ElGamal") => format!("{algorithm}, {bits} bits"),
        _ => algorithm.to_owned(),
    }
}

/// A few lines each, for a person.
pub fn text(shown: &[Shown]) -> String {
    let mut text = String::new();
    for Shown { fingerprint, user, algorithms, expires, problem, usable } in shown {
        let until = match (usable, expires) {
            (false, _) => String::from("CAN'T BE SEALED FOR"),
            (true, None) => String::from("never expires"),
            (true, Some(expires)) => format!("expires {expires:.0}"),
        };
        let lines = [
            Some(format!("{fingerprint}  {until}")),
            user.as_ref().map(|user| format!("  {user}")),
            (!algorithms.is_empty()).then(|| format!("  {}", algorithms.join("; "))),
            problem.as_ref().map(|problem| format!("  {}", problem.replace('\n', "\n  "))),
        ];
        for line in lines.into_iter().flatten() {
            writeln!(text, "{line}").expect("writing to a string doesn't fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use sequoia_openpgp::Cert;
    use sequoia_openpgp::cert::{CertBuilder, CipherSuite};
    use sequoia_openpgp::packet::Signature;
    use sequoia_openpgp::serialize::SerializeInto as _;

    use super::{one, text};
    use crate::config::Recipient;

    fn recipient(certificate: &Cert) -> Recipient {
        let armored = String::from_utf8(certificate.armored().to_vec().unwrap()).unwrap();
        Recipient { fingerprint: certificate.fingerprint().to_hex(), armored }
    }

    fn made(name: &str, suite: CipherSuite) -> (Cert, Signature) {
        CertBuilder::general_purpose(Some(name)).set_cipher_suite(suite).generate().unwrap()
    }

    #[test]
    fn a_good_certificate_is_shown_with_whom_it_is_of() {
        let (certificate, _) = made("Owner \u{1b}[2J <me@example.org>", CipherSuite::RSA3k);
        let shown = one(&recipient(&certificate), SystemTime::now());
        assert!(shown.usable && shown.problem.is_none(), "{shown:?}");
        assert_eq!(shown.user.as_deref(), Some("Owner \\u{1b}[2J <me@example.org>"));
        assert_eq!(shown.algorithms.len(), 1);
        assert!(shown.algorithms[0].contains("RSA") && shown.algorithms[0].ends_with(", 3072 bits"), "{shown:?}");
    }

    #[test]
    fn what_cannot_be_sealed_for_says_why_and_what_helps() {
        let now = SystemTime::now();
        let (good, revocation) = made("me@example.org", CipherSuite::Cv25519);
        let (revoked, _) = good.clone().insert_packets(revocation).unwrap();
        let expired = CertBuilder::general_purpose(Some("me@example.org"))
            .set_creation_time(now - Duration::from_hours(48))
            .set_validity_period(Duration::from_hours(24))
            .generate()
            .unwrap()
            .0;
        for (certificate, told, helps) in [
            (&revoked, "it was revoked", "\nhint: take another certificate"),
            (&expired, "it isn't valid now", "\nhint: extend it with `gpg --quick-set-expire`"),
        ] {
            let shown = one(&recipient(certificate), now);
            let problem = shown.problem.clone().unwrap();
            assert!(!shown.usable && problem.contains(told) && problem.contains(helps), "{shown:?}");
            assert!(text(&[shown]).contains("  CAN'T BE SEALED FOR\n"));
        }
    }

    #[test]
    fn one_that_will_expire_is_usable_and_says_when() {
        let now = SystemTime::now();
        let builder = CertBuilder::general_purpose(Some("me@example.org")).set_creation_time(now);
        let certificate = builder.set_validity_period(Duration::from_hours(30 * 24)).generate().unwrap().0;
        let shown = one(&recipient(&certificate), now + Duration::from_mins(1));
        assert!(shown.usable && shown.problem.as_ref().unwrap().contains("expires in 29 days\nhint: "), "{shown:?}");
        let expires = shown.expires.unwrap();
        assert!(text(&[shown]).contains(&format!("  expires {expires:.0}\n")));
    }
}
