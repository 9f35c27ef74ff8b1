//! The volume whose keys are changed: root's device on the appliance, or the root in an image on the builder's machine.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, flock};
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
    /// Held while its keys are changed.
    _lock: Option<File>,
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
            return Ok(Self { path, uuid, image: None, _lock: None });
        }
        let looking = || format!("looking for an encrypted root in {}", path.display());
        let kind = fs::metadata(&path).with_context(looking)?.file_type();
        ensure!(!kind.is_block_device(), "{}: it is no LUKS volume\nhint: name the partition", looking());
        let none = || format!("{}: there is none", looking());
        let (copy, folder) = copy_header(&path).with_context(none)?;
        let uuid = luks::uuid(&copy).with_context(none)?;
        Ok(Self { path: copy, uuid, image: Some((path, folder)), _lock: None })
    }

    /// Puts the header that [`luks::read_header`] gave back to the root at `path`: a device, or an image.
    ///
    /// # Errors
    /// It is no header, or that of another volume, or something else than a volume is there, or it can't be written.
    pub fn restore(path: &Path, header: &Path) -> Result<()> {
        let mut start = [0; 512];
        let kind = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.file_type();
        let image = kind.is_file() && File::open(path).is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok());
        if !image || luks::uuid(path).is_some() || !start.ends_with(&[0x55, 0xaa]) {
            return luks::restore_header(path, header);
        }
        let (copy, folder) = copy_header(path)?;
        luks::restore_header(&copy, header).with_context(|| format!("restoring the header in {}", path.display()))?;
        let uuid = luks::uuid(&copy).context("reading the header that was restored")?;
        Self { path: copy, uuid, image: Some((path.to_owned(), folder)), _lock: None }.save()
    }

    /// The same, for changing its keys: nobody else does meanwhile.
    ///
    /// # Errors
    /// There is none, or somebody else is at it, or it can't be written.
    pub fn to_change(path: Option<&Path>) -> Result<Self> {
        let before = Self::at(path)?;
        let place = before.image.as_ref().map_or(&before.path, |(image, _)| image);
        let opening = || format!("opening {} to change its keys", place.display());
        let file = File::options().read(true).write(true).open(place).with_context(opening)?;
        let small = |number| i16::try_from(number).expect("it is a small number");
        let whole = flock { l_type: small(F_WRLCK), l_whence: small(SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 };
        // Not by flock(2), which libcryptsetup takes on a volume in a file.
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Err(Errno::EAGAIN | Errno::EACCES) => {
                bail!("another program is changing the keys of {}\nhint: wait until it has ended", place.display())
            }
            locked => locked.with_context(opening)?,
        };
        // As the one before has left it.
        let now = Self::at(path)?;
        Ok(Self { _lock: Some(file), ..now })
    }

    /// The image; none when it is a device.
    pub fn image(&self) -> Option<&Path> {
        self.image.as_ref().map(|(image, _)| image.as_path())
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

/// Copies the place of root's header in an image to a file, and a little more, as it would be on a device: libcryptsetup takes
/// no offset into a file.
fn copy_header(image: &Path) -> Result<(PathBuf, TempDir)> {
    let mut header = Secret::new(vec![0; usize::try_from(luks::HEADER_SIZE).expect("a header is small")]);
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    file.read_exact_at(header.expose_mut(), ROOT_START)
        .with_context(|| format!("reading root's header in {}", image.display()))?;
    let folder = tempfile::tempdir().context("making a folder for the header")?;
    let path = folder.path().join("header");
    fs::write(&path, header.expose()).with_context(|| format!("writing {}", path.display()))?;
    Ok((path, folder))
}
