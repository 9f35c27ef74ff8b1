//! `vaultberry update`: from a parsed command to what is printed.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use nix::unistd::Uid;

use super::kernel::sentence;
use super::say;
use crate::cli::update::Update;
use crate::config::{self, Config, Reboot};
use crate::harden::require_appliance;
use crate::kernel::appliance::Appliance;
use crate::kernel::install::Installed;
use crate::outcome::Outcome;
use crate::run::lock::{self, Attempt, Lock};
use crate::stop::Stop;
use crate::terminal;
use crate::updates::{restart, stick, upgrade, waiting};

/// How long the window lasts. A restart later than that might meet the backup.
const WINDOW: Duration = Duration::from_hours(1);

/// Does what `command` says, and writes what comes of it to `out`.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(command: &Update, out: &mut impl Write) -> Result<Outcome> {
    ensure!(Uid::effective().is_root(), "updating the appliance: only root may install packages\nhint: use sudo");
    require_appliance()?;
    let config = config::load(&command.on.config)?;
    if command.unattended { unattended(&config, out) } else { attended(&config, command, out) }
}

fn attended(config: &Config, command: &Update, out: &mut impl Write) -> Result<Outcome> {
    upgrade::fetch_lists()?;
    let waiting = waiting::ask_apt().context("asking apt what waits\nhint: `sudo apt-get --simulate dist-upgrade` says why")?;
    for one in &waiting {
        say(out, &format!("{}\n", one.line()))?;
    }
    if waiting.is_empty() {
        say(out, "nothing waits\n")?;
    }
    if command.check {
        return Ok(if waiting.is_empty() { Outcome::Complete } else { Outcome::Partial });
    }
    if !waiting.is_empty() {
        if !command.yes && !terminal::agrees("Type yes to install it", "yes")? {
            bail!("installing updates: nobody has agreed\nhint: type yes, or give --yes");
        }
        // A lost session must not end this between the upgrade and the holds.
        let _stop = Stop::on_signals()?;
        let Some(_lock) = lock(config, out)? else { return Ok(Outcome::Skipped) };
        upgrade::everything()?;
    }
    tell_next(out)
}

/// The run's lock; none when a run, or another upgrade, is at work, which is said.
fn lock(config: &Config, out: &mut impl Write) -> Result<Option<Lock>> {
    match lock::acquire_for_upgrade(&config.backup.lock, Timestamp::now())? {
        Attempt::Taken(lock) => Ok(Some(lock)),
        Attempt::Held(holder) => {
            say(out, &format!("nothing is installed: a run or another upgrade is at work ({holder})\n"))?;
            Ok(None)
        }
    }
}

/// Makes sure that the newest kernel is on the firmware partition, and says what is to do.
fn tell_next(out: &mut impl Write) -> Result<Outcome> {
    let installed = Appliance::here()?.install(None, false).context("bringing the newest kernel to the firmware partition")?;
    restart::look()?;
    let text = next(&installed, restart::wanted().as_deref(), stick::is_plugged_in().ok());
    say(out, &text)
}

fn next(installed: &Installed, restart: Option<&str>, stick: Option<bool>) -> String {
    let Some(why) = restart else { return sentence(installed) + "no restart is needed\n" };
    let stick = if stick == Some(true) {
        "the key stick is in: `sudo systemctl reboot`\n"
    } else {
        "THE KEY STICK ISN'T IN: plug it in, then `sudo systemctl reboot`; without it the appliance stays closed\n"
    };
    let trial = if matches!(installed, Installed::Armed(_) | Installed::Waits(_)) {
        "if it doesn't come up with the new kernel, it goes back to the old one by itself: leave the stick in\n"
    } else {
        ""
    };
    format!("{}a restart is wanted: {why}\n{stick}{trial}", sentence(installed))
}

fn unattended(config: &Config, out: &mut impl Write) -> Result<Outcome> {
    if !config.updates.security {
        restart::look()?;
        say(out, "nothing is installed: the configuration says security = false\n")?;
        return Ok(Outcome::Skipped);
    }
    let begun = Instant::now();
    let Some(_lock) = lock(config, out)? else { return Ok(Outcome::Skipped) };
    upgrade::fetch_lists()?;
    upgrade::security()?;
    restart::look()?;
    let Some(why) = restart::wanted() else { return Ok(Outcome::Complete) };
    say(out, &format!("a restart is wanted: {why}\n"))?;
    if let Some(reason) = kept_from_restarting(config.updates.reboot, begun.elapsed(), stick::is_plugged_in) {
        return say(out, &format!("there is none: {reason}\n"));
    }
    say(out, "the key stick is in: restarting\n")?;
    // The lock is held until systemd ends this: no run begins that the restart would cut short.
    upgrade::restart().map(|()| Outcome::Complete)
}

/// Why no restart is made by itself.
fn kept_from_restarting(wanted: Reboot, taken: Duration, stick: impl FnOnce() -> Result<bool>) -> Option<String> {
    if wanted == Reboot::Never {
        return Some("the configuration says reboot = \"never\"".to_owned());
    }
    if taken > WINDOW {
        return Some("the window is over".to_owned());
    }
    match stick() {
        Ok(true) => None,
        Ok(false) => Some("no stick is in whose key opens root".to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{kept_from_restarting, next};
    use crate::config::Reboot;
    use crate::kernel::install::Installed;
    use crate::kernel::switch::Trial;

    #[test]
    fn a_restart_by_itself_wants_the_stick_and_the_window() {
        let soon = Duration::from_mins(5);
        let kept = |reboot, taken, stick| kept_from_restarting(reboot, taken, move || Ok(stick));
        assert_eq!(kept(Reboot::WithStick, soon, true), None);
        assert_eq!(kept(Reboot::Never, soon, true).unwrap(), "the configuration says reboot = \"never\"");
        assert_eq!(kept(Reboot::WithStick, Duration::from_mins(61), true).unwrap(), "the window is over");
        assert_eq!(kept(Reboot::WithStick, soon, false).unwrap(), "no stick is in whose key opens root");
        let broken = kept_from_restarting(Reboot::WithStick, soon, || Err(anyhow!("udev is away")));
        assert_eq!(broken.unwrap(), "udev is away");
    }

    #[test]
    fn what_is_to_do_next_is_told_and_a_missing_stick_loudly() {
        let armed = Installed::Armed(Trial::of("6.12.57-bb", "6.12.48-aa"));
        assert_eq!(
            next(&armed, Some("6.12.57-bb waits to be tried"), Some(false)),
            "6.12.57-bb is tried at the next start; unless it comes up, 6.12.48-aa boots again\n\
             a restart is wanted: 6.12.57-bb waits to be tried\n\
             THE KEY STICK ISN'T IN: plug it in, then `sudo systemctl reboot`; without it the appliance stays closed\n\
             if it doesn't come up with the new kernel, it goes back to the old one by itself: leave the stick in\n"
        );
        let boots = Installed::Boots("6.12.48-aa".to_owned());
        assert_eq!(
            next(&boots, Some("running since before an upgrade: sshd"), Some(true)),
            "6.12.48-aa boots already\na restart is wanted: running since before an upgrade: sshd\n\
             the key stick is in: `sudo systemctl reboot`\n"
        );
        assert_eq!(next(&boots, None, None), "6.12.48-aa boots already\nno restart is needed\n");
    }
}
