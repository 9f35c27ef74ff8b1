//! A new pair's trial: it boots once, and the old one boots ever after unless the system has come up with it.
//!
//! The Pi's firmware has a means for that, `tryboot`, but Debian's kernel can't ask for it, and a Pi 3 can't be asked to boot
//! another kernel from a running one. So the new pair itself gives the switch back: its initramfs, before it opens root,
//! writes that the old one boots ([`begin`]). Whatever happens from then on, each restart leads to the old pair, until the
//! system is up and says that the new one stays ([`settle`]). Each step is one replacement of `config.txt`.
//!
//! The pair that runs is known by a word of the kernel's command line, which every pair has in its folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::switch::Switch;

/// Begins the word of the command line.
pub const PARAMETER: &str = "vaultberry.pair=";

/// The pair that this system was started with; none where the command line doesn't say.
///
/// # Errors
/// The command line can't be read.
pub fn booted() -> Result<Option<String>> {
    let line = fs::read_to_string("/proc/cmdline").context("reading the kernel's command line")?;
    Ok(pair_of(&line))
}

fn pair_of(line: &str) -> Option<String> {
    line.split_whitespace().find_map(|word| word.strip_prefix(PARAMETER)).map(str::to_owned)
}

/// Whether `booted` is on trial, and this is its only boot.
///
/// # Errors
/// `config.txt` can't be read.
pub fn is_first_boot(firmware: &Path, booted: &str) -> Result<bool> {
    let switch = Switch::read(firmware)?;
    Ok(switch.is_some_and(|switch| switch.boots == booted && switch.trial.is_some_and(|trial| trial.new == booted)))
}

/// In the initramfs: gives the switch back to the old pair when `booted` is on trial. Gives the old pair's name then.
///
/// # Errors
/// `config.txt` can't be read or written.
pub fn begin(firmware: &Path, booted: &str) -> Result<Option<String>> {
    if !is_first_boot(firmware, booted)? {
        return Ok(None);
    }
    let Some(mut switch) = Switch::read(firmware)? else { return Ok(None) };
    let Some(trial) = &switch.trial else { return Ok(None) };
    switch.boots.clone_from(&trial.old);
    switch.write(firmware)?;
    Ok(Some(switch.boots))
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// There was none, or the new pair hasn't been booted yet.
    Nothing,
    /// The system came up with this pair, which stays.
    Proven(String),
    /// This pair didn't come up, and the second one runs.
    Failed(String, String),
}

/// On the running system, which was started with `booted`: how the trial went.
///
/// # Errors
/// `config.txt` can't be read.
pub fn outcome(firmware: &Path, booted: &str) -> Result<Settled> {
    let Some(Switch { boots, trial: Some(trial), .. }) = Switch::read(firmware)? else { return Ok(Settled::Nothing) };
    Ok(if trial.new == booted {
        Settled::Proven(trial.new)
    } else if trial.old == booted && boots == trial.old {
        Settled::Failed(trial.new, trial.old)
    } else {
        Settled::Nothing
    })
}

/// Ends the trial, when the pair that runs tells how it went: that pair boots from now on.
///
/// # Errors
/// `config.txt` can't be read or written.
pub fn settle(firmware: &Path, booted: &str) -> Result<Settled> {
    let settled = outcome(firmware, booted)?;
    if let Some(mut switch) = Switch::read(firmware)?.filter(|_| settled != Settled::Nothing) {
        booted.clone_into(&mut switch.boots);
        switch.trial = None;
        switch.write(firmware)?;
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::super::switch::{Switch, Trial};
    use super::{Settled, begin, pair_of, settle};

    #[test]
    fn the_command_line_names_the_pair() {
        assert_eq!(pair_of("console=tty0 vaultberry.pair=6.12-aa panic=10\n").as_deref(), Some("6.12-aa"));
        assert_eq!(pair_of("console=tty0\n"), None);
    }

    #[test]
    fn a_pair_on_trial_boots_once_and_stays_when_it_came_up() {
        let folder = tempfile::tempdir().unwrap();
        let firmware = folder.path();
        let boots = || Switch::read(firmware).unwrap().unwrap().boots;
        let arm = || {
            let mut switch = Switch::to("new", "");
            switch.trial = Some(Trial { new: "new".to_owned(), old: "old".to_owned() });
            switch.write(firmware).unwrap();
        };
        assert_eq!(begin(firmware, "new").unwrap(), None, "there is no config.txt");
        arm();
        // Before it is booted, nothing is decided.
        assert_eq!(begin(firmware, "old").unwrap(), None);
        assert_eq!(settle(firmware, "old").unwrap(), Settled::Nothing);
        assert_eq!(boots(), "new");
        // It comes up.
        assert_eq!(begin(firmware, "new").unwrap().as_deref(), Some("old"));
        assert_eq!(boots(), "old");
        assert_eq!(settle(firmware, "new").unwrap(), Settled::Proven("new".to_owned()));
        assert_eq!((boots().as_str(), settle(firmware, "new").unwrap()), ("new", Settled::Nothing));
        // It doesn't.
        arm();
        begin(firmware, "new").unwrap();
        assert_eq!(settle(firmware, "old").unwrap(), Settled::Failed("new".to_owned(), "old".to_owned()));
        assert_eq!((boots().as_str(), settle(firmware, "old").unwrap()), ("old", Settled::Nothing));
        // It came up though its initramfs could not write.
        arm();
        assert_eq!(settle(firmware, "new").unwrap(), Settled::Proven("new".to_owned()));
        assert_eq!(boots(), "new");
    }
}
