//! What the account on the server may not read: found before the pull, named, and left out of it.
//!
//! rsync would find it out too, file by file, and end with the same exit code as after a failing disk; and after any
//! reading error it deletes nothing. So `find` looks first, on the server, and what it names is excluded. Then an error of
//! rsync means something again, and what the owner of the server has hidden doesn't make each night a bad one.
//!
//! The names go as they come into a file of rsync's patterns, so that a server with many of them costs no memory; and there is
//! a limit to them, so that a hostile one can't fill a disk.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::log::printable;
use crate::source::child::{self, Limits};
use crate::source::request::Request;
use crate::source::ssh::{self, Connection};
use crate::stop::Stop;

/// The most names of one path, in number. rsync compares each file with each of them.
const MOST: usize = 100_000;

/// The most names of one path, in bytes; each is also a line in the run's log.
const MOST_BYTES: usize = 8 << 20;

/// The longest name that a Linux system call takes, in bytes.
const LONGEST: usize = 4096;

/// How long `find` may name nothing. A big tree of readable files on slow disks is a long silence.
const PATIENCE: Duration = Duration::from_hours(2);

/// What `find` is to name: folders that can't be listed or entered, without looking into them, and files that can't be read. A
/// symbolic link can always be read; pipes, sockets and devices aren't pulled. `%P`: relative to where it began.
const UNREADABLE: &str = r"\( -type d \( ! -readable -o ! -executable \) -prune -o -type f ! -readable \) -printf '%P\0'";

/// What can't be read below one path.
#[derive(Debug)]
pub struct Unreadable {
    patterns: BufWriter<NamedTempFile>,
    count: usize,
    bytes: usize,
    itself: bool,
    kind: Option<u8>,
}

/// Asks what [`can_be_found`] wants to know. Root's folder can always be looked at; only a `find` that knows all three tests says
/// `found`.
pub fn trial() -> Request {
    Request::new("can-find", r"env LC_ALL=C find / -maxdepth 0 \( -readable -o -executable -o -true \) -printf 'found\0'")
}

/// Asks what [`look`] wants to know of the path `name`, the source's `number`th, from 1 on.
pub fn request(number: usize, name: &str) -> Request {
    // -H: the path may be a link.
    let find = format!("env LC_ALL=C find -H {}", ssh::word(name));
    Request::new(format!("look {number}"), format!("{find} -maxdepth 0 -printf '%y\\0'; {find} {UNREADABLE}"))
}

/// Whether the server lets this key run `find`, and whether that is one which knows all that is asked of it.
///
/// # Errors
/// A stop was asked for.
pub async fn can_be_found(connection: &Connection<'_>, stop: &Stop) -> Result<bool> {
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(&block[..block.len().min(16)]);
        if said.len() > 16 {
            bail!("it says more than it was asked for");
        }
        Ok(())
    };
    let ended = run(connection, &trial(), stop, &mut take).await;
    stop.check()?;
    Ok(ended.is_ok_and(|code| code == Some(0)) && said == b"found\0")
}

/// Looks for what can't be read at `path`: below it when it is a folder or a link to one, or the file itself. Calls `each`
/// with every name, printable; it is the whole name on the server.
///
/// # Errors
/// It couldn't be looked for, or there is too much. What was found until then counts for nothing.
pub async fn look(connection: &Connection<'_>, path: &Path, stop: &Stop, each: &mut dyn FnMut(String)) -> Result<Unreadable> {
    let number = connection.source().paths.iter().position(|known| known == path).context("it is none of the source's paths")?;
    let request = request(number + 1, path.to_str().context("its name is not UTF-8")?);
    let cell = connection.cell();
    let patterns = NamedTempFile::new_in(cell.folder()).context("making a file for rsync's patterns")?;
    let mut found = Unreadable { patterns: BufWriter::new(patterns), count: 0, bytes: 0, itself: false, kind: None };
    let mut rest = Vec::new();
    let mut take = |block: &[u8]| {
        rest.extend_from_slice(block);
        let end = rest.iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1);
        for name in rest[..end].split_inclusive(|&byte| byte == 0).map(|name| &name[..name.len() - 1]) {
            match (found.kind, name) {
                // What it is comes first.
                (None, &[letter]) => found.kind = Some(letter),
                _ => found.add(path, name, each)?,
            }
        }
        rest.drain(..end);
        if rest.len() > LONGEST {
            bail!("it named something that is longer than a name can be");
        }
        Ok(())
    };
    let code = run(connection, &request, stop, &mut take).await?;
    if !matches!(code, Some(0 | 1)) {
        bail!("`find` ended with {}", code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")));
    }
    // 1: something vanished while it looked.
    found.patterns.flush().context("writing rsync's patterns")?;
    Ok(found)
}

async fn run(
    connection: &Connection<'_>,
    request: &Request,
    stop: &Stop,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<i32>> {
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    Ok(child::run(connection.command(request), limits, stop, take).await?.code)
}

impl Unreadable {
    /// Whether it is the path itself that can't be read.
    pub fn itself(&self) -> bool {
        self.itself
    }

    /// What the path is, as the letter that `find` has for it; none when there is no such path.
    pub fn kind(&self) -> Option<u8> {
        self.kind
    }

    /// How many names there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The file for rsync's `--exclude-from`, with `--from0`. It is there as long as this is.
    pub fn patterns(&self) -> &Path {
        self.patterns.get_ref().path()
    }

    /// Takes one name, relative to `path`; an empty one is `path` itself.
    fn add(&mut self, path: &Path, name: &[u8], each: &mut dyn FnMut(String)) -> Result<()> {
        if name.is_empty() {
            self.itself = true;
            return Ok(());
        }
        self.count += 1;
        self.bytes += name.len();
        if self.count > MOST || self.bytes > MOST_BYTES {
            bail!("there is too much that can't be read: more than {MOST} names, or {} MiB of them", MOST_BYTES >> 20);
        }
        each(printable(path.join(std::ffi::OsStr::from_bytes(name)).as_os_str().as_bytes()));
        let mut line = pattern(name);
        line.push(0);
        self.patterns.write_all(&line).context("writing rsync's patterns")
    }
}

/// The pattern that excludes just `name`, relative to the root of the transfer (rsync(1), FILTER RULES). The slash anchors it.
/// With a wildcard anywhere in it a backslash escapes; without one it means itself.
fn pattern(name: &[u8]) -> Vec<u8> {
    let wild = |byte: &u8| matches!(byte, b'*' | b'?' | b'[');
    let escape = name.iter().any(wild);
    let mut pattern = vec![b'/'];
    for byte in name {
        if escape && (wild(byte) || *byte == b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::io::{BufWriter, Write};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::Command;

    use tempfile::NamedTempFile;

    use super::{MOST, MOST_BYTES, Unreadable, pattern};

    const ODD: [&[u8]; 13] = [
        b"plain",
        b"-rf",
        b"# comment",
        b"; comment",
        b"back\\slash",
        b"back\\*slash\\",
        b"star *",
        b"what?",
        b"a[1]",
        b"a]b",
        b"new\nline\n",
        b"latin \xe9",
        b" blanks ",
    ];

    fn none() -> Unreadable {
        Unreadable { patterns: BufWriter::new(NamedTempFile::new().unwrap()), count: 0, bytes: 0, itself: false, kind: None }
    }

    #[test]
    fn patterns_are_escaped_only_where_rsync_unescapes() {
        for (name, expected) in [
            (b"a/b".as_slice(), b"/a/b".as_slice()),
            (b"back\\slash", b"/back\\slash"),
            (b"back\\slash*", b"/back\\\\slash\\*"),
            (b"[a]?", b"/\\[a]\\?"),
        ] {
            assert_eq!(pattern(name), expected);
        }
    }

    #[test]
    fn rsync_leaves_out_just_what_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ODD {
            let name = OsStr::from_bytes(name);
            fs::create_dir_all(folder.path().join("from/deep")).unwrap();
            fs::write(folder.path().join("from").join(name), "left out").unwrap();
            // The same name deeper down, and what a wildcard would match beside it.
            fs::write(folder.path().join("from/deep").join(name), "kept").unwrap();
        }
        for beside in ["star x", "whatX", "a1", "back*slash\\", "backslash", "back\\xslash\\", "new", "line"] {
            fs::write(folder.path().join("from").join(beside), "kept").unwrap();
        }
        let mut unreadable = none();
        let mut named = Vec::new();
        for name in ODD {
            unreadable.add(Path::new("/srv"), name, &mut |name| named.push(name)).unwrap();
        }
        unreadable.patterns.flush().unwrap();
        let mut rsync = Command::new("rsync");
        rsync.args(["-r", "--from0", "--exclude-from"]).arg(unreadable.patterns());
        assert!(rsync.arg(folder.path().join("from/")).arg(folder.path().join("to")).status().unwrap().success());
        let count = |name: &str| fs::read_dir(folder.path().join(name)).unwrap().count();
        assert_eq!((count("from"), count("to"), count("to/deep")), (ODD.len() + 9, 9, ODD.len()));
        assert_eq!(
            (named[0].as_str(), named[10].as_str(), named[11].as_str()),
            ("/srv/plain", "/srv/new\\nline\\n", "/srv/latin \\xe9")
        );
    }

    #[test]
    fn the_names_are_bounded_in_number_and_in_bytes() {
        let mut many = none();
        (0..MOST).for_each(|_| many.add(Path::new("/"), b"a", &mut |_| ()).unwrap());
        let error = many.add(Path::new("/"), b"a", &mut |_| ()).unwrap_err().to_string();
        assert_eq!(error, "there is too much that can't be read: more than 100000 names, or 8 MiB of them");
        let mut long = none();
        let name = vec![b'a'; 4096];
        (0..MOST_BYTES / 4096).for_each(|_| long.add(Path::new("/"), &name, &mut |_| ()).unwrap());
        assert!(long.add(Path::new("/"), b"a", &mut |_| ()).is_err());
    }
}
