//! One configured path on its way into the mirror: what it is on the server, what of it can't be read, and the rsync for it.
//!
//! A path is first asked for by name, because rsync wants different arguments for a folder and for a file, and because a path that
//! isn't there should be said plainly. The `find` that looks for what can't be read tells what it is; where that can't be had, or the
//! path neither, rsync is asked (`--list-only`), which every server answers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::log::printable;
use crate::source::child::Limits;
use crate::source::guard::{Deletions, Unread};
use crate::source::room::Room;
use crate::source::rsync::{self, Ended, PARTIAL};
use crate::source::ssh::Connection;
use crate::source::unreadable::Unreadable;
use crate::source::{mirror, unreadable};
use crate::stop::Stop;
use crate::warnings::Warnings;

/// What a path is on the server, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

/// A path that is there and can be pulled.
#[derive(Debug)]
pub struct Transfer<'a> {
    connection: &'a Connection<'a>,
    path: &'a Path,
    place: PathBuf,
    kind: Kind,
    unreadable: Option<Unreadable>,
}

impl<'a> Transfer<'a> {
    /// Asks for `path`, and when `look` is set also for what of it can't be read, which goes to `warnings`. The inner error
    /// says why nothing of it can be had.
    ///
    /// # Errors
    /// The connection broke, or a stop was asked for.
    pub async fn ask(
        connection: &'a Connection<'a>,
        path: &'a Path,
        look: bool,
        stop: &Stop,
        warnings: &mut Warnings,
    ) -> Result<Result<Self, String>> {
        let mut each = |name: String| {
            let line = format!("{UNREADABLE}{name}");
            tracing::info!("{line}");
            warnings.push(line);
        };
        let found = if look { Some(unreadable::look(connection, path, stop, &mut each).await) } else { None };
        let known = found.as_ref().and_then(|found| kind_from(found.as_ref().ok()?.kind()));
        let kind = match known {
            Some(kind) => kind,
            // Or why it can't be had.
            None => match kind(connection, path, stop).await? {
                Ok(kind) => kind,
                Err(why) => return Ok(Err(why)),
            },
        };
        let mut transfer = Self { connection, path, place: mirror::relative(path)?, kind, unreadable: None };
        match found {
            None => {}
            Some(Ok(found)) if found.itself() => return Ok(Err("it is unreadable on the server".to_owned())),
            Some(Ok(found)) => transfer.unreadable = Some(found).filter(|found| found.count() > 0),
            Some(Err(error)) => {
                stop.check()?;
                // rsync then meets what can't be read, and says so.
                let path = printable(path.as_os_str().as_bytes());
                warnings.push(format!("what is unreadable in {path} was not left out beforehand: {error:#}"));
            }
        }
        Ok(Ok(transfer))
    }

    /// Makes the place in `files` ready for rsync to write to.
    pub fn make_place(&self, files: &Path) -> Result<()> {
        mirror::make_folder(files, self.folder())
    }

    /// Whether that has been done.
    pub fn has_place(&self, files: &Path) -> bool {
        mirror::is_folder(files, self.folder())
    }

    /// The folder of the mirror that rsync writes to.
    fn folder(&self) -> &Path {
        match self.kind {
            Kind::Folder => &self.place,
            Kind::File => self.place.parent().unwrap_or(Path::new("")),
        }
    }

    /// Whether it is a file on the server, not a folder.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether a file may take the place of what `files` has there: a folder goes with all that is in it, which counts as deleted.
    ///
    /// # Errors
    /// Why not.
    pub fn replaces(&self, files: &Path, most: u16) -> Result<(), String> {
        let gone = if self.is_file() { mirror::count(&files.join(&self.place)) } else { 0 };
        Deletions { gone, there: 1, new: 1, empty: false }.judge(most)
    }

    /// Whether the path now stands in `mirror` as what the server said it was. One that lied gets its source called partial.
    pub fn arrived(&self, mirror: &Path) -> bool {
        let found = mirror.join(&self.place).symlink_metadata();
        found.is_ok_and(|found| match self.kind {
            Kind::Folder => found.is_dir(),
            Kind::File => found.is_file(),
        })
    }

    /// Adds what keeps things from being pulled.
    fn leave_out(&self, arguments: &mut Vec<OsString>) {
        if let Some(unreadable) = &self.unreadable {
            // What is excluded isn't deleted in the mirror either: it stays there as it was last pulled.
            arguments.extend(["--from0".into(), "--exclude-from".into(), unreadable.patterns().into()]);
        }
        let settings = &self.connection.source().files;
        for pattern in settings.exclude.iter().filter_map(|pattern| pattern_below(pattern, self.path)) {
            // Hidden on the server's side only: what was pulled before goes from the mirror.
            arguments.push(format!("--filter=H {pattern}").into());
        }
        if let Some(largest) = settings.largest {
            arguments.extend([format!("--max-size={largest}").into(), "--info=skip1".into()]);
        }
        arguments.extend(settings.one_file_system.then(|| "--one-file-system".into()));
    }

    /// How many entries of the path are known to be unreadable.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.as_ref().map_or(0, |unreadable| unreadable.count() as u64)
    }

    /// Of its regular files, how many couldn't be read when rsync ended so: those that were left out, and the `met` that rsync
    /// named. How many there are in a folder that can't be entered is known only of what the mirror in `files` keeps of it.
    pub fn unread(&self, ended: &Ended, met: u64, files: Option<&Path>) -> Unread {
        let mut left_out = self.unreadable();
        // Where all that has gone from the server went from the mirror, what it has beside what is there was left out.
        if let Some(files) = files.filter(|_| left_out > 0 && ended.held_back() == 0 && ended.code != Some(PARTIAL)) {
            let kept = mirror::count(&files.join(&self.place)).saturating_sub(ended.files("Number of files"));
            left_out = left_out.max(kept);
        }
        Unread { unreadable: left_out + met, all: ended.regular("Number of files") + left_out }
    }

    /// Runs rsync.
    ///
    /// # Errors
    /// It couldn't be run, more came than there is room for, or a stop was asked for.
    pub async fn run(&self, pass: &Pass<'_>, stop: &Stop) -> Result<Ended> {
        let cell = self.connection.cell();
        let mut sandbox = cell.sandbox();
        let Pass { files, partial, .. } = *pass;
        for folder in [files, partial] {
            if pass.rehearsal { sandbox.read(folder) } else { sandbox.write(folder) }
        }
        let mut arguments = rsync::arguments(self.connection);
        arguments.extend(pass.rehearsal.then(|| "--dry-run".into()));
        arguments.extend(OPTIONS.map(OsString::from));
        arguments.push([OsStr::new("--partial-dir="), partial.as_os_str()].into_iter().collect());
        arguments.extend(self.connection.source().bandwidth.map(|bytes| format!("--bwlimit={}", bytes.div_ceil(1024)).into()));
        self.leave_out(&mut arguments);
        let mut remote = remote(self.connection, self.path)?;
        match self.kind {
            Kind::Folder => {
                // Deletions are found as it goes and done at the end, so that a transfer that breaks has deleted nothing.
                // The slash at the end makes it the content, also of a folder behind a symbolic link.
                arguments.extend(["--recursive".into(), "--delete-delay".into()]);
                let most = match pass.deletions {
                    Deleting::HeldBack => 0,
                    Deleting::AtMost(most) => most,
                };
                arguments.push(format!("--max-delete={most}").into());
                remote.push("/");
            }
            // `--force`: yesterday it may have been a folder, which goes. `--copy-links`: the path may be a link, and the file
            // is meant.
            Kind::File => {
                arguments.extend(["--copy-links".into(), "--force".into()]);
                arguments.extend(trust(self.connection));
            }
        }
        // Always a folder, with a slash: rsync follows a link that is its target's last name, and the server may have put one
        // there the night before. What stands *in* the target it replaces, link or folder.
        let mut target = files.join(self.folder()).into_os_string();
        target.push("/");
        let mut command = sandbox.command("rsync");
        command.args(arguments).args([remote, target]);
        rsync::run(command, Limits { room: pass.room, ..Limits::default() }, stop).await
    }
}

/// One run of rsync for a path.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The folder that stands for the server's `/`. In it the path has its place.
    pub files: &'a Path,
    /// Where what couldn't be finished goes, and the next pass goes on with it. On the same file system.
    pub partial: &'a Path,
    /// Whether it may delete.
    pub deletions: Deleting,
    /// Whether it only finds out what it would do.
    pub rehearsal: bool,
    /// The room for what comes.
    pub room: Option<&'a Room<'a>>,
}

/// What is said of each unreadable entry, before its name.
pub const UNREADABLE: &str = "unreadable on the server and not pulled: ";

/// What a pass does with what is gone on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleting {
    /// Counts it only ([`Ended::held_back`]).
    HeldBack,
    /// Deletes it, as long as it isn't more than this.
    AtMost(u64),
}

/// What every pull asks of rsync.
const OPTIONS: [&str; 17] = [
    // Owners, modes, devices and links as attributes beside plain files: whoever runs rsync needs no right to set them, and
    // nothing that a server sends can be followed or executed here.
    "--fake-super",
    // As they are: times decide what is fetched again, and all the rest belongs to a restore.
    "--links",
    "--perms",
    "--times",
    "--owner",
    "--group",
    // To the nanosecond: a file that changed twice in a second, and kept its size, has changed.
    "--modify-window=-1",
    // Names mean other people here.
    "--numeric-ids",
    "--hard-links",
    "--devices",
    "--specials",
    "--acls",
    "--xattrs",
    "--sparse",
    "--compress",
    // Read here, so in plain numbers.
    "--stats",
    "--no-human-readable",
    // No --secluded-args: `rrsync`, which servers use to let a key only read, refuses it, and rsync 3.2.4 and
    // later guard their arguments without it.
];

/// An excluded `pattern` for the pull of `path`; none when it is about another place. A pattern that begins with a slash means a
/// place from the server's root on, and rsync counts from the path that it is given.
fn pattern_below(pattern: &str, path: &Path) -> Option<String> {
    let Some(place) = pattern.strip_prefix('/') else { return Some(pattern.to_owned()) };
    let path = path.to_str()?.trim_start_matches('/');
    let below = place.strip_prefix(path)?.strip_prefix('/')?;
    (!below.is_empty()).then(|| format!("/{below}"))
}

/// `path` on the server in rsync's form. rsync guards it against the server's shell, all but `*`, `?` and `[`: those it
/// leaves for patterns, unless a backslash stands before them. Any other backslash means itself. A gate is told its number only.
fn remote(connection: &Connection<'_>, path: &Path) -> Result<OsString> {
    let mut remote = format!("{}:", connection.alias()).into_bytes();
    if let Some(gate) = connection.gate() {
        remote.extend_from_slice(gate.item(connection.source(), path)?.as_bytes());
        return Ok(OsString::from_vec(remote));
    }
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'*' | b'?' | b'[') {
            remote.push(b'\\');
        }
        remote.push(byte);
    }
    Ok(OsString::from_vec(remote))
}

/// rsync takes only what is called as the last name that it asked for; and a gate is asked for a number.
fn trust(connection: &Connection<'_>) -> Option<OsString> {
    connection.gate().map(|_| "--trust-sender".into())
}

/// Whether there is such a file or folder on the server.
///
/// # Errors
/// The connection broke, or a stop was asked for.
pub async fn is_there(connection: &Connection<'_>, path: &Path, stop: &Stop) -> Result<bool> {
    Ok(kind(connection, path, stop).await?.is_ok())
}

/// Whether a path is a folder or a file; the inner error says why it is neither or can't be had.
async fn kind(connection: &Connection<'_>, path: &Path, stop: &Stop) -> Result<Result<Kind, String>> {
    let mut arguments = rsync::arguments(connection);
    arguments.extend(["--list-only".into(), "--copy-links".into()]);
    arguments.extend(trust(connection));
    arguments.push(remote(connection, path)?);
    let mut command = connection.cell().sandbox().command("rsync");
    command.args(arguments);
    let ended = rsync::run(command, Limits::default(), stop).await?;
    match ended.code {
        Some(0) => Ok(kind_of(&ended.stdout).ok_or_else(|| "it is neither a folder nor a file".to_owned())),
        Some(PARTIAL) => Ok(Err(ended.said().cloned().collect::<Vec<_>>().join("; "))),
        _ if ended.broke() => Ok(Err(ended.failure().replace('\n', "; "))),
        _ => bail!("asking the server for {}: {}", printable(path.as_os_str().as_bytes()), ended.failure()),
    }
}

/// What rsync's listing says of the one path it was asked for.
fn kind_of(listing: &[String]) -> Option<Kind> {
    kind_from(listing.last()?.as_bytes().first().copied())
}

/// From the letter that rsync or `find` has for it.
fn kind_from(letter: Option<u8>) -> Option<Kind> {
    match letter? {
        b'd' => Some(Kind::Folder),
        b'-' | b'f' => Some(Kind::File),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Kind, kind_of, pattern_below};

    #[test]
    fn a_pattern_from_the_root_on_counts_only_below_its_own_path() {
        let below = |pattern| pattern_below(pattern, Path::new("/srv/www"));
        assert_eq!(below("*.tmp").as_deref(), Some("*.tmp"));
        assert_eq!(below("cache/").as_deref(), Some("cache/"));
        assert_eq!(below("/srv/www/a/*.log").as_deref(), Some("/a/*.log"));
        for elsewhere in ["/srv/www", "/srv/www/", "/srv/www2/a", "/srv", "/home/x"] {
            assert_eq!(below(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn the_kind_is_the_first_letter_of_the_last_line_listed() {
        let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        assert_eq!(kind_of(&lines("drwxr-xr-x          4,096 2026/11/23 02:00:00 demo")), Some(Kind::Folder));
        assert_eq!(kind_of(&lines("-rw-r--r--              5 2026/11/23 02:00:00 hostname")), Some(Kind::File));
        assert_eq!(kind_of(&lines("prw-r--r--              0 2026/11/23 02:00:00 pipe")), None);
        assert_eq!(kind_of(&[]), None);
    }
}
