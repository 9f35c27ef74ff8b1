use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use uuid::Uuid;

use super::{Present, add, check, revoke, rotate, rotate_recovery};
use crate::keys::keyfile::{KeyFile, path_on_stick};
use crate::keys::plugged::Stick;
use crate::keys::volume::Volume;
use crate::luks::cipher::Cipher;
use crate::luks::slots::{self, Holder};
use crate::luks::tests::blank;
use crate::luks::{Key, format};
use crate::secret::Secret;

/// A root with a stick's key and a passphrase, and the stick.
struct Scene {
    folder: TempDir,
    path: PathBuf,
    phrase: Secret<String>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = blank(folder.path());
        let uuid = Uuid::new_v4();
        let (key, phrase) = (KeyFile::generate(uuid).unwrap(), Secret::new(String::from("eight words or so")));
        format(&path, uuid, "test", Cipher::Aes, None, &[Key::Random(&key.key), Key::Passphrase(&phrase)]).unwrap();
        let scene = Self { folder, path, phrase };
        scene.stick("first").put(&key).unwrap();
        scene
    }

    fn volume(&self) -> Volume {
        Volume::at(Some(&self.path)).unwrap()
    }

    fn stick(&self, name: &str) -> Stick {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        Stick::at(&path).unwrap()
    }

    fn key(&self, stick: &str) -> KeyFile {
        self.stick(stick).key(self.volume().uuid).unwrap().unwrap()
    }

    fn present(&self) -> Present {
        Present::Phrase(self.phrase.clone())
    }

    /// The numbers of the keyslots in use.
    fn slots(&self) -> Vec<u32> {
        slots::slots(&self.path).unwrap().iter().map(|slot| slot.number).collect()
    }
}

#[test]
fn a_second_stick_has_a_key_of_its_own_and_is_revoked_though_it_is_lost() {
    let scene = Scene::new();
    let added = add(&scene.volume(), &scene.stick("second"), Some("spare"), &scene.present()).unwrap();
    assert_eq!((added.number, check(&scene.volume(), &scene.stick("second")).unwrap()), (2, added.clone()));
    assert_eq!(check(&scene.volume(), &scene.stick("first")).unwrap().number, 0);
    for (stick, name, told) in [
        ("second", None, "has a key that opens this appliance\nhint: `vaultberry key rotate`"),
        ("third", Some("spare"), "there is a key that is called \"spare\""),
    ] {
        let error = add(&scene.volume(), &scene.stick(stick), name, &scene.present()).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let wrong = Present::Phrase(Secret::new("no".into()));
    let error = add(&scene.volume(), &scene.stick("third"), None, &wrong).unwrap_err().to_string();
    assert!(error.contains("this passphrase doesn't open this appliance"), "{error}");
    assert!(check(&scene.volume(), &scene.stick("third")).unwrap_err().to_string().contains("holds no key for this appliance"));

    // A header from before: what a thief may have.
    let before = scene.folder.path().join("before");
    fs::copy(&scene.path, &before).unwrap();
    let lost = scene.key("second");
    assert_eq!(revoke(&scene.volume(), "spare", false).unwrap(), added);
    assert_eq!(slots::slot_of(&scene.path, Key::Random(&lost.key)).unwrap(), None);
    assert_eq!(slots::slot_of(&before, Key::Random(&lost.key)).unwrap(), Some(2), "an old header still takes it");
    let error = check(&scene.volume(), &scene.stick("second")).unwrap_err().to_string();
    assert!(error.contains("doesn't open this appliance\nhint: "), "{error}");

    let id = slots::id(scene.key("first").key.expose());
    let error = revoke(&scene.volume(), &id, false).unwrap_err().to_string();
    assert!(error.contains("is the last key on a stick"), "{error}");
    assert!(revoke(&scene.volume(), "spare", true).unwrap_err().to_string().contains("no key of a stick has"));
    revoke(&scene.volume(), &id, true).unwrap();
    assert_eq!(scene.slots(), [1]);
}

#[test]
fn an_addition_that_was_cut_short_is_finished_by_the_same_command() {
    // Before the keyslot came: the stick has a key that no boot looks at.
    let scene = Scene::new();
    let uuid = scene.volume().uuid;
    let again = || add(&scene.volume(), &scene.stick("second"), Some("spare"), &scene.present());
    scene.stick("second").bring(&KeyFile::generate(uuid).unwrap()).unwrap();
    assert!(scene.stick("second").key(uuid).unwrap().is_none());
    let added = again().unwrap();
    assert_eq!(check(&scene.volume(), &scene.stick("second")).unwrap(), added);
    assert_eq!(scene.slots(), [0, 1, 2]);

    // After it: only the name was missing.
    let path = scene.folder.path().join("second").join(path_on_stick(uuid));
    fs::rename(&path, super::super::keyfile::coming_name(&path)).unwrap();
    assert_eq!(again().unwrap(), added);
    assert_eq!(check(&scene.volume(), &scene.stick("second")).unwrap(), added);
    assert_eq!(scene.slots(), [0, 1, 2]);
}

#[test]
fn a_header_without_room_and_an_odd_name_are_told() {
    let scene = Scene::new();
    for name in ["", " spare", &"x".repeat(41)] {
        let error = add(&scene.volume(), &scene.stick("second"), Some(name), &scene.present()).unwrap_err().to_string();
        assert!(error.starts_with("a key is called by 1 to 40 characters"), "{error}");
    }
    let opens = scene.key("first");
    let error = (0..32).find_map(|number| {
        let key = Key::Random(&opens.key);
        let holder = Holder { name: Some(format!("{number:040}")), ..Holder::of(&key) };
        slots::add(&scene.path, key, key, &holder).err()
    });
    let error = error.unwrap().to_string();
    assert!(error.contains("is full\nhint: `vaultberry key stick revoke` makes room"), "{error}");
    // It takes one again when another has gone.
    slots::kill(&scene.path, 5).unwrap();
    add(&scene.volume(), &scene.stick("second"), None, &Present::Key(opens)).unwrap();
}

#[test]
fn a_new_key_takes_the_old_one_s_place_on_the_stick() {
    let scene = Scene::new();
    let old = scene.key("first");
    let slot = rotate(&scene.volume(), &scene.stick("first")).unwrap();
    assert_eq!((slot.number, scene.slots()), (2, vec![1, 2]));
    assert_eq!(check(&scene.volume(), &scene.stick("first")).unwrap(), slot);
    assert_eq!(slots::slot_of(&scene.path, Key::Random(&old.key)).unwrap(), None);
    assert_eq!(slot.holder.unwrap().replaces, None);
}

#[test]
fn a_rotation_that_was_cut_short_leaves_a_key_that_opens_and_is_finished() {
    // Cut after the keyslot was added: the stick has the old key.
    let scene = Scene::new();
    let old = scene.key("first");
    let new = KeyFile::generate(scene.volume().uuid).unwrap();
    let replaces = Some(slots::id(old.key.expose()));
    let holder = Holder { replaces, ..Holder::of(&Key::Random(&new.key)) };
    slots::add(&scene.path, Key::Random(&old.key), Key::Random(&new.key), &holder).unwrap().unwrap();
    assert_eq!(check(&scene.volume(), &scene.stick("first")).unwrap().number, 0);
    rotate(&scene.volume(), &scene.stick("first")).unwrap();
    assert_eq!(scene.slots().len(), 2, "the stray keyslot and the old one are gone");
    assert_eq!(slots::slot_of(&scene.path, Key::Random(&new.key)).unwrap(), None);
    check(&scene.volume(), &scene.stick("first")).unwrap();

    // Of the two keys nobody knows which is on the stick: neither counts as another one.
    let scene = Scene::new();
    let old = scene.key("first");
    let ids = [&old, &new].map(|key| slots::id(key.key.expose()));
    let holder = Holder { replaces: Some(ids[0].clone()), ..Holder::of(&Key::Random(&new.key)) };
    slots::add(&scene.path, Key::Random(&old.key), Key::Random(&new.key), &holder).unwrap().unwrap();
    for id in &ids {
        let error = revoke(&scene.volume(), id, false).unwrap_err().to_string();
        assert!(error.contains("is the last key on a stick"), "{error}");
    }

    // Cut after the stick was written, before and after it got its name.
    for renamed in [false, true] {
        let scene = Scene::new();
        let old = scene.key("first");
        let replaces = Some(slots::id(old.key.expose()));
        let holder = Holder { replaces, ..Holder::of(&Key::Random(&new.key)) };
        let key = KeyFile { uuid: scene.volume().uuid, key: new.key.clone() };
        slots::add(&scene.path, Key::Random(&old.key), Key::Random(&new.key), &holder).unwrap().unwrap();
        scene.stick("first").put(&key).unwrap();
        let path = scene.folder.path().join("first").join(path_on_stick(key.uuid));
        if !renamed {
            fs::rename(&path, super::super::keyfile::new_name(&path)).unwrap();
        }
        let slot = rotate(&scene.volume(), &scene.stick("first")).unwrap();
        assert_eq!((slot.number, scene.slots()), (2, vec![1, 2]), "only the end was left to do");
        assert!(path.exists(), "the next rotation writes its key beside it");
        assert_eq!(slots::slot_of(&scene.path, Key::Random(&old.key)).unwrap(), None);
        check(&scene.volume(), &scene.stick("first")).unwrap();
    }
}

#[test]
fn a_passphrase_that_was_cut_short_leaves_the_old_one_and_is_told() {
    let scene = Scene::new();
    let (cut, new) = (Secret::new(String::from("eight words of one")), Secret::new(String::from("eight other words")));
    let present = || Present::Key(scene.key("first"));
    // Where others can't take it, the old one goes on to open everything.
    let error = rotate_recovery(&scene.volume(), &present(), &cut, None, || anyhow::bail!("the disk is full")).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("still opens this appliance") && error.ends_with("the disk is full"), "{error}");
    assert_eq!(slots::slot_of(&scene.path, Key::Passphrase(&scene.phrase)).unwrap(), Some(1));
    let holders = || slots::holders(&crate::luks::read_header(&scene.path).unwrap());
    assert!(holders().iter().any(|holder| holder.replaces.as_deref() == Some(slots::ALL)), "{:?}", holders());
    // Again: both go.
    let taken = std::cell::Cell::new(false);
    let others = || {
        assert_eq!(slots::slot_of(&scene.path, Key::Passphrase(&scene.phrase)).unwrap(), Some(1), "it still opens");
        taken.set(true);
        Ok(())
    };
    rotate_recovery(&scene.volume(), &present(), &new, Some(slots::ELSEWHERE), others).unwrap();
    assert!(taken.get());
    for old in [&scene.phrase, &cut] {
        assert_eq!(slots::slot_of(&scene.path, Key::Passphrase(old)).unwrap(), None);
    }
    assert!(slots::slot_of(&scene.path, Key::Passphrase(&new)).unwrap().is_some());
    let mut kinds: Vec<_> = holders().into_iter().map(|holder| (holder.id, holder.replaces)).collect();
    kinds.sort();
    let id = slots::id(scene.key("first").key.expose());
    let mut expected = [(Some(id), None), (Some(slots::ELSEWHERE.into()), None)];
    expected.sort();
    assert_eq!(kinds, expected);
    assert_eq!(slots::holders(b"no header"), []);
}

#[test]
fn keys_are_changed_by_one_at_a_time() {
    let scene = Scene::new();
    let changing = Volume::to_change(Some(&scene.path)).unwrap();
    let error = Volume::to_change(Some(&scene.path)).unwrap_err().to_string();
    assert!(error.starts_with("another program is changing the keys of ") && error.contains("\nhint: wait"), "{error}");
    Volume::at(Some(&scene.path)).unwrap();
    drop(changing);
    Volume::to_change(Some(&scene.path)).unwrap();
}

#[test]
fn a_new_passphrase_takes_the_place_of_the_old_one() {
    let scene = Scene::new();
    let new = Secret::new(String::from("eight other words"));
    rotate_recovery(&scene.volume(), &Present::Key(scene.key("first")), &new, None, || Ok(())).unwrap();
    assert_eq!(slots::slot_of(&scene.path, Key::Passphrase(&scene.phrase)).unwrap(), None);
    assert_eq!(slots::slot_of(&scene.path, Key::Passphrase(&new)).unwrap(), Some(2));
    check(&scene.volume(), &scene.stick("first")).unwrap();
}

/// How each keyslot stretches its key.
fn derivations(scene: &Scene) -> Vec<(String, serde_json::Value)> {
    let mut dump = std::process::Command::new("/usr/sbin/cryptsetup");
    dump.args(["luksDump", "--dump-json-metadata"]).arg(&scene.path);
    let json = crate::process::output(&mut dump, "dumping the header").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let slots = json["keyslots"].as_object().unwrap();
    let one = |(number, slot): (&String, &serde_json::Value)| {
        let kdf = &slot["kdf"];
        let cost = if kdf["type"] == "pbkdf2" { &kdf["iterations"] } else { &kdf["memory"] };
        (format!("{number} {}", kdf["type"].as_str().unwrap()), cost.clone())
    };
    slots.iter().map(one).collect()
}

#[test]
fn a_key_that_is_added_or_rotated_costs_no_more_than_that_of_the_build_and_a_passphrase_no_less() {
    let scene = Scene::new();
    add(&scene.volume(), &scene.stick("second"), None, &scene.present()).unwrap();
    assert_eq!(rotate(&scene.volume(), &scene.stick("first")).unwrap().number, 3);
    let new = Secret::new(String::from("eight other words"));
    rotate_recovery(&scene.volume(), &Present::Key(scene.key("first")), &new, None, || Ok(())).unwrap();
    let expected = [("0 argon2id", 131_072), ("2 pbkdf2", 1000), ("3 pbkdf2", 1000)];
    let expected: Vec<_> = expected.map(|(kind, cost)| (kind.to_owned(), serde_json::json!(cost))).into();
    assert_eq!(derivations(&scene), expected);
}

#[test]
fn a_key_gets_its_keyslot_when_it_is_on_the_stick() {
    let scene = Scene::new();
    let stick = scene.stick("third");
    fs::write(scene.folder.path().join("third/vaultberry"), "a file in the way").unwrap();
    let before = fs::read(&scene.path).unwrap();
    add(&scene.volume(), &stick, None, &scene.present()).unwrap_err();
    assert!(fs::read(&scene.path).unwrap() == before, "a power cut could have left a keyslot whose key is nowhere");
}
