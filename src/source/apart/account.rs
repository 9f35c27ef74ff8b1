//! A source's user.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use super::start;
use crate::process;

/// Numbers that neither Debian nor systemd gives to anyone (Debian policy 9.2.2, systemd's "Users, Groups, UIDs and GIDs"). An
/// appliance has a user for each, `vaultberry-NUMBER`.
pub const NUMBERS: std::ops::RangeInclusive<u32> = 60_706..=60_769;

/// Those that can own a mirror. The last one never does, and is for what needs none.
const FOR_MIRRORS: std::ops::RangeInclusive<u32> = *NUMBERS.start()..=*NUMBERS.end() - 1;

/// The number of a user, and of a group that only it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    number: u32,
    /// Whether a process of ours can become it by itself; otherwise systemd makes one that is.
    ours: bool,
    /// Whether the mirror belongs to it already.
    owns: bool,
}

impl Account {
    /// The one that owns the folder `mirror` and no other one, or, where none does, one that owns none; none when this isn't root, and
    /// everything belongs to whoever runs. `mirror` belongs to it then; or, where that is for systemd to do, will when the
    /// helper starts.
    ///
    /// # Errors
    /// The folder can't be given away.
    pub fn of(mirror: &Path) -> Result<Option<Self>> {
        /// Those of this process, by mirror: systemd gives mirrors away later.
        static PROMISED: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let ours = start::can_become_others();
        let mut promised = PROMISED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = taken(mirror).with_context(|| format!("looking for a free user for {}", mirror.display()))?;
        taken.extend(promised.iter().filter(|(other, _)| *other != mirror).map(|(_, number)| number));
        let owner = owner(mirror).filter(|owner| !taken.contains(owner));
        let Some(number) = owner.or_else(|| FOR_MIRRORS.into_iter().find(|number| !taken.contains(number))) else {
            bail!(
                "finding a user for {}: all of {} to {} own mirrors beside it\nhint: remove those of sources that are no more",
                mirror.display(),
                FOR_MIRRORS.start(),
                FOR_MIRRORS.end()
            );
        };
        promised.insert(mirror.to_owned(), number);
        drop(promised);
        if owner.is_none() && ours {
            // Files of an earlier owner, as of a disk that was filled by another machine's user.
            process::run(Command::new("chown").args(give(number)).arg(mirror), &format!("giving {} away", mirror.display()))?;
        }
        Ok(Some(Self { number, ours, owns: owner.is_some() || ours }))
    }

    /// The one that owns `mirror`; without one, that which owns none; none when this isn't root. Nothing is written.
    pub fn find(mirror: &Path) -> Option<Self> {
        let nobody = Self::nobody()?;
        Some(Self { number: owner(mirror).unwrap_or(nobody.number), ..nobody })
    }

    /// One that owns no mirror; none when this isn't root.
    pub fn nobody() -> Option<Self> {
        Uid::effective().is_root().then_some(Self { number: *NUMBERS.end(), ours: true, owns: true })
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Whether a process of ours can become it by itself.
    pub fn is_ours(self) -> bool {
        self.ours
    }

    /// Whether its mirror belongs to it already.
    pub fn owns(self) -> bool {
        self.owns
    }
}

/// What chown(1) takes for all of a mirror, before its name. It follows no links.
pub(super) fn give(number: u32) -> [String; 4] {
    ["--recursive", "--no-dereference", &format!("{number}:{number}"), "--"].map(str::to_owned)
}

fn owner(mirror: &Path) -> Option<u32> {
    let found = fs::symlink_metadata(mirror).ok()?;
    (found.is_dir() && FOR_MIRRORS.contains(&found.uid())).then_some(found.uid())
}

/// The numbers that own the mirrors beside `mirror`.
fn taken(mirror: &Path) -> Result<BTreeSet<u32>> {
    let mut taken = BTreeSet::new();
    for beside in fs::read_dir(mirror.parent().context("it stands in no folder")?)? {
        let beside = beside?;
        if beside.path() != mirror {
            taken.insert(beside.metadata()?.uid());
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::NUMBERS;

    #[test]
    fn an_appliance_has_a_user_for_each_number() {
        let users = include_str!("../../../image/root/usr/lib/sysusers.d/vaultberry.conf");
        let users: Vec<&str> = users.lines().filter(|line| !line.starts_with('#')).collect();
        let wanted: Vec<String> =
            NUMBERS.map(|number| format!("u vaultberry-{number} {number} \"A source of the backup\"")).collect();
        assert_eq!(users, wanted);
    }
}
