//! The inside of `vaultberry sandbox`: gives up everything, then becomes the program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};
use nix::sys::prctl::{set_name, set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use super::system;

/// Name servers answer here, over TCP when the answer is long.
const DNS: u16 = 53;

/// What is to become of this process.
#[derive(Clone, Debug)]
pub struct Order {
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
    set_no_new_privs().context("forbidding new privileges")?;
    restrict(order)?;
    set_pdeathsig(Signal::SIGTERM).context("asking to end with the run")?;
    let (program, arguments) = order.program.split_first().context("there is no program")?;
    let _ = set_name(c"sandbox");
    Ok(Command::new(program).args(arguments).exec())
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
