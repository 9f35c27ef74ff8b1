//! Whether a dump on the disk can be read by the program that it is for.
//!
//! `pg_restore --list` takes a dump that was cut in half for a good one, so all of it is converted, to nowhere.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sandbox::{Cell, NO_PROGRAM};
use crate::source::child::{self, Limits};
use crate::source::dump::Proof;
use crate::stop::Stop;

/// How long a program may say nothing; `pg_restore` says nothing until its end.
const PATIENCE: Duration = Duration::from_hours(6);

/// How much of what a program says is kept, in bytes.
const KEPT: usize = 4096;

/// A path as a part of a URI (RFC 3986 section 2.1), as SQLite reads it.
fn uri(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let byte = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.as_os_str().as_bytes().iter().map(byte).collect()
}

/// Reads the file `part` with the program that `proof` names, if there is one.
///
/// # Errors
/// Why the dump doesn't count; or a stop was asked for.
pub(super) async fn check(proof: &Proof, part: &Path, cell: &Cell, stop: &Stop) -> Result<()> {
    let (program, package) = match proof {
        Proof::Custom => ("pg_restore", "postgresql-client"),
        Proof::Sqlite => ("sqlite3", "sqlite3"),
        _ => return Ok(()),
    };
    let mut sandbox = cell.sandbox();
    sandbox.read(part);
    let mut command = sandbox.command(program);
    match proof {
        Proof::Custom => command.args(["-f", "/dev/null"]).arg(part),
        // Immutable: it would put files of its own beside a copy of a database with a write-ahead log.
        _ => command.args(["-batch", "-readonly"]).arg(format!("file:{}?immutable=1", uri(part))).arg("PRAGMA integrity_check"),
    };
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(&block[..block.len().min(KEPT - said.len())]);
        Ok(())
    };
    let ended = child::run(command, limits, stop, &mut take).await.with_context(|| format!("checking it with `{program}`"))?;
    let lines = || ended.stderr.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    match ended.code {
        Some(0) if *proof == Proof::Custom || said == b"ok\n" => Ok(()),
        Some(0) => bail!("SQLite finds it damaged: {}", crate::log::printable(&said).replace("\\n", "; ")),
        Some(code) if code == i32::from(NO_PROGRAM) => {
            bail!("it can't be checked: there is no `{program}` on this machine\nhint: apt-get install {package}")
        }
        _ if lines().contains("unsupported version") => bail!(
            "it can't be checked: the `pg_restore` on this machine is older than the server's `pg_dump`: {}\nhint: \
             postgresql_format = \"plain\" needs no program here",
            lines()
        ),
        _ => bail!("`{program}` can't read it: {}", lines()),
    }
}
