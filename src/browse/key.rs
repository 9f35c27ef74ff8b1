//! `vaultberry key`: from a parsed command to what is printed.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::say;
use crate::cli::key::{Header, Key, Recovery, Root, Sticks, With};
use crate::config;
use crate::image::emulate::root_uuid;
use crate::keys::change::{self, Present};
use crate::keys::plugged::Stick;
use crate::keys::secrets::SecretsFolder;
use crate::keys::volume::Volume;
use crate::keys::{recovery, stick};
use crate::luks::slots::{self, Kind, Slot};
use crate::outcome::Outcome;
use crate::run::headers;
use crate::{disk, durable, keys, luks, terminal};

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Key, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Key::Check { stick, root } => {
            let stick = Stick::at(&stick.stick)?;
            let slot = change::check(&volume(root)?, &stick)?;
            say(out, &format!("the key on {} opens this appliance: {}\n", stick.name(), line(&slot)))
        }
        Key::Rotate { stick, root, on } => {
            let (volume, stick) = (volume(root)?, Stick::at(&stick.stick)?);
            outdate(root, &on.config, out, |out| {
                let slot = change::rotate(&volume, &stick)?;
                say(out, &format!("{} has a new key, and the old one opens nothing any more: {}\n", stick.name(), line(&slot)))
            })
        }
        Key::Stick(Sticks::Make { stick, image, secrets }) => make(&stick.stick, image, secrets, out),
        Key::Stick(Sticks::Add { stick, name, with, root }) => {
            let (volume, stick) = (volume(root)?, Stick::at(&stick.stick)?);
            let slot = change::add(&volume, &stick, name.as_deref(), &present(&volume, with)?)?;
            say(out, &format!("{} opens this appliance from now on: {}\n", stick.name(), line(&slot)))
        }
        Key::Stick(Sticks::List { json, root }) => list(&volume(root)?, *json, out),
        Key::Stick(Sticks::Revoke { key, last, root, on }) => {
            let volume = volume(root)?;
            outdate(root, &on.config, out, |out| {
                let slot = change::revoke(&volume, key, *last)?;
                say(out, &format!("opens this appliance no more: {}\n", line(&slot)))
            })
        }
        Key::Recovery(Recovery::Rotate { sheet, with, root, on }) => rotate_recovery(sheet, with, root, &on.config, out),
        Key::Header(Header::Backup { file, root }) => {
            ensure!(!file.exists(), "copying the header: {} is there already\nhint: name another file", file.display());
            durable::write(file, &luks::read_header(volume(root)?.path())?, 0o600)?;
            say(out, &format!("the header is in {}: with it, each key of today opens root\n", file.display()))
        }
        Key::Header(Header::Restore { file, yes, root }) => restore_header(file, *yes, root, out),
    }
}

fn volume(root: &Root) -> Result<Volume> {
    Volume::at(root.root.as_deref())
}

fn present(volume: &Volume, with: &With) -> Result<Present> {
    let Some(path) = &with.with else {
        let typed = terminal::read_secret("recovery passphrase")?;
        return Ok(Present::Phrase(recovery::normalize(typed.expose())));
    };
    let key = Stick::at(path)?.key(volume.uuid)?;
    key.map(Present::Key).with_context(|| format!("{} holds no key for this appliance, {}", path.display(), volume.uuid))
}

fn line(slot: &Slot) -> String {
    let mut text = format!("keyslot {}", slot.number);
    match &slot.holder {
        None => text.push_str(", which another program has made"),
        Some(holder) => {
            text.push_str(match holder.kind {
                Kind::Key => ", key",
                Kind::Recovery => ", recovery passphrase",
            });
            for part in [&holder.id, &holder.name].into_iter().flatten() {
                write!(text, " {}", crate::log::printable(part.as_bytes())).expect("writing to a string doesn't fail");
            }
            if holder.replaces.is_some() {
                text.push_str(", of a rotation that was cut short: `vaultberry key rotate` finishes it");
            }
        }
    }
    text
}

fn list(volume: &Volume, as_json: bool, out: &mut impl Write) -> Result<Outcome> {
    let slots = slots::slots(volume.path())?;
    if as_json {
        let all: Vec<_> = slots.iter().map(|slot| json!({ "keyslot": slot.number, "holder": slot.holder })).collect();
        return say(out, &format!("{}\n", json!({ "root": volume.uuid, "keys": all })));
    }
    let mut text = format!("root {}\n", volume.uuid);
    for slot in &slots {
        writeln!(text, "{}", line(slot)).expect("writing to a string doesn't fail");
    }
    say(out, &text)
}

fn make(path: &Path, image: &Path, secrets: &Path, out: &mut impl Write) -> Result<Outcome> {
    let uuid = root_uuid(image)?;
    let file = SecretsFolder::at(secrets).key(uuid);
    let bytes = std::fs::read(&file).map(crate::secret::Secret::new);
    let bytes = bytes
        .with_context(|| format!("reading the key of this image, {}\nhint: name its folder with --secrets", file.display()))?;
    let key =
        keys::keyfile::KeyFile::decode(bytes.expose(), uuid).map_err(|fault| anyhow::anyhow!("{} {fault}", file.display()))?;
    if path.exists() {
        Stick::at(path)?.put(&key)?;
    } else {
        stick::make_image(path, &[&file])?;
    }
    say(out, &format!("{} opens {}\n", path.display(), image.display()))
}

/// Makes a change after which old copies of the header must go, and says which of them went.
fn outdate<W: Write>(root: &Root, config: &Path, out: &mut W, change: impl FnOnce(&mut W) -> Result<Outcome>) -> Result<Outcome> {
    if root.root.is_some() {
        change(out)?;
        return say(out, "whoever has both an old key and a copy of the header from before can still open it\n");
    }
    let config = config::load(config)?;
    let (_, gone) = headers::outdate(&config, || change(out))?;
    say(out, &format!("copies of the header from before that went: {gone}; those in the off-site store stay, sealed\n"))?;
    for serial in headers::away(&config)? {
        let serial = crate::log::printable(serial.as_bytes());
        say(out, &format!("the disk {serial} isn't open: its copies go when it is opened next\n"))?;
    }
    Ok(Outcome::Complete)
}

fn rotate_recovery(sheet: &Path, with: &With, root: &Root, config: &Path, out: &mut impl Write) -> Result<Outcome> {
    ensure!(!sheet.exists(), "writing the recovery sheet: {} is there already\nhint: name another file", sheet.display());
    let volume = volume(root)?;
    let present = present(&volume, with)?;
    let config = if root.root.is_none() { Some(config::load(config)?) } else { None };
    let hostname = config.as_ref().map_or("", |config| config.appliance.hostname.as_str());
    let phrase = recovery::generate()?;
    // First of all: a passphrase that nobody has read opens nothing.
    durable::write(sheet, recovery::sheet(hostname, volume.uuid, &phrase)?.expose().as_bytes(), 0o600)?;
    change::rotate_recovery(&volume, &present, &phrase)?;
    say(out, &format!("the new recovery passphrase is in {}: print it, and remove the file\n", sheet.display()))?;
    let Some(config) = config else { return Ok(Outcome::Complete) };
    let away = disk::renew_passphrase(&config, &phrase)?;
    say(out, "backup disks that are here take it, too\n")?;
    for serial in &away {
        say(out, &format!("the disk {serial} isn't here, and takes the old one: keep the old sheet with it\n"))?;
    }
    Ok(Outcome::Complete)
}

fn restore_header(file: &Path, yes: bool, root: &Root, out: &mut impl Write) -> Result<Outcome> {
    ensure!(
        yes,
        "restoring the header from {}: keys that were added since are lost, and revoked ones open again\nhint: say --yes",
        file.display()
    );
    let path = root.root.as_deref().context("restoring a header: whose root?\nhint: name the device with --root")?;
    luks::restore_header(path, file)?;
    say(out, &format!("{} has the header of {} again\n", path.display(), file.display()))
}
