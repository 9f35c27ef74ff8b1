//! `vaultberry harden`: from a parsed command to what is printed.

use std::io::Write;

use anyhow::{Result, bail};
use jiff::Timestamp;
use nix::unistd::Uid;

use super::say;
use crate::cli::harden::{Check, Harden};
use crate::config::{self, Config};
use crate::harden::record::Record;
use crate::harden::{apply, check, require_appliance};
use crate::outcome::Outcome;
use crate::snapshot::json;

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Harden, out: &mut impl Write) -> Result<Outcome> {
    match command {
        Harden::Check(args) => look(&config::load(&args.on.config)?, args, out),
        Harden::Apply(args) => {
            let config = config::load(&args.on.config)?;
            let applied = apply::apply(&config)?;
            applied.done.iter().for_each(|line| eprintln!("{line}"));
            applied.failed.iter().for_each(|error| tracing::error!("{error:#}"));
            for peer in apply::locked_out(&config) {
                tracing::warn!("{peer} is connected now, and could not come again: no network of [access] ssh_from has it");
            }
            let found = look(&config, args, out)?;
            Ok(if applied.failed.is_empty() { found } else { Outcome::Failed })
        }
    }
}

fn look(config: &Config, args: &Check, out: &mut impl Write) -> Result<Outcome> {
    if !Uid::effective().is_root() {
        bail!("checking the hardening: sshd, fail2ban and the firewall answer only root\nhint: use sudo");
    }
    require_appliance()?;
    let record = Record::of(check::look(config), Timestamp::now());
    if let Err(error) = record.keep(&config.backup.state) {
        tracing::warn!("{error:#}; the next report tells of the check before");
    }
    say(out, &if args.json { json::line(&record)? } else { check::table(&record.rules) })?;
    Ok(check::outcome(&record.rules))
}
