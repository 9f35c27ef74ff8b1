//! Finding files by name in all snapshots, by their indexes alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::amount::amount;
use crate::log::printable;
use crate::snapshot::entry::Entry;
use crate::snapshot::json::Name;
use crate::snapshot::show;

/// What names are compared with.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Vec<u8>,
    glob: bool,
}

impl Pattern {
    /// With `*` or `?` in it, it must match the whole name or all behind one of its slashes; without, it is looked for anywhere.
    pub fn new(text: &OsStr) -> Self {
        let text = text.as_bytes().strip_prefix(b"/").unwrap_or(text.as_bytes()).to_vec();
        Self { glob: text.iter().any(|byte| matches!(byte, b'*' | b'?')), text }
    }

    /// Whether `name` is one of those.
    pub fn matches(&self, name: &[u8]) -> bool {
        if !self.glob {
            return self.text.is_empty() || name.windows(self.text.len()).any(|part| part == self.text);
        }
        let behind_slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &name[at + 1..]);
        std::iter::once(name).chain(behind_slashes).any(|name| glob(&self.text, name))
    }
}

/// Whether `pattern` is all of `name`; `*` stands for anything, slashes too, and `?` for one byte.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on when it doesn't fit: behind the last star, one byte later.
    let mut star = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    (at, seen) = (behind, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// A name that was found.
#[derive(Debug, Serialize)]
pub struct Hit<'a> {
    source: &'a str,
    snapshot: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    bytes: u64,
    mtime: Option<Timestamp>,
    #[serde(flatten)]
    name: Name,
    #[serde(skip)]
    shown: String,
}

impl<'a> Hit<'a> {
    /// An entry of a snapshot.
    pub fn new(source: &'a str, snapshot: &'a str, entry: &Entry) -> Self {
        let name = entry.path.as_os_str().as_bytes();
        let nanoseconds = entry.mtime.nanoseconds.cast_signed();
        Self {
            source,
            snapshot,
            kind: show::kind(&entry.kind),
            bytes: entry.size,
            mtime: Timestamp::new(entry.mtime.seconds, nanoseconds).ok(),
            name: Name::new(name),
            shown: printable(name),
        }
    }

    /// One line for a person.
    pub fn text(&self) -> String {
        let Self { source, snapshot, kind, bytes, mtime, shown, .. } = self;
        let time = mtime.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
        let size = if *kind == "file" { amount(*bytes) } else { (*kind).to_owned() };
        format!("{source}/{}  {time:19}  {size:>11}  /{shown}\n", printable(snapshot.as_bytes()))
    }

    /// One line for a program.
    pub fn json(&self) -> Result<String> {
        super::json::line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::Pattern;

    #[test]
    fn the_golden_table() {
        for (pattern, name, expected) in [
            ("hosts", "etc/hosts", true),
            ("etc/ho", "etc/hosts", true),
            ("/etc/ho", "etc/hosts", true),
            ("Hosts", "etc/hosts", false),
            ("", "etc", true),
            ("*.jpg", "srv/a/b.jpg", true),
            ("*.jpg", "srv/a.jpg/b", false),
            ("a*b*c", "srv/a1b2b3c", true),
            ("a*b*c", "srv/a1b2b3cd", false),
            ("srv/*/b", "srv/x/y/b", true),
            ("?.txt", "srv/a.txt", true),
            ("?.txt", "srv/ab.txt", false),
            ("**", "x", true),
            ("*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(Pattern::new(OsStr::new(pattern)).matches(name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
