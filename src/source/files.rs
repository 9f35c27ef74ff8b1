//! The files of a source: each configured path brought into the mirror by rsync.
//!
//! A path is first asked for by name (`--list-only`), because rsync wants different arguments for a folder and for a
//! file, and because a path that isn't there should be said plainly. The question goes through rsync too, so a server
//! that lets this key run nothing but rsync answers it.
//!
//! What rsync's exit code makes of a path:
//!
//! | code | meaning | outcome |
//! |---|---|---|
//! | 0 | all there | complete |
//! | 24 | files vanished while it ran: a server at work | complete, each file a warning |
//! | 23 | some files couldn't be read or written | partial, each a warning |
//! | any other | the connection, the disk or rsync itself | the source failed |
//!
//! rsync deletes nothing after a reading error on the server (`IO error encountered -- skipping file deletion`), so a
//! disk that fails over there doesn't empty the mirror here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Result, bail};

use crate::config::Source;
use crate::log::printable;
use crate::outcome::Outcome;
use crate::source::ssh::Connection;
use crate::source::{Pulled, mirror, rsync};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// rsync's "some files/attrs were not transferred".
const PARTIAL: i32 = 23;

/// rsync's "some files vanished before they could be transferred".
const VANISHED: i32 = 24;

/// What a path is on the server, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

/// Brings every path of `source` into `mirror`, the source's own folder.
///
/// # Errors
/// The connection broke, or not one path could be pulled.
pub async fn pull(source: &Source, connection: &Connection, mirror: &Path, stop: &Stop) -> Result<Pulled> {
    let mut outcome = Outcome::Complete;
    let mut warnings = Warnings::default();
    let mut usable = 0;
    for path in &source.paths {
        let remote = remote(connection, path);
        let Some(kind) = ask(connection, &remote, path, stop, &mut warnings).await? else {
            outcome = Outcome::Partial;
            continue;
        };
        tracing::info!(source = source.name, "pulling {}", printable(path.as_os_str().as_bytes()));
        outcome = outcome.max(fetch(connection, remote, kind, path, mirror, stop, &mut warnings).await?);
        usable += 1;
    }
    if usable == 0 {
        bail!("pulling the files of {}: none of its paths is there: {}", source.name, warnings.lines.join("; "));
    }
    Ok(Pulled { outcome, warnings })
}

/// `path` on the server in rsync's form. rsync guards it against the server's shell, all but `*`, `?` and `[`: those it
/// leaves for patterns, unless a backslash stands before them. Any other backslash means itself.
fn remote(connection: &Connection, path: &Path) -> OsString {
    let mut remote = format!("{}:", connection.alias()).into_bytes();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'*' | b'?' | b'[') {
            remote.push(b'\\');
        }
        remote.push(byte);
    }
    OsString::from_vec(remote)
}

/// The arguments that every call begins with.
fn common(connection: &Connection) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("-e"), OsString::from_vec(connection.remote_shell())];
    // A server that stops in the middle, with the connection still standing, ends the call after five minutes. A long
    // scan over there doesn't: rsync sends keep-alives.
    arguments.push("--timeout=300".into());
    arguments
}

/// Whether a path is a folder or a file; `None`, and a warning, when it is neither or can't be had.
async fn ask(connection: &Connection, remote: &OsStr, path: &Path, stop: &Stop, warnings: &mut Warnings) -> Result<Option<Kind>> {
    let mut arguments = common(connection);
    arguments.extend(["--list-only".into(), "--copy-links".into(), remote.to_owned()]);
    let ended = rsync::run(&arguments, stop).await?;
    let path = printable(path.as_os_str().as_bytes());
    match ended.code {
        Some(0) => {}
        Some(PARTIAL) => {
            warnings.push(not_pulled(&path, &said(&ended.stderr).join("; ")));
            return Ok(None);
        }
        code => bail!("asking the server for {path}: {}", failure(code, &ended.stderr)),
    }
    let kind = kind_of(&ended.stdout);
    if kind.is_none() {
        warnings.push(not_pulled(&path, "it is neither a folder nor a file"));
    }
    Ok(kind)
}

/// The warning of a path that this run has nothing of.
fn not_pulled(path: &str, why: &str) -> String {
    format!("{path} was not pulled, and is in the snapshot as it was last pulled, if ever: {why}")
}

/// What rsync's listing says of the one path it was asked for.
fn kind_of(listing: &[String]) -> Option<Kind> {
    match listing.last()?.as_bytes().first()? {
        b'd' => Some(Kind::Folder),
        b'-' => Some(Kind::File),
        _ => None,
    }
}

/// Pulls one path.
async fn fetch(
    connection: &Connection,
    mut remote: OsString,
    kind: Kind,
    path: &Path,
    mirror: &Path,
    stop: &Stop,
    warnings: &mut Warnings,
) -> Result<Outcome> {
    let place = mirror::relative(path)?;
    let mut arguments = common(connection);
    arguments.extend(
        [
            // As they are: times decide what is fetched again, and permissions belong to a restore.
            "--links",
            "--perms",
            "--times",
            // Owners too, where we may set them, as numbers: names mean other people here. Without root rsync leaves
            // them out by itself.
            "--owner",
            "--group",
            "--numeric-ids",
            "--compress",
            // No --partial: it would leave halves in the mirror, and a partial folder's name is excluded from the pull.
            // No --secluded-args: `rrsync`, which servers use to let a key only read, refuses it, and rsync 3.2.4 and
            // later guard their arguments without it.
        ]
        .map(OsString::from),
    );
    match kind {
        Kind::Folder => {
            mirror::make_folder(mirror, &place)?;
            // Deletions are found as it goes and done at the end, so that a transfer that breaks has deleted nothing.
            // The slash at the end makes it the content, also of a folder behind a symbolic link.
            arguments.extend(["--recursive".into(), "--delete-delay".into()]);
            remote.push("/");
        }
        Kind::File => {
            mirror::make_folder(mirror, place.parent().unwrap_or(Path::new("")))?;
            // `--force`: yesterday it may have been a folder. `--copy-links`: the path may be a link, and the file is meant.
            arguments.extend(["--copy-links".into(), "--force".into()]);
        }
    }
    let mut target = mirror.join(&place).into_os_string();
    if kind == Kind::Folder {
        target.push("/");
    }
    arguments.extend([remote, target]);
    let ended = rsync::run(&arguments, stop).await?;
    // Sockets, pipes and devices are named on stdout.
    for line in ended.stdout.iter().filter(|line| line.starts_with("skipping non-regular file")) {
        warnings.push(line.clone());
    }
    let outcome = match ended.code {
        // What is on stderr after a good end is a login script's noise.
        Some(0) => return Ok(Outcome::Complete),
        Some(VANISHED) => Outcome::Complete,
        Some(PARTIAL) => Outcome::Partial,
        code => bail!("pulling {}: {}", printable(path.as_os_str().as_bytes()), failure(code, &ended.stderr)),
    };
    for line in said(&ended.stderr) {
        warnings.push(line);
    }
    Ok(outcome)
}

/// What rsync said of single files, without its summing up.
fn said(stderr: &[String]) -> Vec<String> {
    let noise = |line: &&String| !line.starts_with("rsync error: some files") && !line.starts_with("rsync warning: some files");
    stderr.iter().filter(noise).cloned().collect()
}

/// Why rsync gave up, with what to do about it where that is known (rsync(1), EXIT VALUES).
fn failure(code: Option<i32>, stderr: &[String]) -> String {
    let (ended, hint) = match code {
        None => ("`rsync` was ended by a signal".to_owned(), None),
        Some(code) => {
            let hint = match code {
                11 => Some("is the backup disk full, or failing? See `df` and `dmesg`"),
                12 | 30 | 35 | 255 => Some("the connection broke or the server stopped answering; the next run tries again"),
                127 => Some("rsync must be installed, here and on the server"),
                _ => None,
            };
            (format!("`rsync` ended with exit code {code}"), hint)
        }
    };
    // The end of a long complaint says most.
    let tail = &stderr[stderr.len().saturating_sub(8)..];
    let mut lines = vec![ended];
    lines.extend(tail.iter().map(|line| format!("  {line}")));
    lines.extend(hint.map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Kind, failure, kind_of, said};

    #[test]
    fn the_kind_is_the_first_letter_of_the_last_line_listed() {
        let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        assert_eq!(kind_of(&lines("drwxr-xr-x          4,096 2026/11/23 02:00:00 demo")), Some(Kind::Folder));
        assert_eq!(kind_of(&lines("-rw-r--r--              5 2026/11/23 02:00:00 hostname")), Some(Kind::File));
        assert_eq!(kind_of(&lines("prw-r--r--              0 2026/11/23 02:00:00 pipe")), None);
        assert_eq!(kind_of(&[]), None);
    }

    #[test]
    fn a_failure_says_what_rsync_said_and_what_helps() {
        let stderr = vec!["Connection closed by UNKNOWN port 65535".to_owned()];
        assert_eq!(
            failure(Some(255), &stderr),
            "`rsync` ended with exit code 255\n  Connection closed by UNKNOWN port 65535\nhint: the connection broke or the \
             server stopped answering; the next run tries again"
        );
        assert_eq!(failure(None, &[]), "`rsync` was ended by a signal");
    }

    #[test]
    fn the_summing_up_is_no_warning_of_its_own() {
        let stderr =
            ["file has vanished: \"/srv/a\"", "rsync warning: some files vanished before they could be transferred (code 24)"];
        assert_eq!(said(&stderr.map(String::from)), ["file has vanished: \"/srv/a\""]);
    }
}
