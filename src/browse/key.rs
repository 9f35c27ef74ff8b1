//! `vaultberry key`: from a parsed command to what is printed.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::say;
use crate::cli::key::{Header, Key, Recovery, Root, Sticks, With};
use crate::config::{self, Config};
use crate::image::emulate::root_uuid;
use crate::image::outputs;
use crate::keys::change::{self, Present};
use crate::keys::plugged::{self, Stick};
use crate::keys::secrets::SecretsFolder;
use crate::keys::volume::Volume;
use crate::keys::{recovery, stick};
use crate::luks::slots::{self, Kind, Slot};
use crate::outcome::Outcome;
use crate::run::headers;
use crate::secret::Secret;
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
            let (volume, stick) = (to_change(root)?, Stick::at(&stick.stick)?);
            change_keys(root, &on.config, out, |out| {
                let slot = change::rotate(&volume, &stick)?;
                say(out, &format!("{} has a new key, and the old one opens nothing any more: {}\n", stick.name(), line(&slot)))
            })
        }
        Key::Stick(Sticks::Make { stick, image, secrets }) => make(&stick.stick, image, secrets, out),
        Key::Stick(Sticks::Add { stick, name, with, root }) => {
            let (volume, stick) = (to_change(root)?, Stick::at(&stick.stick)?);
            let slot = change::add(&volume, &stick, name.as_deref(), &present(&volume, with)?)?;
            say(out, &format!("{} opens this appliance from now on: {}\n", stick.name(), line(&slot)))?;
            outdated(root.root.as_deref(), out)
        }
        Key::Stick(Sticks::List { json, root }) => list(&volume(root)?, *json, out),
        Key::Stick(Sticks::Revoke { key, last, root, on }) => {
            let volume = to_change(root)?;
            change_keys(root, &on.config, out, |out| {
                let slot = change::revoke(&volume, key, *last)?;
                say(out, &format!("opens this appliance no more: {}\n", line(&slot)))
            })
        }
        Key::Recovery(Recovery::Rotate { sheet, with, root, on }) => rotate_recovery(sheet, with, root, &on.config, out),
        Key::Header(Header::Backup { file, root }) => {
            ensure!(
                file.symlink_metadata().is_err(),
                "copying the header: {} is there already\nhint: name another file",
                file.display()
            );
            durable::write(file, &luks::read_header(volume(root)?.path())?, 0o600)?;
            say(out, &format!("the header is in {}: with it, each key of today opens root\n", file.display()))
        }
        Key::Header(Header::Restore { file, yes, root }) => restore_header(file, *yes, root, out),
    }
}

fn volume(root: &Root) -> Result<Volume> {
    Volume::at(root.root.as_deref())
}

fn to_change(root: &Root) -> Result<Volume> {
    Volume::to_change(root.root.as_deref())
}

/// Says which files a change of the image has made wrong.
fn outdated(image: Option<&Path>, out: &mut impl Write) -> Result<Outcome> {
    let made = image.map(outputs::made_of).unwrap_or_default();
    if made.is_empty() {
        return Ok(Outcome::Complete);
    }
    let names: Vec<_> = made.iter().map(|path| path.display().to_string()).collect();
    say(out, &format!("these were made of the image before and don't have it: {}; flash the image itself\n", names.join(", ")))
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
    let bytes = fs::read(&file).map(Secret::new);
    let bytes = bytes
        .with_context(|| format!("reading the key of this image, {}\nhint: name its folder with --secrets", file.display()))?;
    let key =
        keys::keyfile::KeyFile::decode(bytes.expose(), uuid).map_err(|fault| anyhow::anyhow!("{} {fault}", file.display()))?;
    let root = Volume::at(Some(image))?;
    ensure!(
        slots::slot_of(root.path(), luks::Key::Random(&key.key))?.is_some(),
        "the key of the build, {}, opens {} no more: it was rotated or revoked there\n\
         hint: `vaultberry key stick add` makes a stick with a key of its own",
        file.display(),
        image.display()
    );
    if path.exists() {
        let stick = Stick::at(path)?;
        ensure!(
            !stick.is_with(image)?,
            "{} is the image itself\nhint: name a stick, or a new file that ends in .img",
            stick.name()
        );
        stick.has_room_for(uuid, Some(&key))?;
        stick.put(&key)?;
    } else {
        ensure!(
            path.extension().is_some_and(|end| end == "img") && !path.starts_with("/dev"),
            "{}\nhint: the image of a stick gets a name that ends in .img",
            plugged::missing(path)
        );
        stick::make_image(path, &[&file])?;
    }
    change::check(&root, &Stick::at(path)?)?;
    say(out, &format!("{} opens {}\n", path.display(), image.display()))
}

/// Makes a change of keys on the appliance, after which old copies of the header must go; elsewhere nobody knows of any.
fn change_keys<W: Write>(
    root: &Root,
    config: &Path,
    out: &mut W,
    change: impl FnOnce(&mut W) -> Result<Outcome>,
) -> Result<Outcome> {
    if root.root.is_none() {
        return outdate(&config::load(config)?, out, change);
    }
    change(out)?;
    outdated(root.root.as_deref(), out)?;
    say(out, "whoever has both an old key and a copy of the header from before can still open it\n")
}

/// Makes a change after which old copies of the header must go, and says which of them went.
fn outdate<W: Write>(config: &Config, out: &mut W, change: impl FnOnce(&mut W) -> Result<Outcome>) -> Result<Outcome> {
    let (_, gone) = headers::outdate(config, || change(out))?;
    say(out, &format!("copies of the header from before that went: {gone}; those in the off-site store stay, sealed\n"))?;
    for serial in headers::away(config)? {
        let serial = crate::log::printable(serial.as_bytes());
        say(out, &format!("the disk {serial} isn't open: its copies go when it is opened next\n"))?;
    }
    Ok(Outcome::Complete)
}

fn rotate_recovery(sheet: &Path, with: &With, root: &Root, config: &Path, out: &mut impl Write) -> Result<Outcome> {
    ensure!(
        sheet.symlink_metadata().is_err(),
        "writing the recovery sheet: {} is there already\n\
         hint: name another file; what stands on a sheet of a change that was cut short may open nothing",
        sheet.display()
    );
    let volume = to_change(root)?;
    if root.root.is_some() {
        let present = present(&volume, with)?;
        renew_root(&volume, &present, None, sheet, |_| Ok(()))?;
        say(out, &renewed(sheet))?;
        say(
            out,
            "the appliance doesn't know it: run `vaultberry key recovery rotate` there, which makes one for its backup disks, too\n",
        )?;
        return outdated(root.root.as_deref(), out);
    }
    let config = config::load(config)?;
    // What can be found out before anything changes.
    let disks = disk::renewable(&config)?;
    let present = present(&volume, with)?;
    outdate(&config, out, |out| {
        renew_root(&volume, &present, Some(&config.appliance.hostname), sheet, |phrase| disk::renew_passphrase(&disks, phrase))?;
        let serials = config.disk.iter().flat_map(|disk| &disk.serials);
        for serial in serials.filter(|serial| !disks.iter().any(|disk| disk.serial.as_ref() == Some(serial))) {
            let serial = crate::log::printable(serial.as_bytes());
            say(out, &format!("the disk {serial} takes it when it is opened next: keep the old sheet until then\n"))?;
        }
        // Last: what was cut short before is begun anew, with another sheet.
        say(out, &renewed(sheet))
    })
}

fn renewed(sheet: &Path) -> String {
    format!("the new recovery passphrase is in {}: print it, and remove the file\n", sheet.display())
}

/// Gives root a new passphrase, once that is on a sheet: one that nobody has read opens nothing. `others` take it, too, before
/// the old one goes. Without a `hostname` this isn't the appliance itself.
fn renew_root(
    volume: &Volume,
    present: &Present,
    hostname: Option<&str>,
    sheet: &Path,
    others: impl FnOnce(&Secret<String>) -> Result<()>,
) -> Result<()> {
    let phrase = recovery::generate()?;
    durable::write(sheet, recovery::sheet(hostname, volume.uuid, &phrase)?.expose().as_bytes(), 0o600)?;
    let id = hostname.is_none().then_some(slots::ELSEWHERE);
    let changed = change::rotate_recovery(volume, present, &phrase, id, || others(&phrase));
    if changed.is_err() && slots::slot_of(volume.path(), luks::Key::Passphrase(&phrase)).is_ok_and(|slot| slot.is_none()) {
        // A sheet whose words open nothing would be taken for one that does.
        let _ = fs::remove_file(sheet);
    }
    changed
}

fn restore_header(file: &Path, yes: bool, root: &Path, out: &mut impl Write) -> Result<Outcome> {
    ensure!(
        yes,
        "restoring the header from {}: keys that were added since are lost, and revoked ones open again\nhint: say --yes",
        file.display()
    );
    Volume::restore(root, file)?;
    let uuid = Volume::at(Some(root))?.uuid;
    let (place, file) = (root.display(), file.display());
    say(
        out,
        &format!("{place} has the header of {file} again, {uuid}: try which keys open it (`vaultberry key check STICK`)\n"),
    )?;
    outdated(Some(root), out)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;
    use std::path::PathBuf;

    use tempfile::TempDir;
    use uuid::Uuid;

    use super::{Header, Key, Recovery, Root, Stick, Sticks, With, run};
    use crate::cli::backup::OnAppliance;
    use crate::image::disk::ROOT_START;
    use crate::keys::keyfile::{self, KeyFile};
    use crate::keys::secrets::SecretsFolder;
    use crate::luks::cipher::Cipher;
    use crate::luks::{self, format};

    /// An image, with the builder's key for it, and a stick.
    struct Scene {
        folder: TempDir,
        uuid: Uuid,
    }

    impl Scene {
        fn new() -> Self {
            let (folder, uuid) = (tempfile::tempdir().unwrap(), Uuid::new_v4());
            let scene = Self { folder, uuid };
            let (header, key) = (luks::tests::blank(scene.folder.path()), KeyFile::generate(uuid).unwrap());
            format(&header, uuid, "root", Cipher::Aes, None, &[luks::Key::Random(&key.key)]).unwrap();
            let image = File::create(scene.path("card.img")).unwrap();
            image.write_all_at(&[0x55, 0xaa], 510).unwrap();
            image.write_all_at(&fs::read(&header).unwrap(), ROOT_START).unwrap();
            let file = SecretsFolder::at(&scene.path("secrets")).key(uuid);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, key.encode().expose()).unwrap();
            fs::create_dir(scene.path("stick")).unwrap();
            scene
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn stick(&self) -> Stick {
            Stick::at(&self.path("stick")).unwrap()
        }

        fn make(&self) -> Result<(), String> {
            self.make_at(self.path("stick"))
        }

        fn make_at(&self, stick: PathBuf) -> Result<(), String> {
            let stick = crate::cli::key::Stick { stick };
            let make = Sticks::Make { stick, image: self.path("card.img"), secrets: self.path("secrets") };
            run(&Key::Stick(make), &mut Vec::new()).map(drop).map_err(|error| format!("{error:#}"))
        }

        fn root(&self) -> Root {
            Root { root: Some(self.path("card.img")) }
        }

        fn on(&self) -> OnAppliance {
            OnAppliance { config: self.path("none.toml") }
        }

        fn rotate_recovery(&self) -> Result<(), String> {
            let rotate = Recovery::Rotate {
                sheet: self.path("sheet.txt"),
                with: With { with: Some(self.path("stick")) },
                root: self.root(),
                on: self.on(),
            };
            run(&Key::Recovery(rotate), &mut Vec::new()).map(drop).map_err(|error| error.to_string())
        }
    }

    /// Does something, and gives what is said.
    fn says(command: &Key) -> String {
        let mut out = Vec::new();
        run(command, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_image_s_key_takes_no_other_key_s_place() {
        let scene = Scene::new();
        scene.make().unwrap();
        scene.make().unwrap();
        let rotated = KeyFile::generate(scene.uuid).unwrap();
        // As another card of this image has it.
        scene.stick().put(&rotated).unwrap();
        let error = scene.make().unwrap_err();
        assert!(
            error.contains("stick has another key for this root, ") && error.contains("\nhint: take another stick"),
            "{error}"
        );
        assert_eq!(scene.stick().key(scene.uuid).unwrap().unwrap().key.expose(), rotated.key.expose());
    }

    #[test]
    fn a_stick_is_made_only_where_one_is_and_of_a_key_that_opens() {
        let scene = Scene::new();
        for missing in ["/dev/vaultberry-none", "/dev/vaultberry.img", "mount-point"] {
            let error = scene.make_at(scene.path(missing)).unwrap_err();
            assert!(error.contains("there is no stick ") && error.contains("\nhint: `lsblk -f`"), "{error}");
            assert!(!scene.path(missing).exists());
        }
        let error = scene.make_at(scene.path("card.img")).unwrap_err();
        assert!(error.contains("it is no image of a stick"), "{error}");
        scene.make_at(scene.path("new.img")).unwrap();
        scene.make().unwrap();
        let stick = || crate::cli::key::Stick { stick: scene.path("stick") };
        let check = Key::Check { stick: stick(), root: scene.root() };
        assert!(says(&check).contains("opens this appliance: keyslot 0"));
        fs::write(scene.path("card.bmap"), "").unwrap();
        fs::write(scene.path("SHA256SUMS"), "0  card.img\n0  card.bmap\n").unwrap();
        let said = says(&Key::Rotate { stick: stick(), root: scene.root(), on: scene.on() });
        let stale =
            format!("{}, {}; flash the image itself\n", scene.path("card.bmap").display(), scene.path("SHA256SUMS").display());
        assert!(said.contains(&stale), "{said}");
        let error = scene.make_at(scene.path("another.img")).unwrap_err();
        assert!(error.contains("card.img no more: it was rotated or revoked there\nhint: "), "{error}");
        assert!(!scene.path("another.img").exists());
    }

    #[test]
    fn a_header_goes_back_into_an_image() {
        let scene = Scene::new();
        scene.make().unwrap();
        let (file, image) = (scene.path("header"), scene.path("card.img"));
        says(&Key::Header(Header::Backup { file: file.clone(), root: scene.root() }));
        let whole = fs::read(&image).unwrap();
        let spoiled = File::options().write(true).open(&image).unwrap();
        let restore =
            |file: PathBuf| run(&Key::Header(Header::Restore { file, yes: true, root: image.clone() }), &mut Vec::new());
        let spoil = || spoiled.write_all_at(&vec![0; 1 << 20], ROOT_START).unwrap();
        spoil();
        restore(file.clone()).unwrap();
        assert!(fs::read(&image).unwrap() == whole, "it isn't the same image again");
        // Without its partition table it is one by its root alone; without both nothing tells where root was.
        spoiled.write_all_at(&[0; 512], 0).unwrap();
        restore(file.clone()).unwrap();
        spoil();
        let error = restore(file.clone()).unwrap_err().to_string();
        assert!(error.contains("it has neither a volume nor the partitions of an image\nhint: "), "{error}");
        assert!(fs::read(&image).unwrap()[..1 << 20].iter().all(|byte| *byte == 0), "it was written to");
        spoiled.write_all_at(&whole[..512], 0).unwrap();
        restore(file).unwrap();
        // That of another volume, and what is no file.
        let pipe = scene.path("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = restore(pipe).unwrap_err().to_string();
        assert!(error.contains("pipe: there is none"), "{error}");
        let other = luks::tests::blank(&scene.path("secrets"));
        format(&other, Uuid::new_v4(), "root", Cipher::Aes, None, &[luks::Key::Random(&keyfile::random(64).unwrap())]).unwrap();
        let error = format!("{:#}", restore(other).unwrap_err());
        assert!(error.contains("is the header of another volume"), "{error}");
        assert!(fs::read(&image).unwrap() == whole);
    }

    #[test]
    fn no_sheet_stays_whose_words_open_nothing() {
        let scene = Scene::new();
        scene.stick().put(&KeyFile::generate(scene.uuid).unwrap()).unwrap();
        let error = scene.rotate_recovery().unwrap_err();
        assert!(error.contains("doesn't open this appliance"), "{error}");
        assert!(!scene.path("sheet.txt").exists());
        fs::remove_dir_all(scene.path("stick/vaultberry")).unwrap();
        scene.make().unwrap();
        scene.rotate_recovery().unwrap();
        // The appliance doesn't know it, and its disks don't take it.
        let sheet = fs::read_to_string(scene.path("sheet.txt")).unwrap();
        assert!(!sheet.contains("Appliance:") && sheet.contains("It does not open the backup\ndisk"), "{sheet}");
        let list = Key::Stick(Sticks::List { json: false, root: scene.root() });
        assert!(says(&list).contains(", recovery passphrase changed elsewhere\n"), "{}", says(&list));
    }
}
