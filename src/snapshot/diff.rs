//! What changed from one snapshot to another, by their indexes alone.
//!
//! Both indexes are read side by side, one root after the other: below a root the entries of each stand in the order in which
//! Rust compares paths, component by component, so no index has to be kept in memory.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::log::printable;
use crate::snapshot::index::read::{Indexed, Lines, Reader};
use crate::snapshot::index_of;
use crate::snapshot::json::{self, Name};
use crate::stop::Stop;

/// A difference.
#[derive(Debug, Serialize)]
pub struct Difference {
    change: &'static str,
    what: Vec<&'static str>,
    #[serde(flatten)]
    name: Name,
    #[serde(skip)]
    shown: String,
}

impl Difference {
    fn new(change: &'static str, what: Vec<&'static str>, path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        Self { change, what, name: Name::new(bytes), shown: printable(bytes) }
    }

    /// One line for a person: `+` new, `-` gone, `~` changed, and in what.
    pub fn text(&self) -> String {
        match self.change {
            "added" => format!("+ /{}\n", self.shown),
            "removed" => format!("- /{}\n", self.shown),
            _ => format!("~ /{}  ({})\n", self.shown, self.what.join(", ")),
        }
    }

    /// One line for a program.
    pub fn json(&self) -> Result<String> {
        json::line(self)
    }
}

/// Tells `each` what is different in the snapshot `new` from what it was in `old`, both by their archives' paths.
pub fn diff(old: &Path, new: &Path, stop: &Stop, each: &mut dyn FnMut(&Difference) -> Result<()>) -> Result<()> {
    let roots = |archive: &Path| Ok::<_, anyhow::Error>(Reader::open(&index_of(archive))?.header().roots.clone());
    let mut all = roots(old)?;
    all.extend(roots(new)?);
    let mut seen: Vec<&String> = Vec::new();
    for root in &all {
        if !seen.contains(&root) {
            seen.push(root);
            compare(&mut Below::new(old, root)?, &mut Below::new(new, root)?, stop, each)?;
        }
    }
    Ok(())
}

fn compare(old: &mut Below, new: &mut Below, stop: &Stop, each: &mut dyn FnMut(&Difference) -> Result<()>) -> Result<()> {
    let (mut left, mut right) = (old.next()?, new.next()?);
    loop {
        stop.check()?;
        let order = match (&left, &right) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.entry.path.cmp(&right.entry.path),
        };
        let difference = match (&left, &right) {
            (Some(left), _) if order == Ordering::Less => Some(Difference::new("removed", Vec::new(), &left.entry.path)),
            (_, Some(right)) if order == Ordering::Greater => Some(Difference::new("added", Vec::new(), &right.entry.path)),
            (Some(left), Some(right)) => {
                let what = changed(left, right);
                (!what.is_empty()).then(|| Difference::new("changed", what, &right.entry.path))
            }
            _ => None,
        };
        if let Some(difference) = difference {
            each(&difference)?;
        }
        if order != Ordering::Greater {
            left = old.next()?;
        }
        if order != Ordering::Less {
            right = new.next()?;
        }
    }
}

/// In what two entries of one name differ.
fn changed(old: &Indexed, new: &Indexed) -> Vec<&'static str> {
    let (a, b) = (&old.entry, &new.entry);
    let kind = std::mem::discriminant(&a.kind) != std::mem::discriminant(&b.kind);
    let facts = [
        ("type", kind),
        ("content", !kind && (a.kind != b.kind || a.size != b.size || old.sha256 != new.sha256)),
        ("mode", a.mode != b.mode),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("time", a.mtime != b.mtime),
        ("attributes", old.extras != new.extras),
    ];
    facts.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

/// The entries of an index below one root.
struct Below {
    reader: Reader<Lines>,
    root: PathBuf,
}

impl Below {
    fn new(archive: &Path, root: &str) -> Result<Self> {
        Ok(Self { reader: Reader::open(&index_of(archive))?, root: PathBuf::from(root) })
    }

    fn next(&mut self) -> Result<Option<Indexed>> {
        while let Some(indexed) = self.reader.entry()? {
            if indexed.entry.path.starts_with(&self.root) {
                return Ok(Some(indexed));
            }
        }
        Ok(None)
    }
}
