//! The volume whose keys are changed: root's device on the appliance, or the root in an image on the builder's machine.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use uuid::Uuid;

use crate::image::disk::ROOT_START;
use crate::luks;
use crate::secret::Secret;

/// A LUKS volume.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    /// The LUKS UUID, by which its keys are named.
    pub uuid: Uuid,
    /// The image that the header at `path` is a copy from.
    image: Option<(PathBuf, TempDir)>,
}

impl Volume {
    /// The volume at `path`, which is a LUKS volume or an image with one as root; without a path, this appliance's root.
    ///
    /// # Errors
    /// There is none.
    pub fn at(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => luks::device_below(&luks::mapped(crate::unlock::ROOT_NAME))
                .context("this machine's root is no encrypted volume\nhint: name an image or a device with --root")?,
        };
        if let Some(uuid) = luks::uuid(&path) {
            return Ok(Self { path, uuid, image: None });
        }
        let looking = || format!("looking for an encrypted root in {}", path.display());
        let kind = fs::metadata(&path).with_context(looking)?.file_type();
        ensure!(!kind.is_block_device(), "{}: it is no LUKS volume\nhint: name the partition", looking());
        // libcryptsetup takes no offset into a file.
        let file = File::open(&path).with_context(looking)?;
        let mut header = Secret::new(vec![0; usize::try_from(luks::HEADER_SIZE).expect("a header is small")]);
        let found = file.read_exact_at(header.expose_mut(), ROOT_START).ok().and_then(|()| luks::uuid_of_header(header.expose()));
        let uuid = found.with_context(|| format!("{}: there is none", looking()))?;
        let folder = tempfile::tempdir().context("making a folder for the header")?;
        let copy = folder.path().join("header");
        fs::write(&copy, header.expose()).with_context(|| format!("writing {}", copy.display()))?;
        Ok(Self { path: copy, uuid, image: Some((path, folder)) })
    }

    /// What libcryptsetup works on.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what was changed back to the image that it came from. Nothing is to do for a device.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self) -> Result<()> {
        let Some((image, _)) = &self.image else { return Ok(()) };
        let saving = || format!("writing the LUKS header of {}", image.display());
        let header = Secret::new(luks::read_header(&self.path)?);
        let file = File::options().write(true).open(image).with_context(saving)?;
        file.write_all_at(header.expose(), ROOT_START).and_then(|()| file.sync_all()).with_context(saving)
    }
}
