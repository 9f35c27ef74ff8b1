//! Becoming a source's user, who sees of the backup its own mirror, and nothing else.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// How many processes the user may have; a pull has some eight.
const MOST_PROCESSES: u64 = 64;

/// What a helper sees.
#[derive(Clone, Debug)]
pub struct View {
    /// The number of the user and of the group to become.
    pub account: u32,
    /// A passwd(5) with that user in it.
    pub passwd: PathBuf,
    /// The mirror, which belongs to it.
    pub mirror: Option<PathBuf>,
}

/// The folder that has to be covered so that a user can reach `mirror`, `BACKUP/current/SOURCE`, and nothing beside it: the first
/// above it that is closed to others, or BACKUP.
pub(super) fn cover(mirror: &Path) -> &Path {
    let backup = mirror.ancestors().nth(2).unwrap_or(mirror);
    let is_closed = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 == 0);
    let mut above: Vec<&Path> = backup.ancestors().skip(1).collect();
    above.reverse();
    above.into_iter().find(is_closed).unwrap_or(backup)
}

/// Becomes the user, for good.
///
/// # Errors
/// What couldn't be done.
pub(super) fn enter(view: &View) -> Result<()> {
    const HINT: &str = "\nhint: root needs CAP_SYS_ADMIN for it, which some containers lack; an ordinary user does without";
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context(format!("making a mount namespace{HINT}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context(format!("making mounts private{HINT}"))?;
    if let Some(mirror) = &view.mirror {
        show(mirror)?;
    }
    bind(&view.passwd, Path::new("/etc/passwd"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    setrlimit(Resource::RLIMIT_NPROC, MOST_PROCESSES, MOST_PROCESSES).context("bounding the number of processes")?;
    become_user(view.account)?;
    set_no_new_privs().context("forbidding new privileges")
}

/// Has `mirror` stand alone in what covers it.
fn show(mirror: &Path) -> Result<()> {
    let showing = || format!("showing {}", mirror.display());
    let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let real = OpenOptions::new().read(true).custom_flags(flags).open(mirror).with_context(showing)?;
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), cover(mirror), Some("tmpfs"), closed, Some("mode=755,size=64k")).with_context(showing)?;
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
        assert_eq!(cover(&mirror), folder.path());
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(cover(&mirror), folder.path().join("backup"));
    }
}
