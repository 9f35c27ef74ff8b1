//! A source's user.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use super::start;

/// Numbers that neither Debian nor systemd gives to anyone (Debian policy 9.2.2, systemd's "Users, Groups, UIDs and GIDs"). An
/// appliance has a user for each, `vaultberry-NUMBER`.
pub const NUMBERS: std::ops::RangeInclusive<u32> = 60_706..=60_769;

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
    /// The one that owns the folder `mirror`, or, where none does yet, one that owns no other source's; none when this isn't root,
    /// and everything belongs to whoever runs. `mirror` belongs to it then; or, where that is for systemd to do, will when
    /// the helper starts.
    ///
    /// # Errors
    /// The folder can't be given away.
    pub fn of(mirror: &Path) -> Result<Option<Self>> {
        /// Those of this process, by mirror: systemd gives mirrors away later.
        static TAKEN: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());
        let mut promised = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let ours = start::can_become_others();
        if let Some(number) = owner(mirror) {
            return Ok(Some(Self { number, ours, owns: true }));
        }
        let mut taken = taken(mirror).with_context(|| format!("looking for a free user for {}", mirror.display()))?;
        taken.extend(promised.iter().filter(|(other, _)| *other != mirror).map(|(_, number)| number));
        let Some(number) = NUMBERS.into_iter().find(|number| !taken.contains(number)) else {
            bail!("finding a user for {}: all of {} to {} are taken", mirror.display(), NUMBERS.start(), NUMBERS.end());
        };
        promised.insert(mirror.to_owned(), number);
        if ours {
            // Files of an earlier owner, as of a disk that was filled by another machine's user.
            give_all(mirror, number).with_context(|| format!("giving {} to the user {number}", mirror.display()))?;
        }
        Ok(Some(Self { number, ours, owns: ours }))
    }

    /// The one that owns `mirror`; without one, any; none when this isn't root. Nothing is written.
    pub fn find(mirror: &Path) -> Option<Self> {
        Some(Self { number: owner(mirror).unwrap_or(*NUMBERS.start()), ..Self::any()? })
    }

    /// Any, for what has no mirror; none when this isn't root.
    pub fn any() -> Option<Self> {
        let any = Self { number: *NUMBERS.start(), ours: true, owns: true };
        Uid::effective().is_root().then_some(any)
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

fn owner(mirror: &Path) -> Option<u32> {
    let found = fs::symlink_metadata(mirror).ok()?;
    (found.is_dir() && NUMBERS.contains(&found.uid())).then_some(found.uid())
}

/// The numbers that own the mirrors beside `mirror`.
fn taken(mirror: &Path) -> Result<BTreeSet<u32>> {
    let beside = fs::read_dir(mirror.parent().context("it stands in no folder")?)?;
    beside.map(|entry| Ok(entry?.metadata()?.uid())).collect()
}

/// The folder last: until then it isn't known as given.
fn give_all(folder: &Path, number: u32) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_all(&entry.path(), number)?;
        } else {
            lchown(entry.path(), Some(number), Some(number))?;
        }
    }
    Ok(lchown(folder, Some(number), Some(number))?)
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
