//! Certificates: OpenPGP's, which copies and reports are sealed for, and those of authorities that vouch for servers.

use std::io::Read as _;

use openssl::x509::X509;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sequoia_openpgp::Cert;
use sequoia_openpgp::armor::{Kind, Reader, ReaderMode};
use sequoia_openpgp::cert::amalgamation::key::PrimaryKey as _;
use sequoia_openpgp::cert::prelude::CertParser;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::parse::Parse as _;

use super::error::Fault;
use super::{Recipient, public_key};

/// One OpenPGP certificate in ASCII armor, with a key that can be encrypted to. Nothing of the text gets into an error.
pub(super) fn recipient(text: &str) -> Result<Recipient, Fault> {
    let hint = "write what `gpg --armor --export you@example.org` prints, between \"\"\" and \"\"\"";
    if text.to_ascii_uppercase().contains("PRIVATE KEY") {
        return Err(Fault::new(
            "this is a private key, which must never be on the appliance",
            format!("take it out of the file and keep it safe; {hint}"),
        ));
    }
    if text.matches("-----BEGIN").count() > 1 {
        return Err(Fault::new("holds several certificates", "write each as an element of the list of its own"));
    }
    let mut binary = Vec::new();
    let armored = Reader::from_bytes(text.as_bytes(), ReaderMode::Tolerant(Some(Kind::PublicKey))).read_to_end(&mut binary);
    let certificates: Vec<Cert> = match armored.map_err(Into::into).and_then(|_| CertParser::from_bytes(&binary)) {
        Ok(parser) => parser.filter_map(Result::ok).collect(),
        Err(_) => Vec::new(),
    };
    let [certificate] = certificates.as_slice() else {
        return Err(match certificates.len() {
            0 => Fault::new("is not an OpenPGP certificate, or not a whole one", hint),
            _ => Fault::new("holds several certificates", "write each as an element of the list of its own"),
        });
    };
    if certificate.is_tsk() {
        return Err(Fault::new(
            "holds a private key, which must never be on the appliance",
            format!("take it out of the file and keep it safe; {hint}"),
        ));
    }
    if certificate.primary_key().key().version() > 4 {
        return Err(Fault::new(
            "is of version 6 (RFC 9580), which GnuPG doesn't read, now or in ten years",
            "make a key that it reads, with `gpg --quick-generate-key you@example.org future-default default never`, and take \
             its certificate",
        ));
    }
    // What may be encrypted to is judged on the day; but a certificate that only signs never will do.
    let says_so = |signature: &Signature| {
        signature.key_flags().is_some_and(|flags| flags.for_storage_encryption() || flags.for_transport_encryption())
    };
    let can_encrypt = certificate.keys().any(|key| {
        // GnuPG writes what the primary key is for beside the user's name.
        let may = key.self_signatures().any(says_so)
            || key.primary() && certificate.userids().any(|user| user.self_signatures().any(says_so));
        may && key.key().pk_algo().for_encryption()
    });
    if !can_encrypt {
        return Err(Fault::new(
            "has no key to encrypt to",
            "add one with `gpg --quick-add-key FINGERPRINT`, and export the certificate again",
        ));
    }
    Ok(Recipient { fingerprint: certificate.fingerprint().to_hex(), armored: String::from(text.trim()) })
}

/// Certificates of authorities, in PEM, which TLS takes for such: rustls is asked, since it is what speaks TLS at night, and
/// the S3 client would panic at one that it refuses.
pub(super) fn authorities(text: &str) -> Result<String, Fault> {
    let hint = "write the authority's certificate in PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----";
    if public_key::is_private(text) {
        return Err(Fault::new("this is a private key, which must not stand in here", hint));
    }
    match X509::stack_from_pem(text.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => {}
        _ => return Err(Fault::new("is not a certificate in PEM, or not a whole one", hint)),
    }
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::pem_slice_iter(text.as_bytes())
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    if !trusted || roots.is_empty() {
        return Err(Fault::new("holds a certificate that can't vouch for a server", hint));
    }
    Ok(String::from(text))
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509;
    use sequoia_openpgp::Profile;
    use sequoia_openpgp::cert::CertBuilder;
    use sequoia_openpgp::serialize::SerializeInto as _;

    use super::{authorities, recipient};
    use crate::config::EXAMPLE;

    /// The certificate that stands in the example.
    fn armored() -> String {
        let from = EXAMPLE.find("#   -----BEGIN PGP").unwrap();
        let to = EXAMPLE.find("-----END PGP PUBLIC KEY BLOCK-----").unwrap();
        let lines = EXAMPLE[from..to].lines().map(|line| line.trim_start_matches('#').trim_start());
        lines.collect::<Vec<_>>().join("\n") + "-----END PGP PUBLIC KEY BLOCK-----"
    }

    #[test]
    fn a_certificate_passes_with_its_fingerprint() {
        assert_eq!(recipient(&armored()).unwrap().fingerprint, "1DF78BEDCCB6BEE3A22A82F9A0390E1D9B1AE3ED");
    }

    #[test]
    fn what_is_no_single_public_certificate_is_refused_without_showing_it() {
        let half = armored().replace("EgorBgEEAZdVAQUBAQdArl0bltEYfzZmXhu279xmbB3HS+XWFSPvjKbENGLgKSAD", "");
        let secret = armored().replace("PUBLIC", "PRIVATE");
        let foreign = armored().replace("PUBLIC KEY BLOCK", "SIGNATURE");
        for (text, message) in [
            ("hunter2", "is not an OpenPGP certificate, or not a whole one"),
            ("", "is not an OpenPGP certificate, or not a whole one"),
            (foreign.as_str(), "is not an OpenPGP certificate, or not a whole one"),
            (secret.as_str(), "this is a private key, which must never be on the appliance"),
        ] {
            assert_eq!(recipient(text).unwrap_err().message, message);
        }
        assert!(recipient(&half).is_err());
        let made =
            CertBuilder::general_purpose(Some("me@example.org")).set_profile(Profile::RFC9580).unwrap().generate().unwrap();
        let newest = String::from_utf8(made.0.armored().to_vec().unwrap()).unwrap();
        let fault = recipient(&newest).unwrap_err();
        assert_eq!(fault.message, "is of version 6 (RFC 9580), which GnuPG doesn't read, now or in ten years");
        assert!(fault.hint.unwrap().contains("gpg --quick-generate-key"));
        let twice = format!("{0}\n{0}", armored());
        assert_eq!(recipient(&twice).unwrap_err().message, "holds several certificates");
        assert_eq!(authorities("hunter2").unwrap_err().message, "is not a certificate in PEM, or not a whole one");
    }

    /// An authority's certificate in PEM. 2 stands for version 3, 1 for the version 2 that OpenSSL takes too.
    fn authority(version: i32) -> String {
        let key = PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(version).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_serial_number(&BigNum::from_u32(1).and_then(|one| one.to_asn1_integer()).unwrap()).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        String::from_utf8(certificate.build().to_pem().unwrap()).unwrap()
    }

    #[test]
    fn authorities_are_what_tls_can_trust() {
        let (good, bad) = (authority(2), authority(1));
        assert!(authorities(&good).is_ok() && authorities(&format!("{good}{good}")).is_ok());
        for text in [bad.clone(), format!("{good}{bad}")] {
            let told = "holds a certificate that can't vouch for a server";
            assert_eq!(authorities(&text).map_err(|fault| fault.message), Err(told.into()));
        }
    }
}
