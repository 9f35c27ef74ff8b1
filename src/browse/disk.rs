//! `vaultberry disk`: from a parsed command to what is printed.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::say;
use crate::cli::disk::Disk;
use crate::config::{self, Config, DEFAULT_CONFIG};
use crate::devices::Block;
use crate::disk::{self, Row, used};
use crate::log::printable;
use crate::outcome::Outcome;
use crate::run::headers;
use crate::run::lock::{self, Attempt};
use crate::snapshot::json;
use crate::terminal;

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Disk, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Disk::Init { on, yes_really } => {
            let formatted = disk::init(&config::load(&on.config)?, None, yes_really.as_deref(), ask)?;
            tell(out, &formatted, "is formatted")
        }
        Disk::List { on, json } => {
            // A disk is looked for before there is a config, and on other machines.
            let wanted = on.config != Path::new(DEFAULT_CONFIG) || on.config.exists();
            list(wanted.then(|| config::load(&on.config)).transpose()?.as_ref(), *json, out)
        }
        Disk::Open { on, plugged } => open(&config::load(&on.config)?, plugged.device.as_deref(), out),
        Disk::Detach(on) => detach(&config::load(&on.config)?, out),
        Disk::Close { on, plugged } => {
            disk::close(&config::load(&on.config)?, plugged.device.as_deref())?;
            Ok(Outcome::Complete)
        }
        Disk::Attach(on) => {
            let config = config::load(&on.config)?;
            let typed = terminal::read_secret("recovery passphrase of the appliance that made the disk")?;
            let attached = disk::attach(&config, &typed)?;
            tell(out, &attached, "is this appliance's, too")?;
            open(&config, None, out)
        }
        Disk::Grow(on) => {
            let size = disk::grow(&config::load(&on.config)?)?;
            say(out, &format!("the backup disk's file system has {} now\n", crate::amount::amount(size)))
        }
    }
}

fn tell(out: &mut impl Write, disks: &[Block], what: &str) -> Result<Outcome> {
    for disk in disks {
        say(out, &format!("{} {what}\n", name(disk)))?;
    }
    Ok(Outcome::Complete)
}

fn name(disk: &Block) -> String {
    format!("the disk {} ({})", printable(disk.serial.as_deref().unwrap_or("?").as_bytes()), disk.node.display())
}

fn open(config: &Config, node: Option<&Path>, out: &mut impl Write) -> Result<Outcome> {
    if let Some(node) = node {
        if !disk::is_named(config, node)? {
            return say(out, &format!("{} isn't a backup disk: the config doesn't name it\n", node.display()));
        }
        // Nobody is there to be asked.
        tell(out, &disk::init(config, Some(node), None, |_| Ok(false))?, "was blank, and is formatted")?;
    }
    let folder = config.backup.folder.display();
    let opened = disk::open(config)?;
    // The disk is open all the same.
    if let Err(error) = headers::forget(config) {
        tracing::warn!("removing copies of LUKS headers from before a key was revoked: {error:#}");
    }
    match opened {
        Some(disk) => say(out, &format!("{} is open, and mounted at {folder}\n", name(&disk))),
        None => say(out, &format!("a backup disk is mounted at {folder}\n")),
    }
}

fn detach(config: &Config, out: &mut impl Write) -> Result<Outcome> {
    let _lock = match lock::acquire(&config.backup.lock, Timestamp::now())? {
        Attempt::Taken(lock) => lock,
        Attempt::Held(holder) => {
            bail!("a run is at work ({holder})\nhint: wait for its end, or end it: `systemctl stop vaultberry-backup`")
        }
    };
    let serial = used::open_now(config)?;
    disk::close(config, None)?;
    match serial {
        Some(serial) => say(out, &format!("the disk {} is closed: it can be pulled out\n", printable(serial.as_bytes()))),
        None => say(out, "no backup disk is open\n"),
    }
}

fn list(config: Option<&Config>, as_json: bool, out: &mut impl Write) -> Result<Outcome> {
    let named = config.and_then(|config| config.disk.as_ref());
    let used = config.map(|config| used::load(&config.backup.state)).transpose()?.unwrap_or_default();
    let rows = disk::list(named)?;
    if as_json {
        return say(out, &json::line(&serde_json::json!({ "disks": rows, "last_used": used }))?);
    }
    let mut text: String = rows.iter().map(|row| row.line() + "\n").collect();
    let away = named.iter().flat_map(|disk| &disk.serials);
    for serial in away.filter(|serial| !rows.iter().any(|row| row.config_name.as_ref() == Some(serial))) {
        let when = used.get(serial).map_or("never used".to_owned(), |when| format!("last used {when:.0}"));
        writeln!(text, "{serial}: backup disk, not here, {when}").expect("writing to a string doesn't fail");
    }
    if text.is_empty() {
        text.push_str("no disk is here\n");
    }
    say(out, &text)
}

/// Shows what will be lost, and wants the serial number typed. Without a person there is no consent.
fn ask(row: &Row) -> Result<bool> {
    let serial = row.config_name.as_deref().unwrap_or_default();
    let question = format!("{}\nIt holds {}. All of it will be lost. Type {serial} to format it", row.name(), row.holds);
    terminal::agrees(&question, serial)
}
