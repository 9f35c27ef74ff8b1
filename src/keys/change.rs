//! Changing the keys of root: what `vaultberry key` does.
//!
//! No step leaves root without a key that opens it and lies where it belongs. A key that takes the place of another gets its
//! keyslot before it goes to the stick, is read back and tried, and only then the old keyslot goes. What a power cut leaves between two of these steps
//! is finished by the next call: a keyslot whose holder `replaces` another tells how far it came.

use anyhow::{Context, Result, bail, ensure};

use super::keyfile::KeyFile;
use super::plugged::Stick;
use super::volume::Volume;
use crate::luks::Key;
use crate::luks::slots::{self, Holder, Kind, Slot, id};
use crate::secret::Secret;

/// Characters of what an owner calls a key: they stand in the header, which has little room.
const LONGEST_NAME: usize = 40;

/// A key that opens root already, so that another can be added.
#[derive(Debug)]
pub enum Present {
    /// One from a stick.
    Key(KeyFile),
    /// The recovery passphrase.
    Phrase(Secret<String>),
}

impl Present {
    fn as_key(&self) -> Key<'_> {
        match self {
            Present::Key(file) => Key::Random(&file.key),
            Present::Phrase(phrase) => Key::Passphrase(phrase),
        }
    }
}

/// The keyslot that the key on `stick` opens; nothing is opened.
///
/// # Errors
/// There is no such key on it, or it opens this root no more.
pub fn check(volume: &Volume, stick: &Stick) -> Result<Slot> {
    let key = key_on(volume, stick)?;
    slot_of(volume, &key)?.with_context(|| {
        format!(
            "the key on {} ({}) doesn't open this appliance\nhint: `vaultberry key stick list` shows which keys do",
            stick.name(),
            id(key.key.expose())
        )
    })
}

/// Puts a new key on `stick`, with a keyslot of its own; gives that.
///
/// # Errors
/// `present` doesn't open root, the stick has a key for it already, or something can't be written.
pub fn add(volume: &Volume, stick: &Stick, name: Option<&str>, present: &Present) -> Result<Slot> {
    if let Ok(Some(key)) = stick.key(volume.uuid)
        && slot_of(volume, &key)?.is_some()
    {
        bail!("{} has a key that opens this appliance\nhint: `vaultberry key rotate` replaces it", stick.name());
    }
    ensure!(
        !stick.is_with(volume.place())?,
        "{} is where root is: a key there would go with it to the thief, and the unlock looks for none\n\
         hint: take a stick of its own",
        stick.name()
    );
    stick.has_room_for(volume.uuid, None)?;
    if let Some(key) = stick.brought(volume.uuid)
        && let Some(slot) = slot_of(volume, &key)?
    {
        // The power went when it had its keyslot.
        stick.take_place(volume.uuid)?;
        return check(volume, stick).map(|_| slot);
    }
    if let Some(name) = name {
        ensure!(
            name.trim() == name && (1..=LONGEST_NAME).contains(&name.chars().count()),
            "a key is called by 1 to {LONGEST_NAME} characters, without blanks around them\nhint: give another --name"
        );
        let taken = slots::slots(volume.path())?.into_iter().any(|slot| is_called(&slot, name));
        ensure!(
            !taken,
            "there is a key that is called {name:?}\nhint: `vaultberry key stick list` shows them; take another name"
        );
    }
    ensure!(slots::slot_of(volume.path(), present.as_key())?.is_some(), refusal(present));
    let key = KeyFile::generate(volume.uuid)?;
    let holder = Holder { name: name.map(String::from), ..Holder::of(&Key::Random(&key.key)) };
    // The stick first: a keyslot whose key is nowhere would count as a key.
    stick.bring(&key)?;
    let number = add_slot(volume, present, &Key::Random(&key.key), &holder)?;
    stick.take_place(volume.uuid)?;
    check(volume, stick)?;
    Ok(Slot { number, holder: Some(holder) })
}

/// Destroys the keyslot of the key with this id or name, wherever its stick is; gives what it was.
///
/// # Errors
/// There is none, or none of the keys on sticks would be left and that isn't wanted.
pub fn revoke(volume: &Volume, which: &str, last: bool) -> Result<Slot> {
    let all = slots::slots(volume.path())?;
    let mut found = all.iter().filter(|slot| is_key(slot) && is_called(slot, which));
    let slot = found.next().with_context(|| {
        format!("no key of a stick has the id or the name {which:?}\nhint: `vaultberry key stick list` shows them")
    })?;
    ensure!(found.next().is_none(), "several keys are called {which:?}\nhint: give the id: `vaultberry key stick list` shows it");
    ensure!(
        last || all.iter().any(|other| other.number != slot.number && is_on_a_stick(other, &all)),
        "{which} is the last key on a stick: only the recovery passphrase would open this appliance\n\
         hint: add another stick first (`vaultberry key stick add`), or say --last; if a rotation was cut short, finish it \
         first (`vaultberry key rotate`)"
    );
    slots::kill(volume.path(), slot.number)?;
    volume.save()?;
    Ok(slot.clone())
}

/// Replaces the key on `stick` by a new one; gives the new keyslot.
///
/// # Errors
/// The stick's key doesn't open root, or something can't be written. One that opens it is then still on the stick.
pub fn rotate(volume: &Volume, stick: &Stick) -> Result<Slot> {
    let from = prove(volume, stick)?;
    let old = key_on(volume, stick)?;
    stick.complete(volume.uuid)?;
    if let Some(slot) = finish(volume, &from)? {
        return Ok(slot);
    }
    let key = KeyFile::generate(volume.uuid)?;
    let name = from.holder.as_ref().and_then(|holder| holder.name.clone());
    let replaces = Some(id(old.key.expose()));
    let mut holder = Holder { name, replaces, ..Holder::of(&Key::Random(&key.key)) };
    let number = add_slot(volume, &Present::Key(old), &Key::Random(&key.key), &holder)?;
    put(volume, stick, &key)?;
    slots::kill(volume.path(), from.number)?;
    holder.replaces = None;
    slots::describe(volume.path(), number, &holder)?;
    volume.save()?;
    Ok(Slot { number, holder: Some(holder) })
}

/// Ends a rotation that was cut short, when the stick's key is in the keyslot `from`. Gives the keyslot where the new key was
/// on the stick already, so that nothing is left to do.
fn finish(volume: &Volume, from: &Slot) -> Result<Option<Slot>> {
    let Some(holder) = &from.holder else { return Ok(None) };
    let all = slots::slots(volume.path())?;
    let holds = |slot: &&Slot, id: &Option<String>| slot.holder.as_ref().is_some_and(|holder| &holder.id == id && id.is_some());
    let replaces =
        |slot: &&Slot| slot.holder.as_ref().is_some_and(|other| other.replaces.is_some() && other.replaces == holder.id);
    // The old key is on the stick: what was to replace it never got there.
    for slot in all.iter().filter(replaces) {
        slots::kill(volume.path(), slot.number)?;
        volume.save()?;
    }
    if holder.replaces.is_none() {
        return Ok(None);
    }
    for slot in all.iter().filter(|slot| holds(slot, &holder.replaces)) {
        slots::kill(volume.path(), slot.number)?;
    }
    let done = Holder { replaces: None, ..holder.clone() };
    slots::describe(volume.path(), from.number, &done)?;
    volume.save()?;
    Ok(Some(Slot { number: from.number, holder: Some(done) }))
}

/// Replaces the recovery passphrase by `new`, which is called `id` from then on. Between, when both open root, `others` take it
/// that have the same one. The old ones go last: until then they open everything that they did.
///
/// # Errors
/// `present` doesn't open root, or something can't be written.
pub fn rotate_recovery(
    volume: &Volume,
    present: &Present,
    new: &Secret<String>,
    id: Option<&str>,
    others: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let old: Vec<Slot> = slots::slots(volume.path())?.into_iter().filter(is_recovery).collect();
    let key = Key::Passphrase(new);
    let mut holder = Holder { id: id.map(String::from), replaces: Some(String::from(slots::ALL)), ..Holder::of(&key) };
    let number = add_slot(volume, present, &key, &holder)?;
    ensure!(
        slots::slot_of(volume.path(), key)? == Some(number),
        "trying the new passphrase: it doesn't open this appliance\nhint: the old one still does; try again"
    );
    others().context("the old recovery passphrase still opens this appliance; when that is mended, do the same again")?;
    for slot in old {
        slots::kill(volume.path(), slot.number)?;
    }
    holder.replaces = None;
    slots::describe(volume.path(), number, &holder)?;
    volume.save()
}

fn add_slot(volume: &Volume, present: &Present, key: &Key, holder: &Holder) -> Result<u32> {
    let number = slots::add(volume.path(), present.as_key(), *key, holder)?;
    let number = number.with_context(|| refusal(present))?;
    volume.save()?;
    Ok(number)
}

fn refusal(present: &Present) -> String {
    match present {
        Present::Key(file) => format!("the key that is there ({}) doesn't open this appliance", id(file.key.expose())),
        Present::Phrase(_) => String::from("this passphrase doesn't open this appliance\nhint: it stands on the recovery sheet"),
    }
}

/// Puts a key on a stick, and proves that what lies there opens root.
fn put(volume: &Volume, stick: &Stick, key: &KeyFile) -> Result<()> {
    stick.put(key)?;
    prove(volume, stick).map(drop)
}

/// The keyslot of the key that the next boot will find on `stick`.
fn prove(volume: &Volume, stick: &Stick) -> Result<Slot> {
    stick.settle(volume.uuid)?;
    check(volume, stick)
}

fn key_on(volume: &Volume, stick: &Stick) -> Result<KeyFile> {
    stick.key(volume.uuid)?.with_context(|| {
        format!("{} holds no key for this appliance, {}\nhint: `vaultberry key stick add` makes one", stick.name(), volume.uuid)
    })
}

fn slot_of(volume: &Volume, key: &KeyFile) -> Result<Option<Slot>> {
    let Some(number) = slots::slot_of(volume.path(), Key::Random(&key.key))? else { return Ok(None) };
    Ok(slots::slots(volume.path())?.into_iter().find(|slot| slot.number == number))
}

fn is_key(slot: &Slot) -> bool {
    slot.holder.as_ref().is_some_and(|holder| holder.kind == Kind::Key)
}

/// Whether a stick is known to have this key. Of the two keys of a rotation that was cut short only one is on a stick, and
/// nobody knows which.
fn is_on_a_stick(slot: &Slot, all: &[Slot]) -> bool {
    let Some(holder) = slot.holder.as_ref().filter(|holder| holder.kind == Kind::Key) else { return false };
    let mut replaced = all.iter().filter_map(|other| other.holder.as_ref()?.replaces.as_ref());
    holder.replaces.is_none() && !replaced.any(|id| Some(id) == holder.id.as_ref())
}

fn is_recovery(slot: &Slot) -> bool {
    slot.holder.as_ref().is_some_and(|holder| holder.kind == Kind::Recovery)
}

fn is_called(slot: &Slot, which: &str) -> bool {
    slot.holder.as_ref().is_some_and(|holder| {
        holder.name.as_deref() == Some(which) || holder.id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(which))
    })
}

#[cfg(test)]
mod tests;
