//! Keyslots, and whose they are.
//!
//! A keyslot doesn't say whose key it takes. So each of ours has a token beside it in the header's JSON (LUKS2
//! specification, section 3.4), which every LUKS tool keeps and `cryptsetup luksDump` shows:
//!
//! ```json
//! {"type": "vaultberry", "keyslots": ["0"], "kind": "key", "id": "1a2b3c4d", "name": "spare", "replaces": null}
//! ```
//!
//! `id` is made of the key, so that a key file can be told by it and nobody learns the key from it. `replaces` is the id of
//! the key that this one is to take the place of, while that isn't done.
//!
//! The token is there before its keyslot, without any in `keyslots` and with its number as `coming`. So no power cut leaves
//! a keyslot of ours that doesn't say whose it is.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libcryptsetup_rs::consts::flags::CryptActivate;
use libcryptsetup_rs::consts::vals::KeyslotInfo;
use libcryptsetup_rs::{CryptDevice, LibcryptErr, TokenInput};
use openssl::sha::Sha256;
use serde::{Deserialize, Serialize};

use super::{BINARY_HEADER_SIZE, Key, Tried, cipher, load, set_derivation, shown, tried};
use crate::digest::hex;

/// The type of our tokens.
const TYPE: &str = "vaultberry";

/// What a new recovery passphrase `replaces` while others still open the volume.
pub const ALL: &str = "all";

/// The id of a recovery passphrase that root got from another machine: the appliance itself doesn't know it.
pub const ELSEWHERE: &str = "changed elsewhere";

/// LUKS2 has room for so many keyslots, and as many tokens (specification, section 3).
const MOST: u32 = 32;

/// What helps where no keyslot is free, or before that the 12 KiB of JSON are full, which hold some 28 keyslots with their
/// tokens.
const MAKE_ROOM: &str = "hint: `vaultberry key stick revoke` makes room; `vaultberry key stick list` shows what there is";

/// What kind of key a keyslot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Random bytes in a file: on a stick, or on root.
    Key,
    /// The recovery passphrase.
    Recovery,
}

/// Whose key a keyslot takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it is.
    pub kind: Kind,
    /// What tells a key from others: eight hexadecimal digits. They are never made of a passphrase, which could be guessed by
    /// them.
    pub id: Option<String>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// The id of the key that it is to replace, while that goes on.
    pub replaces: Option<String>,
}

impl Holder {
    /// That of a key, without a name.
    pub fn of(key: &Key) -> Self {
        let (kind, id) = match key {
            Key::Random(bytes) => (Kind::Key, Some(id(bytes.expose()))),
            Key::Passphrase(_) => (Kind::Recovery, None),
        };
        Self { kind, id, name: None, replaces: None }
    }
}

/// What tells a random key from others.
pub fn id(key: &[u8]) -> String {
    let mut sum = Sha256::new();
    sum.update(b"the id of a vaultberry key");
    sum.update(key);
    hex(&sum.finish()[..4])
}

/// A keyslot in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub number: u32,
    /// Whose it is; none where no token says it.
    pub holder: Option<Holder>,
}

/// A token as it stands in the header.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    /// The keyslot that it is made for, while that isn't there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coming: Option<u32>,
    #[serde(flatten)]
    holder: Holder,
}

impl Token {
    fn is_of(&self, number: u32) -> bool {
        self.coming == Some(number) || self.keyslots.contains(&number.to_string())
    }
}

/// The keyslots in use of the volume at `path`, in the order of their numbers.
///
/// # Errors
/// There is no LUKS2 volume.
pub fn slots(path: &Path) -> Result<Vec<Slot>> {
    let mut device = load(path)?;
    let tokens: Vec<(u32, Token)> = tokens(&mut device);
    let mut slots = Vec::new();
    for number in 0..MOST {
        let status = device.keyslot_handle().status(number);
        if matches!(status, Ok(KeyslotInfo::Active | KeyslotInfo::ActiveLast)) {
            let holder = tokens.iter().find(|(_, token)| token.is_of(number)).map(|(_, token)| token.holder.clone());
            slots.push(Slot { number, holder });
        }
    }
    Ok(slots)
}

/// Whose keyslots there are, by a header that [`super::read_header`] gave: for one who can't ask libcryptsetup, which wants to
/// lock the device.
///
/// The JSON area follows the binary header, which says at offset 8 how long both are, highest byte first (specification,
/// section 2.1).
pub fn holders(header: &[u8]) -> Vec<Holder> {
    #[derive(Deserialize)]
    struct Metadata {
        tokens: BTreeMap<String, serde_json::Value>,
    }
    let length = header.get(8..16).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
    let area = length.and_then(|length| header.get(BINARY_HEADER_SIZE..usize::try_from(length).ok()?));
    let text = area.and_then(|area| area.split(|byte| *byte == 0).next()).unwrap_or_default();
    let tokens = serde_json::from_slice::<Metadata>(text).map(|metadata| metadata.tokens).unwrap_or_default();
    let ours = tokens.into_values().filter_map(|json| serde_json::from_value::<Token>(json).ok());
    ours.filter(|token| token.kind == TYPE && !token.keyslots.is_empty()).map(|token| token.holder).collect()
}

/// The number of the keyslot that takes `key`; none when there is none. Nothing is opened.
///
/// # Errors
/// There is no LUKS2 volume, or it can't be tried.
pub fn slot_of(path: &Path, key: Key) -> Result<Option<u32>> {
    let mut device = load(path)?;
    let mut number = None;
    let found = device.activate_handle().activate_by_passphrase(None, None, key.bytes(), CryptActivate::empty());
    let outcome = tried(found.map(|slot| number = Some(slot)), || format!("trying a key on {}", shown(path)))?;
    Ok(if outcome == Tried::Opened { number } else { None })
}

/// Adds a keyslot for `new` to a volume that `present` opens, and says whose it is. Gives its number, or none when `present`
/// doesn't open the volume.
///
/// # Errors
/// There is no room, or it can't be written.
pub fn add(path: &Path, present: Key, new: Key, holder: &Holder) -> Result<Option<u32>> {
    add_if_there_is_room(path, present, new, holder).map_err(|error| {
        let full = error.chain().any(|cause| {
            let cause = cause.downcast_ref::<LibcryptErr>();
            matches!(cause, Some(LibcryptErr::IOError(error)) if error.raw_os_error() == Some(nix::libc::ENOSPC))
        });
        if full { error.context(format!("the header of {} is full\n{MAKE_ROOM}", shown(path))) } else { error }
    })
}

fn add_if_there_is_room(path: &Path, present: Key, new: Key, holder: &Holder) -> Result<Option<u32>> {
    let adding = || format!("adding a keyslot to {}", shown(path));
    let mut device = load(path)?;
    let number = announce(&mut device, holder).with_context(adding)?;
    set_derivation(&mut device, &new)?;
    cipher::set_for_keyslots(&mut device).with_context(adding)?;
    let added = device.keyslot_handle().add_by_passphrase(Some(number), present.bytes(), new.bytes());
    let outcome = tried(added.map(drop), adding);
    if !matches!(outcome, Ok(Tried::Opened)) {
        forget_coming(&mut device).with_context(adding)?;
        return outcome.map(|_| None);
    }
    write(&mut device, number, holder).with_context(adding)?;
    Ok(Some(number))
}

/// Says whose the next keyslot will be; gives its number.
fn announce(device: &mut CryptDevice, holder: &Holder) -> Result<u32> {
    forget_coming(device)?;
    let is_free = |number: &u32| matches!(device.keyslot_handle().status(*number), Ok(KeyslotInfo::Inactive));
    let number = (0..MOST).find(is_free);
    let number = number.with_context(|| format!("all {MOST} keyslots are in use\n{MAKE_ROOM}"))?;
    let token = Token { kind: TYPE.to_owned(), keyslots: Vec::new(), coming: Some(number), holder: holder.clone() };
    device.token_handle().json_set(TokenInput::AddToken(&serde_json::to_value(token)?))?;
    Ok(number)
}

/// Removes tokens whose keyslots never came. Those whose keyslots did get them for good.
fn forget_coming(device: &mut CryptDevice) -> Result<()> {
    for (token, held) in tokens(device) {
        let Some(number) = held.coming else { continue };
        if matches!(device.keyslot_handle().status(number), Ok(KeyslotInfo::Inactive)) {
            device.token_handle().json_set(TokenInput::RemoveToken(token))?;
        } else {
            write(device, number, &held.holder)?;
        }
    }
    Ok(())
}

/// Says whose the keyslot `number` is from now on.
///
/// # Errors
/// It can't be written.
pub fn describe(path: &Path, number: u32, holder: &Holder) -> Result<()> {
    write(&mut load(path)?, number, holder).with_context(|| format!("naming a keyslot of {}", shown(path)))
}

/// Destroys a keyslot: its key opens this volume no more. What it held is overwritten.
///
/// # Errors
/// It is the only one, or it can't be written.
pub fn kill(path: &Path, number: u32) -> Result<()> {
    let killing = || format!("destroying keyslot {number} of {}", shown(path));
    ensure!(
        slots(path)?.iter().any(|slot| slot.number != number),
        "{}: it is the last one\nhint: add another key before this one goes",
        killing()
    );
    let mut device = load(path)?;
    let token = tokens(&mut device).into_iter().find(|(_, token)| token.is_of(number));
    device.keyslot_handle().destroy(number).with_context(killing)?;
    if let Some((token, _)) = token {
        device.token_handle().json_set(TokenInput::RemoveToken(token)).with_context(killing)?;
    }
    Ok(())
}

/// Our tokens, with their numbers. Those of other programs are passed over.
fn tokens(device: &mut CryptDevice) -> Vec<(u32, Token)> {
    let mut handle = device.token_handle();
    let all = (0..MOST).filter_map(|number| Some((number, handle.json_get(number).ok()?)));
    all.filter_map(|(number, json)| Some((number, serde_json::from_value::<Token>(json).ok()?)))
        .filter(|(_, token)| token.kind == TYPE)
        .collect()
}

/// Writes the token of a keyslot, in the place of the one that it may have.
pub(super) fn write(device: &mut CryptDevice, number: u32, holder: &Holder) -> Result<(), LibcryptErr> {
    let before = tokens(device).into_iter().find(|(_, token)| token.is_of(number)).map(|(number, _)| number);
    let token = Token { kind: TYPE.to_owned(), keyslots: vec![number.to_string()], coming: None, holder: holder.clone() };
    let json = serde_json::to_value(token).map_err(LibcryptErr::JsonError)?;
    let input = before.map_or(TokenInput::AddToken(&json), |number| TokenInput::ReplaceToken(number, &json));
    device.token_handle().json_set(input).map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use uuid::Uuid;

    use super::{Holder, Kind, Slot, add, announce, describe, id, kill, slot_of, slots};
    use crate::keys::keyfile::random;
    use crate::luks::cipher::Cipher;
    use crate::luks::tests::blank;
    use crate::luks::{Key, format, load, set_derivation};
    use crate::secret::Secret;

    #[test]
    fn each_keyslot_says_whose_it_is_and_a_killed_one_takes_its_key_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let (first, second) = (random(64).unwrap(), random(64).unwrap());
        let phrase = Secret::new(String::from("eight words or so"));
        format(&path, Uuid::new_v4(), "test", Cipher::Adiantum, None, &[Key::Random(&first), Key::Passphrase(&phrase)]).unwrap();
        let holder = |kind, id, name: Option<&str>| Some(Holder { kind, id, name: name.map(String::from), replaces: None });
        let expected = [
            Slot { number: 0, holder: holder(Kind::Key, Some(id(first.expose())), None) },
            Slot { number: 1, holder: holder(Kind::Recovery, None, None) },
        ];
        assert_eq!(slots(&path).unwrap(), expected);

        let spare = Holder { name: Some("spare".into()), ..Holder::of(&Key::Random(&second)) };
        assert_eq!(add(&path, Key::Random(&second), Key::Random(&second), &spare).unwrap(), None);
        assert_eq!(add(&path, Key::Passphrase(&phrase), Key::Random(&second), &spare).unwrap(), Some(2));
        assert_eq!(slot_of(&path, Key::Random(&second)).unwrap(), Some(2));
        assert_eq!(slots(&path).unwrap()[2].holder, Some(spare.clone()));
        // Another tool sees it, too.
        let dump = Command::new("/usr/sbin/cryptsetup").arg("luksDump").arg(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&dump.stdout).contains("2: vaultberry\n\tKeyslot:    2"), "{dump:?}");

        let renamed = Holder { name: Some("attic".into()), ..spare };
        describe(&path, 2, &renamed).unwrap();
        assert_eq!(slots(&path).unwrap()[2].holder, Some(renamed));
        kill(&path, 0).unwrap();
        kill(&path, 2).unwrap();
        assert_eq!(slots(&path).unwrap(), expected[1..]);
        assert_eq!(slot_of(&path, Key::Random(&first)).unwrap(), None);
        let error = format!("{:#}", kill(&path, 1).unwrap_err());
        assert!(error.contains("it is the last one\nhint: add another key"), "{error}");
        assert_eq!(slot_of(&path, Key::Passphrase(&phrase)).unwrap(), Some(1));
    }

    #[test]
    fn a_keyslot_says_whose_it_is_though_the_power_failed_right_after_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let (first, second) = (random(64).unwrap(), random(64).unwrap());
        format(&path, Uuid::new_v4(), "test", Cipher::Aes, None, &[Key::Random(&first)]).unwrap();
        let holder = Holder { name: Some("spare".into()), ..Holder::of(&Key::Random(&second)) };
        // Cut before the keyslot came: nothing of it shows, and the next one has its number.
        assert_eq!(announce(&mut load(&path).unwrap(), &Holder::of(&Key::Random(&first))).unwrap(), 1);
        assert_eq!(slots(&path).unwrap().len(), 1);
        // Cut right after.
        let mut device = load(&path).unwrap();
        assert_eq!(announce(&mut device, &holder).unwrap(), 1);
        set_derivation(&mut device, &Key::Random(&second)).unwrap();
        device.keyslot_handle().add_by_passphrase(Some(1), first.expose(), second.expose()).unwrap();
        drop(device);
        assert_eq!(slots(&path).unwrap()[1], Slot { number: 1, holder: Some(holder.clone()) });
        // The next change leaves it its name.
        let third = random(64).unwrap();
        assert_eq!(add(&path, Key::Random(&first), Key::Random(&third), &Holder::of(&Key::Random(&third))).unwrap(), Some(2));
        assert_eq!(slots(&path).unwrap()[1].holder, Some(holder));
        kill(&path, 1).unwrap();
        assert_eq!(slots(&path).unwrap().len(), 2);
    }
}
