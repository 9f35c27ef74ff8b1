//! What no mail has told yet of mails that didn't arrive: those that were dropped, and recipients that are refused for good.
//!
//! Each stands in a file of its own, `NAME.lost`, so that who makes a mail and who sends one needn't wait for one another. A
//! mail that tells of some has their names beside it, in `NAME.tells`, and they go when a server has taken that mail.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::{Queue, TELLS, files, remove};
use crate::durable;
use crate::report::name;

/// The end of a loss's file.
const LOST: &str = ".lost";

/// How many are kept, the newest: more say nothing more.
const MOST: usize = 20;

/// Something that the owner should hear of by the next mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Its file's name; sorted names go from old to new.
    pub name: String,
    /// What happened, told for a person, with its `hint: ` lines.
    pub told: String,
}

impl Queue {
    /// What no mail has told yet, from old to new.
    pub fn lost(&self) -> Result<Vec<Loss>> {
        let mut lost = Vec::new();
        for name in self.names(LOST)? {
            let path = self.folder.join(&name);
            // None: told meanwhile.
            lost.extend(files::text(&path)?.map(|told| Loss { name, told }));
        }
        Ok(lost)
    }

    /// Writes down, before the mail `name` is queued, which losses it tells of.
    pub fn tells(&self, name: &str, losses: &[String]) -> Result<()> {
        if losses.is_empty() { Ok(()) } else { self.write_lines(name, TELLS, losses) }
    }

    /// Keeps something for the next mail to tell, once; `told` by name are those that a mail has just told.
    pub(super) fn lose(&self, what: &str, told: &[String]) -> Result<()> {
        let lost = self.lost()?;
        if lost.iter().any(|loss| loss.told == what && !told.contains(&loss.name)) {
            return Ok(());
        }
        durable::write(&self.folder.join(format!("{}{LOST}", name(Timestamp::now()))), what.as_bytes(), 0o600)?;
        let surplus = (lost.len() + 1).saturating_sub(MOST);
        lost.iter().take(surplus).try_for_each(|loss| remove(&self.folder.join(&loss.name)))
    }

    /// Removes what was told.
    pub(super) fn forget(&self, told: &[String]) -> Result<()> {
        let paths = told.iter().map(|name| self.folder.join(name));
        paths.filter(|path| path.exists()).try_for_each(|path| remove(&path))
    }
}
