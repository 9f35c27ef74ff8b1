//! Masking what could be a secret in text that leaves the appliance or stays in its logs.
//!
//! No secret should get into a log in the first place; this is the net below. Two kinds of things are masked. What the
//! appliance itself logs in with is known word for word, and masked in the forms in which programs repeat it. Everything else
//! is known only by its look: a value after `password=` or the like, an `Authorization:`, an access key of AWS, the password
//! in an address, a UUID in one (whoever knows a ping's address can send pings), a private key in PEM.
//!
//! Lines stay lines, so that masked text can be laid beside what it was made of.

use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use openssl::base64::encode_block;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::credentials;
use crate::markup;

/// What stands for a secret.
pub const MASK: &str = "[masked]";

/// A shorter word stands in every text.
const SHORTEST: usize = 6;

/// A credentials file has a few lines; see [`credentials`](crate::credentials).
const LARGEST: u64 = 64 << 10;

/// How far the end of a private key is looked for, in bytes; the largest have a fifth of it. Each search is bounded, so that
/// a server's text that is made of nothing but beginnings takes no more time than any other.
const LONGEST_KEY: usize = 64 << 10;

/// The same for values.
const LONGEST_VALUE: usize = 4 << 10;

/// What a name has in it whose value is secret.
const TELLTALE: [&str; 8] = ["password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key"];

/// Knows the secrets of an appliance.
#[derive(Clone, Default)]
pub struct Redactor {
    known: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// One that knows what stands in the credentials files of `config`. A file that can't be read has nothing to mask: who
    /// needs it says what is wrong with it.
    pub fn of(config: &Config) -> Self {
        let mut redactor = Self::default();
        let store = config.offsite.iter().map(|offsite| &offsite.credentials);
        let mail = config.report.iter().flat_map(|report| &report.servers).filter_map(|server| server.credentials.as_ref());
        let watcher = config.ping.iter().map(|ping| &ping.credentials);
        store.chain(mail).chain(watcher).for_each(|path| redactor.learn_file(path));
        redactor
    }

    /// Masks `secret` from now on, too, unless it is so short that it would stand in every text.
    pub fn learn(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let json = serde_json::to_string(secret).unwrap_or_default();
        let escaped = json.trim_matches('"').to_owned();
        // Inside of a JSON text in a JSON text, as a program's own JSON stands in the log.
        let twice = escaped.replace('\\', "\\\\").replace('"', "\\\"");
        for form in [secret.to_owned(), escaped, twice, percent(secret), encode_block(secret.as_bytes())] {
            // Each may stand in the report's page, too.
            for form in [markup::escaped(&form), form].map(Zeroizing::new) {
                if form.len() >= SHORTEST && !self.known.contains(&form) {
                    self.known.push(form);
                }
            }
        }
    }

    fn learn_file(&mut self, path: &Path) {
        let mut text = Zeroizing::new(String::new());
        let Ok(file) = credentials::open(path) else { return };
        let Ok(_) = file.take(LARGEST).read_to_string(&mut text) else { return };
        let Ok(table) = text.parse::<toml::Table>() else { return };
        let value = |name: &str| table.get(name).and_then(toml::Value::as_str);
        // A user's name is no secret: it is often the address that the mail comes from.
        for (name, value) in table.iter().filter(|(name, _)| *name != "user") {
            if let (_, Some(value)) = (name, value.as_str()) {
                self.learn(value);
            }
        }
        if let (Some(user), Some(password)) = (value("user"), value("password")) {
            // As it stands in AUTH PLAIN (RFC 4616), and in HTTP's basic authentication (RFC 7617).
            self.learn(&encode_block(format!("\0{user}\0{password}").as_bytes()));
            self.learn(&encode_block(format!("{user}:{password}").as_bytes()));
        }
    }

    /// The text with [`MASK`] wherever a secret stands or seems to. It has as many lines.
    pub fn masked(&self, text: &str) -> String {
        let mut found: Vec<Range<usize>> = Vec::new();
        for known in &self.known {
            found.extend(text.match_indices(known.as_str()).map(|(at, found)| at..at + found.len()));
        }
        private_keys(text, &mut found);
        values(text, &mut found);
        access_keys(text, &mut found);
        addresses(text, &mut found);
        found.sort_by_key(|range| (range.start, range.end));
        let (mut masked, mut done) = (String::with_capacity(text.len()), 0);
        for range in found {
            if range.end <= done {
                continue;
            }
            // What overlaps is one secret.
            if range.start >= done {
                masked.push_str(&text[done..range.start]);
                masked.push_str(MASK);
            }
            let hidden = &text[range.start.max(done)..range.end];
            masked.extend(hidden.chars().filter(|character| *character == '\n'));
            done = range.end;
        }
        masked.push_str(&text[done..]);
        masked
    }
}

/// As in an address (RFC 3986 section 2.1).
fn percent(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The beginning of a text, of about `most` bytes.
fn start_of(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// From the beginning of a private key in PEM (RFC 7468), or of an OpenPGP one, to its end, or to the text's.
fn private_keys(text: &str, found: &mut Vec<Range<usize>>) {
    let mut done = 0;
    for (at, begin) in text.match_indices("-----BEGIN ") {
        if at < done {
            continue;
        }
        let rest = start_of(&text[at + begin.len()..], LONGEST_KEY);
        let label = rest.split("-----").next().unwrap_or_default();
        if label.len() > 64 || !label.contains("PRIVATE KEY") {
            continue;
        }
        let end = format!("-----END {label}-----");
        // One that was cut ends with the JSON text that it stands in.
        let whole = rest.find(&end).map(|to| to + end.len());
        let cut = || rest.find('"').map(|to| rest[..to].trim_end_matches('\\').len());
        done = at + begin.len() + whole.or_else(cut).unwrap_or(rest.len());
        found.push(at..done);
    }
}

/// Values after a name that tells that they are secret.
fn values(text: &str, found: &mut Vec<Range<usize>>) {
    // The end of the last scheme and what follows it: those within have been found with it.
    let mut authorized = 0;
    for (at, _) in text.match_indices(['=', ':']) {
        let before = text[..at].trim_end_matches(['"', '\'', '\\']);
        let start = before.rfind(|character: char| !(character.is_ascii_alphanumeric() || "_-".contains(character)));
        let name = &before[start.map_or(0, |start| start + before[start..].chars().next().map_or(1, char::len_utf8))..];
        let after = &text[at + 1..];
        let value = after.trim_start_matches([' ', '\t']);
        let begin = at + 1 + (after.len() - value.len());
        let value = start_of(value, LONGEST_VALUE);
        if name.len() > 64 {
            continue;
        }
        if name.eq_ignore_ascii_case("authorization") {
            if begin < authorized {
                continue;
            }
            // Schemes have more words than one.
            authorized = begin + value.find(['\n', '\r', '"', '\\']).unwrap_or(value.len());
            found.push(begin..authorized);
        } else if is_telltale(name) {
            let slashes = value.len() - value.trim_start_matches('\\').len();
            let quotes = if value[slashes..].starts_with(['"', '\'']) { slashes + 1 } else { 0 };
            let content = &value[quotes..];
            // Not the beginning of a value, but the end of the JSON text that ends with the name.
            if quotes > 0 && content.starts_with([',', '}', ']']) {
                continue;
            }
            let ends: &[char] =
                if quotes > 0 { &['\n', '"', '\''] } else { &['\n', '\r', ' ', '\t', '"', '\'', '\\', ',', ';', '&', ')'] };
            // The backslash before a quote belongs to the quote.
            let length = content[..content.find(ends).unwrap_or(content.len())].trim_end_matches('\\').len();
            found.push(begin + quotes..begin + quotes + length);
        }
    }
    found.retain(|range| !range.is_empty());
}

fn is_telltale(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    matches!(name.as_str(), "pass" | "pwd") || TELLTALE.iter().any(|telltale| name.contains(telltale))
}

/// Access key IDs of AWS: long-lived and temporary ones.
fn access_keys(text: &str, found: &mut Vec<Range<usize>>) {
    for prefix in ["AKIA", "ASIA"] {
        for (at, _) in text.match_indices(prefix) {
            let key = text[at..].bytes().take(64).take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()).count();
            if key >= 16 {
                found.push(at..at + key);
            }
        }
    }
}

/// In addresses, the password of `user:password@host`, and UUIDs.
fn addresses(text: &str, found: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for word in text.split(|character: char| character.is_ascii_whitespace() || "\"'<>\\".contains(character)) {
        if let Some(scheme) = word.find("://") {
            passwords(word, start, found);
            identifiers(&word[scheme..], start + scheme, found);
        }
        // All that words are split at has one byte.
        start += word.len() + 1;
    }
}

/// The passwords in the addresses of a word that begins at `start`: an address may hold others.
fn passwords(word: &str, start: usize, found: &mut Vec<Range<usize>>) {
    for (at, slashes) in word.match_indices("://") {
        let authority = &word[at + slashes.len()..];
        let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
        if let Some((login, _)) = authority.rsplit_once('@')
            && let Some((user, password)) = login.split_once(':')
        {
            let from = start + at + slashes.len() + user.len() + 1;
            found.push(from..from + password.len());
        }
    }
}

/// The UUIDs in an address that begins at `start`.
fn identifiers(address: &str, start: usize, found: &mut Vec<Range<usize>>) {
    let mut offset = start;
    for part in address.split(['/', '?', '#', '=', '&']) {
        if part.len() == 36 && uuid::Uuid::try_parse(part).is_ok() {
            found.push(offset..offset + part.len());
        }
        offset += part.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::Redactor;

    #[test]
    fn what_looks_like_a_secret_is_masked_and_nothing_else() {
        for (text, expected) in [
            ("password=hunter2 next", "password=[masked] next"),
            ("PGPASSWORD: hunter2, and more", "PGPASSWORD: [masked], and more"),
            (r#"{"password":"two words","user":"me"}"#, r#"{"password":"[masked]","user":"me"}"#),
            (r#"{"message":"said {\"api-key\": \"abc\"}"}"#, r#"{"message":"said {\"api-key\": \"[masked]\"}"}"#),
            ("?token=abc&x=1", "?token=[masked]&x=1"),
            ("Authorization: Basic cGk6aHVudGVyMg==\nnext", "Authorization: [masked]\nnext"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key [masked] used"),
            ("AKIA alone", "AKIA alone"),
            ("https://me:hunter2@example.org/x", "https://me:[masked]@example.org/x"),
            ("https://a.example.org/?to=https://me:hunter2@b/", "https://a.example.org/?to=https://me:[masked]@b/"),
            ("ssh://backup@example.org:22/srv", "ssh://backup@example.org:22/srv"),
            (
                "https://hc.example.org/ping/0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01/start",
                "https://hc.example.org/ping/[masked]/start",
            ),
            ("uuid 0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01 stays", "uuid 0b1e33a2-5c1c-4a36-b5a4-3fd12c5e2a01 stays"),
            ("a\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\nz", "a\n[masked]\n\n\nz"),
            ("-----BEGIN RSA PRIVATE KEY-----\nb3Bl", "[masked]\n"),
            ("-----BEGIN CERTIFICATE-----\nb3Bl", "-----BEGIN CERTIFICATE-----\nb3Bl"),
            ("/srv/Übersicht: 12 entries, 5.0 GiB", "/srv/Übersicht: 12 entries, 5.0 GiB"),
            ("look at user and password in the file", "look at user and password in the file"),
        ] {
            assert_eq!(Redactor::default().masked(text), expected, "{text}");
        }
    }

    #[test]
    fn a_known_secret_is_masked_in_every_form() {
        let mut redactor = Redactor::default();
        redactor.learn("co\"rrect/horse");
        for text in
            ["co\"rrect/horse", r#"co\"rrect/horse"#, r#"co\\\"rrect/horse"#, "co%22rrect%2Fhorse", "Y28icnJlY3QvaG9yc2U="]
        {
            assert_eq!(redactor.masked(&format!("<{text}>")), "<[masked]>");
        }
        redactor.learn("<tom&'jerry>");
        for text in ["<tom&'jerry>", "&lt;tom&amp;&#39;jerry&gt;", "PHRvbSYnamVycnk+"] {
            assert_eq!(redactor.masked(&format!("({text})")), "([masked])");
        }
        assert_eq!(redactor.masked(r"(co\&quot;rrect/horse)"), "([masked])", "JSON on a page");
        redactor.learn("horse");
        assert_eq!(redactor.masked("horse"), "horse", "too short to be one");
        redactor.learn("rrect/horses");
        assert_eq!(redactor.masked("<co\"rrect/horses>"), "<[masked]>", "what overlaps is one");
    }

    #[test]
    fn a_text_of_nothing_but_beginnings_takes_no_long_time() {
        for beginning in ["-----BEGIN PRIVATE KEY-----", "Authorization:", "AKIA", "://a:", "password=\\", "\\\":"] {
            let begun = std::time::Instant::now();
            Redactor::default().masked(&beginning.repeat((4 << 20) / beginning.len()));
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{beginning}: {:?}", begun.elapsed());
        }
    }

    proptest! {
        #[test]
        fn a_line_of_json_stays_one(
            parts in vec(prop_oneof![
                Just("password=".to_owned()), Just("\"token\": \"".to_owned()), Just("Authorization: Bearer ".to_owned()),
                Just("https://a:".to_owned()), Just("@b/".to_owned()), Just("-----BEGIN PRIVATE KEY-----".to_owned()),
                Just("back\\".to_owned()), "[\"\\\\ a-z\n]{0,8}",
            ], 0..12),
        ) {
            let mut redactor = Redactor::default();
            redactor.learn("back\\\\");
            let line = serde_json::json!({ "message": parts.concat(), "level": "WARN" }).to_string();
            let masked = redactor.masked(&line);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&masked).is_ok(), "{line} became {masked}");
        }

        #[test]
        fn whatever_the_text_it_keeps_its_lines_and_loses_what_is_known(text in any::<String>(), tail in any::<String>()) {
            let mut redactor = Redactor::default();
            redactor.learn("battery-staple");
            let masked = redactor.masked(&format!("{text}battery-staple{tail}"));
            prop_assert!(!masked.contains("battery-staple"));
            prop_assert_eq!(masked.matches('\n').count(), text.matches('\n').count() + tail.matches('\n').count());
        }
    }
}
