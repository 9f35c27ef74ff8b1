//! Becoming a source's user, who sees of the backup its own mirror, and nothing else.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use tempfile::NamedTempFile;

/// How many processes the user may have; a pull has some eight.
const MOST_PROCESSES: u64 = 64;

/// What a helper sees.
#[derive(Clone, Debug)]
pub struct View {
    /// The number of the user and of the group to become.
    pub account: u32,
    /// The mirror, which belongs to it.
    pub mirror: Option<PathBuf>,
}

/// The folder that has to be covered so that a user can reach `mirror`, `BACKUP/current/SOURCE`, and nothing beside it: the first
/// above it that is closed to others, or BACKUP.
///
/// # Errors
/// That would be all there is.
pub(super) fn cover(mirror: &Path) -> Result<&Path> {
    let Some(backup) = mirror.ancestors().nth(2).filter(|folder| folder.parent().is_some()) else {
        bail!(
            "showing {} alone: it stands right below /\nhint: have `current` be a folder of the backup folder's",
            mirror.display()
        );
    };
    let is_closed = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 == 0);
    let mut above: Vec<&Path> = backup.ancestors().skip(1).collect();
    above.reverse();
    Ok(above.into_iter().filter(|folder| folder.parent().is_some()).find(is_closed).unwrap_or(backup))
}

/// Becomes the user, for good.
///
/// # Errors
/// What couldn't be done.
pub(super) fn enter(view: &View) -> Result<()> {
    const HINT: &str = "root needs CAP_SYS_ADMIN for it, which some containers lack; an ordinary user does without";
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| anyhow!("making a mount namespace: {error}\nhint: {HINT}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| anyhow!("making mounts private: {error}\nhint: {HINT}"))?;
    let number = view.account;
    show_user(number).context("showing it in /etc/passwd")?;
    if let Some(mirror) = &view.mirror {
        show(mirror)?;
    }
    setrlimit(Resource::RLIMIT_NPROC, MOST_PROCESSES, MOST_PROCESSES).context("bounding the number of processes")?;
    become_user(number)
}

/// Has it stand in /etc/passwd (passwd(5)): ssh ends when its user isn't there.
fn show_user(number: u32) -> Result<()> {
    let mut file = NamedTempFile::with_prefix("vaultberry-passwd-")?;
    write!(file, "root:x:0:0::/:/bin/sh\nvaultberry-{number}:x:{number}:{number}::/nonexistent:/bin/sh\n")?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    // What was bound stays when its first name goes.
    bind(file.path(), Path::new("/etc/passwd"))
}

/// Has `mirror` stand alone in what covers it.
fn show(mirror: &Path) -> Result<()> {
    let showing = || format!("showing {}", mirror.display());
    let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let real = OpenOptions::new().read(true).custom_flags(flags).open(mirror).with_context(showing)?;
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), cover(mirror)?, Some("tmpfs"), closed, Some("mode=755,size=64k")).with_context(showing)?;
    DirBuilder::new().recursive(true).mode(0o755).create(mirror).with_context(showing)?;
    bind(Path::new(&format!("/proc/self/fd/{}", real.as_raw_fd())), mirror)
}

fn bind(real: &Path, place: &Path) -> Result<()> {
    let what = || format!("showing {} at {}", real.display(), place.display());
    let none = None::<&str>;
    mount(Some(real), place, none, MsFlags::MS_BIND, none).with_context(what)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, place, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none).with_context(what)
}

/// Becomes the user, and the group, of this number, and loses all capabilities with it.
fn become_user(number: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
    setgroups(&[]).context("giving up groups")?;
    setresgid(gid, gid, gid).context("giving up the group")?;
    setresuid(uid, uid, uid).context("giving up the user")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::cover;

    #[test]
    fn what_is_closed_is_covered_or_all_of_the_backup() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = folder.path().join("backup/current/web");
        fs::create_dir_all(&mirror).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(cover(&mirror).unwrap(), folder.path());
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(cover(&mirror).unwrap(), folder.path().join("backup"));
        assert!(cover("/current/web".as_ref()).is_err());
    }
}
