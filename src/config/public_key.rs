//! ssh public keys in OpenSSH's one-line form: a type, the key in base64, a comment.
//!
//! The encodings are those of RFC 4253 section 6.6 (RSA), RFC 5656 section 3.1 (ECDSA), RFC 8709 section 4 (Ed25519) and
//! OpenSSH's PROTOCOL.u2f (`sk-`). A key that was cut short when it was copied is found here, and not on the night when
//! nobody can log in.

use openssl::base64;
use openssl::sha::sha256;

use super::error::Fault;

/// A key's algorithm: the word before it, and what its fields look like after the name.
struct Kind {
    name: &'static str,
    fields: &'static [Field],
}

/// One length-prefixed field of an encoded key.
enum Field {
    /// An Ed25519 key.
    Bytes(usize),
    /// The name of a curve.
    Word(&'static str),
    /// A point of a curve, uncompressed: the byte 4, then two coordinates; this many bytes in all.
    Point(usize),
    /// A number or text that isn't empty.
    Any,
}

const KINDS: [Kind; 7] = [
    Kind { name: "ssh-ed25519", fields: &[Field::Bytes(32)] },
    Kind { name: "ecdsa-sha2-nistp256", fields: &[Field::Word("nistp256"), Field::Point(65)] },
    Kind { name: "ecdsa-sha2-nistp384", fields: &[Field::Word("nistp384"), Field::Point(97)] },
    Kind { name: "ecdsa-sha2-nistp521", fields: &[Field::Word("nistp521"), Field::Point(133)] },
    Kind { name: "ssh-rsa", fields: &[Field::Any, Field::Any] },
    Kind { name: "sk-ssh-ed25519@openssh.com", fields: &[Field::Bytes(32), Field::Any] },
    Kind { name: "sk-ecdsa-sha2-nistp256@openssh.com", fields: &[Field::Word("nistp256"), Field::Point(65), Field::Any] },
];

/// What sshd on the appliance asks of RSA keys.
const LEAST_RSA_BYTES: usize = 2048 / 8;

/// A login key: type, key and, if it has one, its comment.
pub(super) fn login(text: &str) -> Result<String, Fault> {
    let (kind, key, comment) = split(text, "the content of ~/.ssh/id_ed25519.pub")?;
    if kind == "ssh-rsa" && modulus_bytes(key) < LEAST_RSA_BYTES {
        let message = "is an RSA key of less than 2048 bits, which the appliance doesn't let in";
        return Err(Fault::new(message, "make a new one with `ssh-keygen -t ed25519`, and copy the content of its .pub file"));
    }
    Ok(if comment.is_empty() { format!("{kind} {key}") } else { format!("{kind} {key} {comment}") })
}

/// How many bytes the modulus of an RSA key has, but for a zero before them; of one that passed.
fn modulus_bytes(key: &str) -> usize {
    let decoded = base64::decode_block(key).unwrap_or_default();
    let mut rest = decoded.as_slice();
    // The name of the type and the exponent come first.
    let modulus = take(&mut rest).and_then(|_| take(&mut rest)).and_then(|_| take(&mut rest)).unwrap_or_default();
    modulus.iter().skip_while(|byte| **byte == 0).count()
}

/// A server's key: type and key. The comment that the server's own `.pub` file has is dropped.
pub(super) fn host(text: &str) -> Result<String, Fault> {
    let (kind, key, _) = split(text, "the content of the server's /etc/ssh/ssh_host_ed25519_key.pub")?;
    Ok(format!("{kind} {key}"))
}

/// Whether a text is, or holds the beginning of, a private key: PEM, `PuTTY`'s form, or OpenSSH's without its first line.
pub(super) fn is_private(text: &str) -> bool {
    text.to_ascii_uppercase().contains("PRIVATE KEY")
        || text.starts_with("PuTTY-User-Key-File")
        || text.trim_start().starts_with("b3BlbnNzaC1rZXktdjE")
}

/// How `ssh-keygen -l` shows a key that passed: its type, its SHA-256 fingerprint, its comment.
pub(super) fn fingerprint(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let digest = base64::encode_block(&sha256(&base64::decode_block(key).unwrap_or_default()));
    let shown = format!("{kind} SHA256:{}", digest.trim_end_matches('='));
    words.next().map_or_else(|| shown.clone(), |comment| format!("{shown} {comment}"))
}

/// Splits a line into type, key and comment, all checked. Nothing of the line gets into an error.
fn split<'a>(text: &'a str, origin: &str) -> Result<(&'a str, &'a str, &'a str), Fault> {
    let copy = format!("copy {origin}, one line, into the quotes");
    let refusal = |message: &str| Err(Fault::new(message, copy.clone()));
    if is_private(text) {
        return Err(Fault::new(
            "this is a private key, which must never leave its owner",
            format!("take it out of the file and replace it by a new key pair; {copy}"),
        ));
    }
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() {
        return refusal("is empty");
    }
    // A second line would be a second entry in authorized_keys, options and all.
    if text.chars().any(char::is_control) {
        return refusal("has a line break or another control character in it");
    }
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (key, comment) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
    let Some(known) = KINDS.iter().find(|known| known.name == kind) else {
        let later = text.split(' ').skip(1).any(|word| KINDS.iter().any(|known| known.name == word));
        if later {
            return refusal("must begin with the key's type: neither options nor a host name may stand before it");
        }
        let names: Vec<_> = KINDS.iter().map(|known| known.name).collect();
        return Err(Fault::new("is not a public key of a known type", format!("{copy}; the types are {}", names.join(", "))));
    };
    match check(known, key) {
        Ok(()) => Ok((kind, key, comment.trim_start())),
        Err(message) => refusal(&message),
    }
}

/// Checks that `key` is the base64 of a key of this kind, whole and with nothing behind it.
fn check(kind: &Kind, key: &str) -> Result<(), String> {
    let body = key.trim_end_matches('=');
    let is_base64 = body.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    if key.is_empty() {
        return Err(String::from("has nothing after its type"));
    }
    if !is_base64 || !key.len().is_multiple_of(4) || key.len() - body.len() > 2 {
        return Err(String::from("isn't whole: what follows its type is not base64"));
    }
    let decoded = base64::decode_block(key).map_err(|_| String::from("isn't whole: what follows its type is not base64"))?;
    let mut rest = decoded.as_slice();
    let inside = take(&mut rest);
    if inside.is_some_and(|inside| inside != kind.name.as_bytes()) {
        return Err(format!("says {} but is another type of key inside", kind.name));
    }
    let whole = kind.fields.iter().all(|field| {
        take(&mut rest).is_some_and(|bytes| match field {
            Field::Bytes(length) => bytes.len() == *length,
            Field::Word(word) => bytes == word.as_bytes(),
            Field::Point(length) => bytes.len() == *length && bytes[0] == 4,
            Field::Any => !bytes.is_empty(),
        })
    });
    if inside.is_some() && whole && rest.is_empty() {
        Ok(())
    } else {
        Err(String::from("isn't whole: it is shorter or longer than such a key is"))
    }
}

/// Takes one field off `rest`: four bytes of length, the highest first, and as many bytes (RFC 4251 section 5, `string`).
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (field, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = tail;
    Some(field)
}

#[cfg(test)]
mod tests {
    use openssl::base64;

    use super::{fingerprint, host, login};

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG65R/rxCkCfjr73Lwin1PSEziRs2SzUZZwjkk0qCzY3";

    /// Keys as ssh-keygen made them, with comments.
    const OTHERS: [&str; 4] = [
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAOH5l5h3MXX0n1UxA6018VxPywWgUN1QpKWLBlb6uP1xY5G6IDdREiKIe6APQC+QtgJ5kLWeTMyA8dGqNEdJzg= me@laptop",
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBDSABhj6EMgkJjKUXbdZeYO3pSfEyzx/jqqh9sZ7PU9z7OJ3+lbIBfvNLfkOpdVriQcbyMiFBMFxGm/Af7QFT6kz9aUFSQltNeq1YqaAjWdNvePd3gyW6ZtvdwFT5FS5IA== me@laptop",
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAHZJaCYpqa16xYENui006NyGMyGUYLTzpRw4/EksWzKmpV9jSsM590al7D5BxUQz3VBKPI6ouxW79KmztIKBDsH0QD39FV2PdPFppwOHtqXXQLCP2wZ48z/iQ81FmVdvO7D5swltJXTWwg88S410IWnJEfWGITppLdVGpbBI7rKL4Fg+Q== me@laptop",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCSBRLRibyLPi/C9oLd1xJvplEhJ3U8JbD7IS34EBf5S7/9264leDUuM/5e3EImXw5lPs2WtrR56pcfHLZlBgX2MU3qodkEkgFm1GQX3V9CtU62TVI7oVUMRkykff1pClT5sVrYqGiQk3/oVG+TeaKXP2u99/GcSC7GdFWpF/CEyx1j3D18MiK+EQjq9UGc4kwRqRBavImZD75s0FGfUyDqxfHGhdr638nUAC6ISEoYyx3AGtt9qe48Kuhm9clQC+5FIwt42em5Z+++Sp0lFsv0ly7AjvHUr2L4rqYI5/MzZXiyNeQCCXwE3N8vIdeFpIHEP4talF33S3M6BI7nVQlv me@laptop",
    ];

    fn encode(kind: &str, fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in [kind.as_bytes()].iter().chain(fields) {
            blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend(*field);
        }
        format!("{kind} {}", base64::encode_block(&blob))
    }

    #[test]
    fn keys_of_every_type_pass() {
        for key in OTHERS {
            assert_eq!(login(key).as_deref(), Ok(key));
            assert_eq!(host(key).as_deref(), Ok(key.trim_end_matches(" me@laptop")));
        }
        let point: Vec<u8> = (0..65).map(|index| if index == 0 { 4 } else { 9 }).collect();
        for key in [
            String::from(ED25519),
            encode("sk-ssh-ed25519@openssh.com", &[&[7; 32], b"ssh:"]),
            encode("sk-ecdsa-sha2-nistp256@openssh.com", &[b"nistp256", &point, b"ssh:"]),
        ] {
            assert_eq!(login(&key), Ok(key.clone()));
            assert_eq!(login(&format!("  {key}  a comment of words\n")), Ok(format!("{key} a comment of words")));
        }
    }

    #[test]
    fn what_is_no_whole_key_is_refused_without_showing_it() {
        let key = ED25519.split_once(' ').unwrap().1;
        for (text, message) in [
            (String::new(), "is empty"),
            (String::from("ssh-ed25519"), "has nothing after its type"),
            (String::from("hunter2"), "is not a public key of a known type"),
            (String::from("ssh-dss AAAA"), "is not a public key of a known type"),
            (format!("no-pty {ED25519}"), "must begin with the key's type: neither options nor a host name may stand before it"),
            (format!("db.lan {ED25519}"), "must begin with the key's type: neither options nor a host name may stand before it"),
            (format!("ssh-rsa {key}"), "says ssh-rsa but is another type of key inside"),
            (format!("{}…", &ED25519[..60]), "isn't whole: what follows its type is not base64"),
            (String::from(&ED25519[..79]), "isn't whole: what follows its type is not base64"),
            (format!("{ED25519}===="), "isn't whole: what follows its type is not base64"),
            (String::from(&ED25519[..76]), "isn't whole: it is shorter or longer than such a key is"),
            (format!("{ED25519}AAAA"), "isn't whole: it is shorter or longer than such a key is"),
            (encode("ssh-ed25519", &[&[1; 31]]), "isn't whole: it is shorter or longer than such a key is"),
            (encode("ecdsa-sha2-nistp256", &[b"nistp384", &[4; 65]]), "isn't whole: it is shorter or longer than such a key is"),
            (encode("ecdsa-sha2-nistp256", &[b"nistp256", &[2; 65]]), "isn't whole: it is shorter or longer than such a key is"),
            (encode("ssh-rsa", &[b"", b""]), "isn't whole: it is shorter or longer than such a key is"),
            (format!("{ED25519} me\n{ED25519}"), "has a line break or another control character in it"),
            (
                String::from("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"),
                "this is a private key, which must never leave its owner",
            ),
            (String::from("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"), "this is a private key, which must never leave its owner"),
        ] {
            assert_eq!(login(&text).unwrap_err().message, message, "{text}");
            assert_eq!(host(&text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        let expected = "ssh-ed25519 SHA256:IcJvL8tJ+stiG+BsTQeBkeHLyL3K8T35peA9q+5R9Q0";
        assert_eq!(fingerprint(ED25519), expected);
        assert_eq!(fingerprint(&format!("{ED25519} me@laptop")), format!("{expected} me@laptop"));
        assert_eq!(fingerprint(OTHERS[3]), "ssh-rsa SHA256:LbXNeBrTUVeCoBdUqk0wl67JUFIFHkcifTUO1agLztY me@laptop");
    }
}
