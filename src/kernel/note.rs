//! What is remembered of kernels between their installation, their trial and the next report.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::durable;

/// Where it is remembered.
pub const PATH: &str = "/var/lib/vaultberry/kernel.json";

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Why the newest kernel isn't the one that boots; none where it is.
    pub problem: Option<String>,
    /// Pairs that didn't come up.
    pub failed: Vec<String>,
}

impl Note {
    /// Reads it; an empty one where there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            bytes => {
                let reading = || format!("reading {}", path.display());
                serde_json::from_slice(&bytes.with_context(reading)?).with_context(reading)
            }
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        durable::write(path, &serde_json::to_vec(self).context("putting a note into JSON")?, 0o600)
    }

    /// Remembers that a pair didn't come up.
    pub fn failed(&mut self, pair: &str) {
        if !self.failed.iter().any(|known| known == pair) {
            self.failed.push(pair.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Note;

    #[test]
    fn a_note_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.json");
        let mut note = Note::read(&path).unwrap();
        note.problem = Some("it is full".to_owned());
        note.failed("one");
        note.failed("one");
        note.write(&path).unwrap();
        assert_eq!(Note::read(&path).unwrap(), Note { problem: Some("it is full".into()), failed: vec!["one".into()] });
        std::fs::write(&path, "{").unwrap();
        assert!(Note::read(&path).is_err());
    }
}
