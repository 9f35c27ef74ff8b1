//! A new pair's trial: it boots once, and the old one boots ever after unless the system has come up with it.
//!
//! The Pi's firmware has a means for that, `tryboot`, but Debian's kernel can't ask for it. So the boot loader gives the switch
//! back before it starts the new pair ([`boot_loader`](super::boot_loader)); where there is none, or it can't, the new pair's
//! initramfs does, before it opens root ([`begin`]). Whatever happens from then on, each restart leads to the old pair, until
//! the system is up and says that the new one stays ([`settle`]). Each step is one write of `config.txt`.
//!
//! A boot that ends because no stick came says nothing of the pair. Its initramfs notes that ([`leave_undecided`]), and when
//! the old pair has come up, the new one is tried again: a few times, as a kernel that doesn't see sticks looks the same.
//!
//! The pair that runs is known by a word of the kernel's command line, which every pair has in its folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::switch::Switch;

/// How often a trial may end for want of a key before the pair counts as one that doesn't come up.
const MAX_KEYLESS: u32 = 3;

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

/// What `config.txt` says of the trial of `booted`; none where that isn't on trial.
///
/// # Errors
/// `config.txt` can't be read.
pub fn of(firmware: &Path, booted: &str) -> Result<Option<Switch>> {
    let switch = Switch::read(firmware)?;
    Ok(switch.filter(|switch| switch.trial.as_ref().is_some_and(|trial| trial.new == booted)))
}

/// In the initramfs: gives the switch back to the old pair when `booted` is on trial and the boot loader hasn't done so.
///
/// # Errors
/// `config.txt` can't be read or written.
pub fn begin(firmware: &Path, booted: &str) -> Result<()> {
    match of(firmware, booted)? {
        Some(switch) if switch.is_armed() => switch.given_back().write(firmware),
        _ => Ok(()),
    }
}

/// In the initramfs, after [`begin`]: notes that no key came, so that nothing is known of the new pair. Gives whether it is
/// tried again.
///
/// # Errors
/// `config.txt` can't be read or written.
pub fn leave_undecided(firmware: &Path, booted: &str) -> Result<bool> {
    let Some(mut switch) = Switch::read(firmware)? else { return Ok(false) };
    let Some(trial) = switch.trial.as_mut().filter(|trial| trial.new == booted && trial.old == switch.boots) else {
        return Ok(false);
    };
    trial.keyless += 1;
    trial.undecided = trial.keyless < MAX_KEYLESS;
    let again = trial.undecided;
    switch.write(firmware)?;
    Ok(again)
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
    /// No key came while this pair was tried; it is tried again at the next start.
    Again(String),
}

/// On the running system, which was started with `booted`: how the trial went.
///
/// # Errors
/// `config.txt` can't be read.
pub fn outcome(firmware: &Path, booted: &str) -> Result<Settled> {
    let Some(Switch { boots, trial: Some(trial) }) = Switch::read(firmware)? else { return Ok(Settled::Nothing) };
    Ok(if trial.new == booted {
        Settled::Proven(trial.new)
    } else if trial.old == booted && boots == trial.old && trial.undecided {
        Settled::Again(trial.new)
    } else if trial.old == booted && boots == trial.old {
        Settled::Failed(trial.new, trial.old)
    } else {
        Settled::Nothing
    })
}

/// Ends the trial, when the pair that runs tells how it went: that pair boots from now on. One that was left undecided begins
/// anew.
///
/// # Errors
/// `config.txt` can't be read or written.
pub fn settle(firmware: &Path, booted: &str) -> Result<Settled> {
    let settled = outcome(firmware, booted)?;
    let Some(mut switch) = Switch::read(firmware)?.filter(|_| settled != Settled::Nothing) else { return Ok(settled) };
    if let Settled::Again(new) = &settled {
        switch.boots.clone_from(new);
        switch.trial.iter_mut().for_each(|trial| trial.undecided = false);
    } else {
        booted.clone_into(&mut switch.boots);
        switch.trial = None;
    }
    switch.write(firmware)?;
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::switch::{FALLBACK, Switch, Trial};
    use super::{MAX_KEYLESS, Settled, begin, leave_undecided, of, pair_of, settle};

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
        let on_trial = |pair: &str| of(firmware, pair).unwrap().is_some();
        fs::create_dir(firmware.join("new")).unwrap();
        let arm = || {
            Switch { boots: "new".to_owned(), trial: Some(Trial::of("new", "old")) }.write(firmware).unwrap();
        };
        begin(firmware, "new").unwrap();
        assert!(!on_trial("new") && !firmware.join("config.txt").exists());
        arm();
        // Before it is booted, nothing is decided.
        begin(firmware, "old").unwrap();
        assert_eq!(settle(firmware, "old").unwrap(), Settled::Nothing);
        assert!(boots() == "new" && on_trial("new") && !on_trial("old"));
        // It comes up.
        begin(firmware, "new").unwrap();
        assert!(boots() == "old" && on_trial("new"));
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

    #[test]
    fn what_the_boot_loader_gives_back_is_what_the_initramfs_would_and_goes_with_the_trial() {
        let folder = tempfile::tempdir().unwrap();
        let firmware = folder.path();
        fs::create_dir(firmware.join("new")).unwrap();
        let armed =
            Switch { boots: "new".to_owned(), trial: Some(Trial { keyless: 1, undecided: true, ..Trial::of("new", "old") }) };
        let (config, fallback) = (firmware.join("config.txt"), firmware.join("new").join(FALLBACK));
        armed.write(firmware).unwrap();
        let by_boot_loader = fs::read_to_string(&fallback).unwrap();
        begin(firmware, "new").unwrap();
        assert_eq!(fs::read_to_string(&config).unwrap(), by_boot_loader);
        begin(firmware, "new").unwrap();
        assert_eq!(fs::read_to_string(&config).unwrap(), by_boot_loader, "it was given back already");
        // The boot loader had no way to remove it.
        assert!(fallback.exists());
        assert_eq!(settle(firmware, "new").unwrap(), Settled::Proven("new".to_owned()));
        assert!(!fallback.exists(), "what stays has no way back");
    }

    #[test]
    fn a_pair_that_got_no_key_is_tried_again_a_few_times() {
        let folder = tempfile::tempdir().unwrap();
        let firmware = folder.path();
        let boots = || Switch::read(firmware).unwrap().unwrap().boots;
        fs::create_dir(firmware.join("new")).unwrap();
        Switch { boots: "new".to_owned(), trial: Some(Trial::of("new", "old")) }.write(firmware).unwrap();
        assert!(!leave_undecided(firmware, "new").unwrap(), "it hasn't begun");
        for _ in 1..MAX_KEYLESS {
            begin(firmware, "new").unwrap();
            assert!(leave_undecided(firmware, "new").unwrap());
            assert_eq!(boots(), "old");
            // The old one gets no key either: nothing changes.
            assert!(!leave_undecided(firmware, "old").unwrap());
            assert_eq!(settle(firmware, "old").unwrap(), Settled::Again("new".to_owned()));
            assert_eq!((boots().as_str(), settle(firmware, "old").unwrap()), ("new", Settled::Nothing));
        }
        // The next time it gets its key, and fails.
        let armed = Switch::read(firmware).unwrap().unwrap();
        begin(firmware, "new").unwrap();
        assert_eq!(settle(firmware, "old").unwrap(), Settled::Failed("new".to_owned(), "old".to_owned()));
        // Or it gets none again, and that is once too often.
        armed.write(firmware).unwrap();
        begin(firmware, "new").unwrap();
        assert!(!leave_undecided(firmware, "new").unwrap());
        assert_eq!(settle(firmware, "old").unwrap(), Settled::Failed("new".to_owned(), "old".to_owned()));
        assert_eq!(boots(), "old");
    }
}
