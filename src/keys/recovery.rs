//! The recovery passphrase: eight words that open root and the backup disk when the stick is lost or the card is dead.
//!
//! The words come from the English list of BIP-39: 2,048 words, each told apart by its first four letters, lower-case
//! ASCII only. Eight of them are 88 random bits, behind argon2id.

use anyhow::{Context, Result};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use uuid::Uuid;

use super::keyfile::random;
use crate::secret::Secret;

const WORDS: usize = 8;
/// What stands above the passphrase on a sheet.
const PHRASE_HEAD: &str = "Recovery passphrase:";

/// Draws a new passphrase: eight words with single spaces between.
pub fn generate() -> Result<Secret<String>> {
    let list = bip39::Language::English.word_list();
    let bytes = random(WORDS * 2)?;
    let mut phrase = String::with_capacity(WORDS * 9);
    for pair in bytes.expose().chunks_exact(2) {
        // 65,536 is a multiple of 2,048: the remainder is evenly spread.
        let number = usize::from(u16::from_be_bytes([pair[0], pair[1]])) % list.len();
        if !phrase.is_empty() {
            phrase.push(' ');
        }
        phrase.push_str(list[number]);
    }
    Ok(Secret::new(phrase))
}

/// What a person typed, as the keyslot knows it: lower case, single spaces, none at the ends.
pub fn normalize(typed: &str) -> Secret<String> {
    let mut phrase = String::with_capacity(typed.len());
    for word in typed.split_whitespace() {
        if !phrase.is_empty() {
            phrase.push(' ');
        }
        phrase.extend(word.chars().map(|letter| letter.to_ascii_lowercase()));
    }
    Secret::new(phrase)
}

/// The recovery sheet: a page to print and to keep away from the appliance. The passphrase stands on it in words and as a QR
/// code (ISO/IEC 18004), which a phone shows as text. Without a `hostname` it is for root alone, of an appliance that doesn't
/// know of it.
///
/// # Errors
/// There is no code for it.
pub fn sheet(hostname: Option<&str>, uuid: Uuid, phrase: &Secret<String>) -> Result<Secret<String>> {
    let code = QrCode::new(phrase.expose()).context("making the QR code of the recovery sheet")?;
    let code = Secret::new(code.render::<Dense1x2>().build());
    let appliance = hostname.map(|name| format!("Appliance:    {name}\n")).unwrap_or_default();
    let disk = if hostname.is_some() {
        "It also opens the backup disk on any Linux machine:\n\n    \
         cryptsetup open /dev/DISK backup\n    \
         mount -o ro /dev/mapper/backup /mnt\n\n"
    } else {
        "It does not open the backup\n\
         disk: that keeps its passphrase until `vaultberry key recovery rotate` is run on the\n\
         appliance, which makes a sheet for both. Keep the sheet from before until then.\n\n"
    };
    Ok(Secret::new(format!(
        "vaultberry recovery sheet\n\
         =========================\n\n\
         {appliance}\
         Root (LUKS):  {uuid}\n\n\
         {PHRASE_HEAD}\n\n    {}\n\n\
         It opens the root of the SD card at boot, when the key stick is lost: type it at the\n\
         prompt, which takes a US keyboard. {disk}\
         Print this page, keep it away from the appliance, and remove the file.\n\n\
         The passphrase as a QR code:\n\n{}\n",
        phrase.expose(),
        code.expose()
    )))
}

/// The passphrase that stands on a sheet; none when it is no sheet.
pub fn of_sheet(sheet: &str) -> Option<Secret<String>> {
    let phrase = sheet.lines().skip_while(|line| *line != PHRASE_HEAD).nth(2)?.trim();
    (phrase.split(' ').count() == WORDS).then(|| Secret::new(phrase.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{generate, normalize};

    #[test]
    fn a_passphrase_has_eight_words_and_differs_each_time() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.expose().split(' ').count(), 8);
        assert_ne!(one.expose(), two.expose());
        assert_eq!(normalize(one.expose()).expose(), one.expose());
    }

    #[test]
    fn typing_is_forgiven_case_and_spaces() {
        assert_eq!(normalize("  Abandon  abILITY\tzoo\n").expose(), "abandon ability zoo");
    }
}
