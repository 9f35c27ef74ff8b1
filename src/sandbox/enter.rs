//! The inside of `vaultberry sandbox`: gives up everything, then becomes the program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_name, set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::system;

/// How many processes the user may have.
const MOST_PROCESSES: u64 = 64;

/// Name servers answer here, over TCP when the answer is long.
const DNS: u16 = 53;

/// What is to become of this process.
#[derive(Clone, Debug)]
pub struct Order {
    /// The number of the user and of the group to become, and a passwd(5) with that user in it.
    pub account: Option<(u32, PathBuf)>,
    /// What is to be seen where: what really is there, and its place, in turn.
    pub bind: Vec<PathBuf>,
    /// What may be read.
    pub read: Vec<PathBuf>,
    /// What may be written.
    pub write: Vec<PathBuf>,
    /// The TCP ports that may be connected to.
    pub connect: Vec<u16>,
    /// The program, and its arguments.
    pub program: Vec<OsString>,
}

/// Becomes the program, and so returns only when that can't be.
///
/// # Errors
/// What couldn't be given up, or why the program can't be started.
pub fn enter(order: &Order) -> Result<io::Error> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    std::env::set_current_dir("/").context("going to /")?;
    if let Some((account, passwd)) = &order.account {
        show(&order.bind, passwd)?;
        // Of all its processes together; a pull has some six.
        setrlimit(Resource::RLIMIT_NPROC, MOST_PROCESSES, MOST_PROCESSES).context("bounding the number of processes")?;
        become_user(*account)?;
    }
    set_no_new_privs().context("forbidding new privileges")?;
    restrict(order)?;
    // After the change of user, which resets it.
    set_pdeathsig(Signal::SIGTERM).context("asking to end with the run")?;
    let (program, arguments) = order.program.split_first().context("there is no program")?;
    let _ = set_name(c"sandbox");
    Ok(Command::new(program).args(arguments).exec())
}

/// Makes a mount namespace in which `pairs` stand where they can be reached, and `passwd` is /etc/passwd: ssh ends when its
/// user isn't in it.
fn show(pairs: &[PathBuf], passwd: &Path) -> Result<()> {
    const HINT: &str = "\nhint: root needs CAP_SYS_ADMIN for it, which some containers lack; an ordinary user does without";
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context(format!("making a mount namespace{HINT}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context(format!("making mounts private{HINT}"))?;
    let bind = |real: &Path, place: &Path| {
        let what = || format!("showing {} at {}", real.display(), place.display());
        mount(Some(real), place, none, MsFlags::MS_BIND, none).with_context(what)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(none, place, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none).with_context(what)
    };
    for pair in pairs.chunks_exact(2) {
        bind(&pair[0], &pair[1])?;
    }
    bind(passwd, Path::new("/etc/passwd"))
}

/// Becomes the user, and the group, of this number, and loses all capabilities with it.
fn become_user(number: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
    setgroups(&[]).context("giving up groups")?;
    setresgid(gid, gid, gid).context("giving up the group")?;
    setresuid(uid, uid, uid).context("giving up the user")
}

/// As much of it as the kernel can; [`is_enforced`] tells beforehand whether that is anything.
fn restrict(order: &Order) -> Result<()> {
    let all = AccessFs::from_all(ABI::V5);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()
        .context("asking for a Landlock sandbox")?;
    let ports = order.connect.iter().chain((!order.connect.is_empty()).then_some(&DNS));
    let dev_null = AccessFs::ReadFile | AccessFs::WriteFile;
    ruleset
        .add_rules(path_beneath_rules(system(), AccessFs::from_read(ABI::V5)))?
        .add_rules(path_beneath_rules(&order.read, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(["/dev/null"], dev_null))?
        .add_rules(path_beneath_rules(&order.write, all & !AccessFs::Execute))?
        .add_rules(ports.map(|port| Ok::<_, landlock::RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))))?
        .restrict_self()
        .map(drop)
        .context("entering the Landlock sandbox")
}

/// Whether this kernel has Landlock at all. Asked by trying, in a thread of its own, which ends with the rules.
pub fn is_enforced() -> bool {
    let tried = || {
        let ruleset = Ruleset::default().handle_access(AccessFs::Execute).ok()?.create().ok()?;
        let status = ruleset.add_rules(path_beneath_rules(["/"], AccessFs::Execute)).ok()?.restrict_self().ok()?;
        Some(status.ruleset != RulesetStatus::NotEnforced)
    };
    std::thread::spawn(tried).join().ok().flatten().unwrap_or(false)
}
