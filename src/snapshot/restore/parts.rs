//! Where in an archive the things stand that a restore is asked for, as the index tells.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::log::printable;
use crate::snapshot::entry::Kind;
use crate::snapshot::gzip::Place;
use crate::snapshot::index::read::{Lines, Reader};
use crate::snapshot::restore::proof::Proof;
use crate::snapshot::restore::wanted::Wanted;

/// How many of the roots are shown to whoever asks for something else.
const SHOWN: usize = 5;

/// What is wanted of an archive. A path's entries stand together, so there are no more rows than paths.
#[derive(Debug)]
pub(super) struct Parts {
    /// Rows of entries, in order.
    pub(super) runs: Vec<Run>,
    /// Files that aren't wanted themselves, but other names of them are.
    pub(super) firsts: HashMap<PathBuf, First>,
}

/// A row of entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of the first of them, from 0.
    pub(super) number: u64,
    /// Where it begins.
    pub(super) place: Place,
    /// How many they are.
    pub(super) count: u64,
}

/// The first name of a file.
#[derive(Debug)]
pub(super) struct First {
    /// Where it begins.
    pub(super) place: Place,
    /// What its content must be.
    pub(super) sha256: [u8; 32],
    /// The first of its other names that is wanted.
    pub(super) wanted_as: PathBuf,
    /// The name under which its content was restored.
    pub(super) restored: Option<PathBuf>,
}

impl Parts {
    /// Finds all that is wanted before anything is restored. None when everything is, or without a good index.
    ///
    /// # Errors
    /// Something isn't in the snapshot: all of that is named.
    pub(super) fn find(proof: &Proof, wanted: &Wanted) -> Result<Option<Self>> {
        if wanted.is_all() {
            return Ok(None);
        }
        // Should the index be damaged, following it beside the archive will find that too, and say it.
        let Some(mut reader) = proof.reopen() else { return Ok(None) };
        let mut wanted = wanted.clone();
        let Ok(mut parts) = Self::read(&mut reader, &mut wanted) else { return Ok(None) };
        let unmet = wanted.unmet();
        if !unmet.is_empty() {
            let roots: Vec<String> = reader.header().roots.iter().take(SHOWN).map(|root| printable(root.as_bytes())).collect();
            let more = if reader.header().roots.len() > SHOWN { " and more" } else { "" };
            bail!("not in the snapshot: {}\nhint: it holds {}{more}", unmet.join(", "), roots.join(", "));
        }
        if !parts.firsts.is_empty() {
            let Some(mut reader) = proof.reopen() else { return Ok(None) };
            if parts.find_firsts(&mut reader).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(parts))
    }

    fn read(reader: &mut Reader<Lines>, wanted: &mut Wanted) -> Result<Self> {
        let mut parts = Self { runs: Vec::new(), firsts: HashMap::new() };
        let mut number = 0;
        while let Some(indexed) = reader.entry()? {
            if wanted.takes(&indexed.entry.path) {
                match parts.runs.last_mut().filter(|run| run.number + run.count == number) {
                    Some(run) => run.count += 1,
                    None => parts.runs.push(Run { number, place: indexed.place, count: 1 }),
                }
                if let Kind::Hardlink(first) = indexed.entry.kind
                    && !wanted.takes(&first)
                {
                    let wanted_as = indexed.entry.path.clone();
                    let found = First { place: Place::default(), sha256: [0; 32], wanted_as, restored: None };
                    parts.firsts.entry(first).or_insert(found);
                }
            }
            number += 1;
        }
        Ok(parts)
    }

    fn find_firsts(&mut self, reader: &mut Reader<Lines>) -> Result<()> {
        while let Some(indexed) = reader.entry()? {
            if let Some(first) = self.firsts.get_mut(&indexed.entry.path)
                && let Some(sha256) = indexed.sha256
            {
                (first.place, first.sha256) = (indexed.place, sha256);
            }
        }
        // A link to what isn't there is told when it is come to.
        self.firsts.retain(|_, first| first.sha256 != [0; 32]);
        Ok(())
    }
}
