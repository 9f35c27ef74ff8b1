//! What a push has begun: `push.json` beside the sealed files, so that after a kill or a power cut the next run goes on.
//!
//! It is written when both files are sealed, and again whenever an upload in parts is begun; which parts have arrived the
//! store is asked. It goes when the copy is proven.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::commit::{Commit, Object};
use super::seal::Sealed;
use crate::digest::{Sum, unhex};

/// The version of the format.
const VERSION: u32 = 1;

/// The content of `push.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    version: u32,
    /// Where it goes: endpoint, bucket and prefix.
    pub target: String,
    /// What the commit object will say.
    pub commit: Commit,
    /// The sealed archive's upload.
    pub archive: Upload,
    /// The sealed index's.
    pub index: Upload,
    /// Whether it won't be gone on with: then only what is begun in the store is still to be thrown away.
    pub abandoned: bool,
}

/// How far the upload of a sealed file has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Bytes of each piece but the last.
    piece: u64,
    /// The upload in parts, where one was begun.
    pub parts: Option<Parts>,
}

/// An upload in parts (multipart upload).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Uploads to the same key that were there before, and aren't ours.
    pub foreign: Vec<String>,
    /// The store's name for ours; none while it hasn't answered yet.
    pub id: Option<String>,
}

/// One of the two sealed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The archive.
    Archive,
    /// The index.
    Index,
}

impl Pending {
    /// A push to `target` of which nothing is sent yet.
    pub fn new(target: String, commit: Commit, archive: &Sealed, index: &Sealed) -> Self {
        let upload = |sealed: &Sealed| Upload { piece: sealed.piece, parts: None };
        Self { version: VERSION, target, commit, archive: upload(archive), index: upload(index), abandoned: false }
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let pending: Self = serde_json::from_slice(json)?;
        ensure!(pending.version == VERSION, "its version is {} and not {VERSION}", pending.version);
        Ok(pending)
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("putting the push into JSON")
    }

    /// The object that `part` becomes.
    pub fn object(&self, part: Part) -> &Object {
        match part {
            Part::Archive => &self.commit.archive,
            Part::Index => &self.commit.index,
        }
    }

    /// How far `part` has come.
    pub fn upload(&self, part: Part) -> &Upload {
        match part {
            Part::Archive => &self.archive,
            Part::Index => &self.index,
        }
    }

    /// The same, to be changed.
    pub fn upload_mut(&mut self, part: Part) -> &mut Upload {
        match part {
            Part::Archive => &mut self.archive,
            Part::Index => &mut self.index,
        }
    }

    /// The sealed file of `part`, which lies in `folder`.
    ///
    /// # Errors
    /// The record was changed.
    pub fn sealed(&self, part: Part, folder: &Path) -> Result<Sealed> {
        let (object, upload) = (self.object(part), self.upload(part));
        ensure!(upload.piece > 0, "the pieces of a push have no length");
        let sha256 = unhex(&object.sha256).and_then(|sum| sum.try_into().ok()).context("the sum of a push isn't one")?;
        let sum = Sum { size: object.size, sha256 };
        Ok(Sealed { path: folder.join(object.name()), sum, piece: upload.piece })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Part, Parts, Pending};
    use crate::digest::Sum;
    use crate::offsite::commit::{Commit, Keys, Object};
    use crate::offsite::seal::Sealed;
    use crate::outcome::Outcome;

    fn sealed(size: u64, piece: u64) -> Sealed {
        Sealed { path: PathBuf::from("/x"), sum: Sum { size, sha256: [7; 32] }, piece }
    }

    fn pending(archive: &Sealed) -> Pending {
        let keys = Keys::of("p", "web", "20261123T023000Z");
        let objects = (Object::new(&keys.archive, &archive.sum), Object::new(&keys.index, &sealed(5, 10).sum));
        let commit =
            Commit::new("web", "20261123T023000Z", Outcome::Complete, objects.0, objects.1, vec!["B".into(), "A".into()]);
        Pending::new("here".into(), commit, archive, &sealed(5, 10))
    }

    #[test]
    fn what_is_written_reads_back_with_its_sums() {
        let mut pending = pending(&sealed(25, 10));
        pending.upload_mut(Part::Archive).parts = Some(Parts { foreign: vec!["1".into()], id: Some("2".into()) });
        let back = Pending::parse(&pending.to_json().unwrap()).unwrap();
        assert_eq!(back, pending);
        let expected = Sealed { path: PathBuf::from("/o/20261123T023000Z.tar.gz.pgp"), ..sealed(25, 10) };
        assert_eq!(back.sealed(Part::Archive, Path::new("/o")).unwrap(), expected);
        assert!(back.sealed(Part::Index, Path::new("/o")).is_ok());
        assert!(Pending::parse(b"{}").is_err() && Pending::parse(b"").is_err());
        let newer = String::from_utf8(pending.to_json().unwrap()).unwrap().replacen("\"version\":1", "\"version\":2", 1);
        assert_eq!(Pending::parse(newer.as_bytes()).unwrap_err().to_string(), "its version is 2 and not 1");
    }

    #[test]
    fn a_changed_record_is_refused() {
        assert!(pending(&sealed(25, 0)).sealed(Part::Archive, Path::new("/o")).is_err());
        let mut changed = pending(&sealed(25, 10));
        changed.commit.archive.sha256 = "07".into();
        assert!(changed.sealed(Part::Archive, Path::new("/o")).is_err());
    }
}
