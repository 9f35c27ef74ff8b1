//! The volume whose keys are changed: root's device on the appliance, or the root in an image on the builder's machine.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};
use nix::sys::memfd::{MFdFlags, memfd_create};
use uuid::Uuid;

use crate::image::disk::ROOT_START;
use crate::luks;
use crate::secret::Secret;

/// Characters of the name of a file in memory, by which messages name the image; each may have four of the 249 bytes that
/// Linux takes.
const LONGEST_NAME: usize = 60;

/// A LUKS volume.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    /// The LUKS UUID, by which its keys are named.
    pub uuid: Uuid,
    /// The image that the header at `path` is a copy from, and that copy, which lies in memory.
    image: Option<(PathBuf, File)>,
    /// Held while its keys are changed.
    _lock: Option<Lock>,
}

/// The lock on a volume's keys. It is given back in so many words: a child that was just forked and isn't its own program yet
/// still has the file, and a file that is only closed here would stay locked by it.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // There is nothing to do about an error; the end of the program frees it, too.
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole(F_UNLCK)));
    }
}

/// A lock of this kind on all of a file.
fn whole(kind: i32) -> flock {
    let small = |number| i16::try_from(number).expect("it is a small number");
    flock { l_type: small(kind), l_whence: small(SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
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
        let is_device = is_device(&path)?;
        if let Some(uuid) = luks::uuid(&path) {
            return Ok(Self { path, uuid, image: None, _lock: None });
        }
        let looking = || format!("looking for an encrypted root in {}", path.display());
        ensure!(!is_device, "{}: it is no LUKS volume\nhint: name the partition", looking());
        let (copy, memory) = copy_header(&path)?;
        let uuid = luks::uuid(&copy).with_context(|| format!("{}: there is none", looking()))?;
        Ok(Self { path: copy, uuid, image: Some((path, memory)), _lock: None })
    }

    /// Puts the header that [`luks::read_header`] gave back to the root at `path`: a device, or an image.
    ///
    /// # Errors
    /// It is no header, or that of another volume, or something else than a volume is there, or it can't be written.
    pub fn restore(path: &Path, header: &Path) -> Result<()> {
        if is_device(path)? || luks::uuid(path).is_some() {
            return luks::restore_header(path, header);
        }
        let (copy, memory) = copy_header(path)?;
        let mut start = [0; 512];
        let table =
            File::open(path).is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok()) && start.ends_with(&[0x55, 0xaa]);
        ensure!(
            table || luks::uuid(&copy).is_some(),
            "restoring the LUKS header of {}: it has neither a volume nor the partitions of an image\n\
             hint: where a volume in a file has lost its header, `cryptsetup luksHeaderRestore` puts it there",
            path.display()
        );
        luks::restore_header(&copy, header)?;
        let uuid = luks::uuid(&copy).context("reading the header that was restored")?;
        Self { path: copy, uuid, image: Some((path.to_owned(), memory)), _lock: None }.save()
    }

    /// The same, for changing its keys: nobody else does meanwhile.
    ///
    /// # Errors
    /// There is none, or somebody else is at it, or it can't be written.
    pub fn to_change(path: Option<&Path>) -> Result<Self> {
        let before = Self::at(path)?;
        let place = before.place();
        let opening = || format!("opening {} to change its keys", place.display());
        let file = File::options().read(true).write(true).open(place).with_context(opening)?;
        // Not by flock(2), which libcryptsetup takes on a volume in a file.
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(F_WRLCK))) {
            Err(Errno::EAGAIN | Errno::EACCES) => {
                bail!("another program is changing the keys of {}\nhint: wait until it has ended", place.display())
            }
            locked => locked.with_context(opening)?,
        };
        // As the one before has left it.
        let now = Self::at(path)?;
        Ok(Self { _lock: Some(Lock(file)), ..now })
    }

    /// Where it is: the device, or the image.
    pub fn place(&self) -> &Path {
        self.image.as_ref().map_or(&self.path, |(image, _)| image)
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

fn is_device(path: &Path) -> Result<bool> {
    let kind = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.file_type();
    ensure!(kind.is_file() || kind.is_block_device(), "{} is neither a device nor an image", path.display());
    Ok(kind.is_block_device())
}

/// Copies the place of root's header in an image into memory, as it would be on a device: libcryptsetup takes no offset into
/// a file. Nothing is left of it when this program ends, however that comes.
fn copy_header(image: &Path) -> Result<(PathBuf, File)> {
    let copying = || format!("reading the header of root in {}", image.display());
    let mut header = Secret::new(vec![0; usize::try_from(luks::HEADER_SIZE).expect("a header is small")]);
    let file = File::open(image).with_context(copying)?;
    let read = file.read_exact_at(header.expose_mut(), ROOT_START);
    read.with_context(|| format!("{}: it is no image of an appliance, or not all of it", copying()))?;
    let name = image.display().to_string();
    let name: String = name.chars().rev().take(LONGEST_NAME).collect::<Vec<_>>().into_iter().rev().collect();
    let memory = File::from(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC).with_context(copying)?);
    memory.write_all_at(header.expose(), 0).with_context(copying)?;
    // By the number of this process: `blkid` looks at it, too.
    Ok((PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd())), memory))
}
