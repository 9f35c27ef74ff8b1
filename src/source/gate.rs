//! The gate: the program on a server that the appliance's key is bound to, and how it is asked.
//!
//! The client sends a verb and a number; paths and commands stand in the gate, on the server. It is made of the same
//! [`Request`]s that the pull asks for. Each request bears the gate's mark, a hash of all of them, so that a number that now
//! means something else is refused by a gate that was made before.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::sha::sha256;

use crate::config::Source;
use crate::digest::hex;
use crate::source::dump::servers;
use crate::source::request::Request;
use crate::source::ssh::word;
use crate::source::{owners, unreadable};

/// The script, with marks like `@USER@` in it.
const SCRIPT: &str = include_str!("gate.sh");

/// How many bytes of the hash a mark has.
const MARK: usize = 8;

/// How a gate is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    mark: String,
}

impl Gate {
    /// That of a source; none when it has none.
    pub fn of(source: &Source) -> Option<Self> {
        source.gate.then(|| Self { mark: mark(source) })
    }

    /// The line that asks for this.
    pub fn ask(&self, request: &Request) -> String {
        format!("vaultberry {} {}", self.mark, request.words())
    }

    /// What stands for a path or a sentinel in an argument of rsync.
    ///
    /// # Errors
    /// It is neither.
    pub fn item(&self, source: &Source, path: &Path) -> Result<String> {
        let (_, item) = items(source).into_iter().find(|(known, _)| *known == path).context("the gate knows no such path")?;
        Ok(format!("{}/{item}", self.mark))
    }
}

/// The gate of a source, as a script for its server.
pub fn script(source: &Source) -> String {
    let mark = mark(source);
    let mut asked = String::new();
    for request in requests(source) {
        let pattern = word(&format!("vaultberry {mark} {}", request.words()));
        writeln!(asked, "{pattern}) run {} ;;", word(request.line())).expect("writing to a string can't fail");
    }
    for named in servers::named(source) {
        let verb = word(&format!("vaultberry {mark} {} ", named.verb));
        writeln!(asked, "{verb}*) named \"${{asked#{verb}}}\" {} {} ;;", word(&named.list), word(&named.line))
            .expect("writing to a string can't fail");
    }
    let mut paths = String::new();
    for (path, item) in items(source) {
        let path = path.to_string_lossy();
        let mut add = |kind: &str, slash: &str| {
            let path = word(&format!("{path}{slash}"));
            writeln!(paths, "\t'{kind} {mark}/{item}{slash}') path={path} ;;").expect("writing to a string can't fail");
        };
        add("list", "");
        if !item.starts_with(SENTINEL) {
            add("file", "");
            add("folder", "/");
        }
    }
    let filled = SCRIPT.replace("@USER@", &source.user).replace("@NAME@", &source.name).replace("@MARK@", &mark);
    filled.replace("@ITEMS@", &paths).replace("@REQUESTS@", &asked)
}

/// What the item of a sentinel begins with.
const SENTINEL: char = 's';

/// Paths and sentinels, with what stands for them.
fn items(source: &Source) -> Vec<(&Path, String)> {
    let paths = (1..).zip(&source.paths).map(|(number, path): (usize, _)| (path.as_path(), number.to_string()));
    let sentinels =
        (1..).zip(&source.files.sentinels).map(|(number, path): (usize, _)| (path.as_path(), format!("{SENTINEL}{number}")));
    paths.chain(sentinels).collect()
}

/// All that a pull of `source` and its rehearsal can ask for, but for databases that the server itself names.
fn requests(source: &Source) -> Vec<Request> {
    let mut requests = vec![Request::quiet(), owners::request(), unreadable::trial()];
    let names = (1..).zip(&source.paths);
    requests.extend(names.filter_map(|(number, path)| Some(unreadable::request(number, path.to_str()?))));
    requests.extend(servers::requests(source));
    requests
}

fn mark(source: &Source) -> String {
    let all = (requests(source), servers::named(source), items(source));
    hex(&sha256(format!("{all:?}").as_bytes())[..MARK])
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Gate, Request, script};
    use crate::config::{Source, sample};

    fn source(paths: &[&str]) -> Source {
        Source { gate: true, paths: paths.iter().map(PathBuf::from).collect(), ..sample::source("web") }
    }

    #[test]
    fn a_gate_is_asked_by_number_and_a_changed_list_has_another_mark() {
        let (one, two) = (source(&["/srv", "/home"]), source(&["/home", "/srv"]));
        let (gate, other) = (Gate::of(&one).unwrap(), Gate::of(&two).unwrap());
        assert_ne!(gate, other);
        assert_eq!(gate.item(&one, Path::new("/home")).unwrap(), format!("{}/2", gate.mark));
        assert_eq!(gate.item(&one, Path::new("/etc")).unwrap_err().to_string(), "the gate knows no such path");
        assert_eq!(gate.ask(&Request::quiet()), format!("vaultberry {} quiet", gate.mark));
        assert_eq!(Gate::of(&sample::source("web")), None);
    }

    #[test]
    fn what_stands_in_the_configuration_is_one_word_of_the_script() {
        let script = script(&source(&["/srv/it's $(here)"]));
        assert!(script.contains("path='/srv/it'\\''s $(here)/' ;;\n"), "{script}");
        assert!(!script.contains('@'), "{script}");
    }
}
