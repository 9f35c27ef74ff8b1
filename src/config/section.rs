//! The sections that stand once: what each setting must be, its default, and the rules between settings.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::error::{Fault, show};
use super::read::{Element, Found, Report, Section};
use super::{Admin, Appliance, Backup, Disk, Image, Keep, Keymap, TimeOfDay, Unlock};
use super::{extra, keep, name, place, public_key, region, schema, value};
use crate::kernel::boards::Target;
use crate::luks::cipher::Cipher;
use crate::unlock::mark::Mark;

const GIB: u64 = 1 << 30;

pub(super) fn appliance(report: &mut Report<'_>, root: &DeTable<'_>) -> Appliance {
    let section = Section::once(report, root, &schema::APPLIANCE);
    let time_servers = section.list(report, "time_servers", name::host).value;
    Appliance {
        time_servers: distinct(report, time_servers),
        hostname: section.text(report, "hostname", String::from("vaultberry"), name::hostname).value,
        timezone: section.text(report, "timezone", String::from("Etc/UTC"), name::timezone).value,
        locale: section.text(report, "locale", String::from(region::PLAIN_LOCALE), region::locale).value,
        keymap: section.text(report, "keymap", Keymap::default(), region::keymap).value,
    }
}

pub(super) fn admin(report: &mut Report<'_>, root: &DeTable<'_>) -> Admin {
    let section = Section::once(report, root, &schema::ADMIN);
    let user = section.text(report, "user", String::from("admin"), name::admin_user).value;
    let keys = section.list(report, "ssh_keys", public_key::login);
    let generate = section.flag(report, "generate_key", false);
    // Without the section nobody builds an image of this: the agent alone runs, on a host that has its own logins.
    let wanted = section.exists() && keys.sound() && generate.sound();
    if wanted && keys.value.is_empty() && !generate.value {
        let hint = "add ssh_keys = [\"ssh-ed25519 AAAA… me@laptop\"], or generate_key = true for a demonstration";
        let fault = Fault::new("nobody could log in: there is no ssh key", hint);
        report.add_if_whole(&keys.at, section.path("ssh_keys"), fault);
    }
    Admin { user, ssh_keys: distinct(report, keys.value), generate_key: generate.value }
}

pub(super) fn image(report: &mut Report<'_>, root: &DeTable<'_>) -> Image {
    let section = Section::once(report, root, &schema::IMAGE);
    let packages = section.list(report, "packages", name::package).value;
    let arguments = section.list(report, "kernel_arguments", extra::kernel_argument).value;
    let files = extra::files(report, &section);
    let board = section.text(report, "board", Target::default(), board).value;
    Image {
        board,
        suite: section.text(report, "suite", String::from("trixie"), name::suite).value,
        size: section.text(report, "size", 4 * GIB, image_size).value,
        cipher: section.text(report, "cipher", board.cipher(), cipher).value,
        packages: distinct(report, packages),
        proxy: section.text(report, "proxy", None, |text| extra::proxy(text).map(Some)).value,
        kernel_arguments: distinct(report, arguments),
        files,
        mirror: section.text(report, "mirror", None, |text| name::mirror(text).map(Some)).value,
    }
}

fn image_size(text: &str) -> Result<u64, Fault> {
    let size = value::size(text)?;
    if size.is_power_of_two() && (2 * GIB..=64 * GIB).contains(&size) {
        return Ok(size);
    }
    let message = format!("{} is not a power of two from 2 GiB to 64 GiB", value::size_text(size));
    Err(Fault::new(message, "write one of \"2 GiB\", \"4 GiB\", \"8 GiB\", \"16 GiB\", \"32 GiB\" and \"64 GiB\""))
}

fn board(text: &str) -> Result<Target, Fault> {
    Target::named(text).ok_or_else(|| {
        let names: Vec<String> = Target::names().iter().map(|name| format!("{name:?}")).collect();
        Fault::new(
            format!("{} is no board that an image can be made for", show(text)),
            format!("write one of {}", names.join(", ")),
        )
    })
}

fn cipher(text: &str) -> Result<Cipher, Fault> {
    match text {
        "adiantum" => Ok(Cipher::Adiantum),
        "aes" => Ok(Cipher::Aes),
        _ => Err(Fault::new(format!("{} is no cipher for root", show(text)), "write \"adiantum\" or \"aes\"")),
    }
}

pub(super) fn unlock(report: &mut Report<'_>, root: &DeTable<'_>) -> Unlock {
    let section = Section::once(report, root, &schema::UNLOCK);
    let wait = section.text(report, "wait", Duration::from_secs(30), |text| {
        value::at_most(text, Duration::from_mins(10), "write 0s to 10m, as in \"30s\"")
    });
    let reboot_after = section.text(report, "reboot_after", Duration::from_mins(10), |text| {
        let time = value::at_most(text, Duration::from_hours(24), "write 1m to 24h, as in \"10m\"")?;
        if time < Duration::from_mins(1) {
            let message = format!("{} leaves nobody the time to plug a stick in", value::duration_text(time));
            return Err(Fault::new(message, "write 1m to 24h, as in \"10m\""));
        }
        Ok(time)
    });
    if wait.sound() && reboot_after.sound() && reboot_after.value <= wait.value {
        // The default of one may be what the other collides with: point to the one that was set.
        let (key, at) = if reboot_after.found == Found::Right { ("reboot_after", &reboot_after.at) } else { ("wait", &wait.at) };
        let (first, last) = (value::duration_text(wait.value), value::duration_text(reboot_after.value));
        let message = format!("the reboot after {last} would come before the wait of {first} is over");
        report.add_if_whole(at, section.path(key), Fault::new(message, "make reboot_after longer than wait"));
    }
    let sticks = section.list(report, "sticks", mark).value;
    for (number, element) in sticks.iter().enumerate() {
        if sticks[..number].iter().any(|other| other.value == element.value) {
            report.add(&element.at, element.path.clone(), Fault::new("is named twice", "name each stick once"));
        }
    }
    let sticks = sticks.into_iter().map(|element| element.value).collect();
    Unlock { wait: wait.value, reboot_after: reboot_after.value, sticks }
}

fn mark(text: &str) -> Result<Mark, Fault> {
    let hint =
        "write \"label:VB-KEY\", \"partuuid:1a2b3c4d-01\" or \"serial:0123456789\"; `lsblk -o LABEL,PARTUUID,SERIAL` shows them";
    let mark: Mark = text.parse().map_err(|_| Fault::new(format!("{} names no stick", show(text)), hint))?;
    if !mark.can_fit() {
        return Err(Fault::new(
            format!("{} is on no stick: FAT and ext4 know no such label, or no partition such a UUID", show(text)),
            hint,
        ));
    }
    Ok(mark)
}

pub(super) fn disk(report: &mut Report<'_>, root: &DeTable<'_>) -> Option<Disk> {
    let section = Section::once(report, root, &schema::DISK);
    if !section.exists() {
        return None;
    }
    let serials = section.required_list(report, "serials", name::serial);
    for (number, element) in serials.value.iter().enumerate() {
        if serials.value[..number].iter().any(|other| other.value == element.value) {
            report.add(&element.at, element.path.clone(), Fault::new("is named twice", "name each disk once"));
        }
    }
    let serials: Vec<String> = serials.value.into_iter().map(|element| element.value).collect();
    (!serials.is_empty()).then_some(Disk { serials })
}

pub(super) fn backup(report: &mut Report<'_>, root: &DeTable<'_>) -> Backup {
    let section = Section::once(report, root, &schema::BACKUP);
    let folder = section.text(report, "folder", PathBuf::from("/mnt/backup"), place::own);
    let state = section.text(report, "state", PathBuf::from("/var/lib/vaultberry"), place::own);
    let lock = section.text(report, "lock", PathBuf::from("/run/lock/vaultberry.lock"), place::own);
    let at = section.text(report, "at", TimeOfDay { hour: 2, minute: 30 }, value::time_of_day).value;
    for (key, inner) in [("state", &state), ("lock", &lock)] {
        if folder.sound() && inner.sound() && inner.value.starts_with(&folder.value) {
            let place = if inner.found == Found::Right { &inner.at } else { &folder.at };
            let message = format!("lies inside {}, where a missing disk would take it away", folder.value.display());
            let hint = "keep state and lock outside of folder, as in \"/var/lib/vaultberry\" and \"/run/lock/vaultberry.lock\"";
            report.add_if_whole(place, section.path(key), Fault::new(message, hint));
        }
    }
    if state.sound() && lock.sound() && state.value.starts_with(&lock.value) {
        let place = if lock.found == Found::Right { &lock.at } else { &state.at };
        let fault =
            Fault::new("is the state folder or one above it, but must be a file", "write lock = \"/run/lock/vaultberry.lock\"");
        report.add_if_whole(place, section.path("lock"), fault);
    }
    let keep = section.any(report, "keep", Keep::default(), keep::keep).value;
    let parallel = section.number(report, "parallel", 4, 1..=16).value;
    let keep_logs = section.number(report, "keep_logs", 90, 1..=10_000).value;
    Backup { folder: folder.value, state: state.value, lock: lock.value, at, keep, parallel, keep_logs }
}

/// The elements without what comes a second time, which is reported.
pub(super) fn distinct<T: PartialEq>(report: &mut Report<'_>, elements: Vec<Element<T>>) -> Vec<T> {
    let mut values = Vec::new();
    for Element { value, path, at } in elements {
        if values.contains(&value) {
            report.add(&at, path, Fault::new("stands twice in this list", "keep one of the two"));
        } else {
            values.push(value);
        }
    }
    values
}
