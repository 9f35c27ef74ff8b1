//! The gate: the program on a server that the appliance's key is bound to, and how it is asked.
//!
//! The client sends a verb and a number; paths and commands stand in the gate, on the server. It is made of the same
//! [`Request`]s that the pull asks for. Each request bears the gate's mark, a hash of all of them, so that a number that now
//! means something else is refused by a gate that was made before.

pub mod setup;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::sha::Sha256;

use crate::config::Source;
use crate::digest::hex;
use crate::source::dump::servers;
use crate::source::request::Request;
use crate::source::ssh::word;
use crate::source::{owners, unreadable};

/// The script, with blanks like `{{USER}}` in it.
const SCRIPT: &str = include_str!("gate.sh");

/// How many bytes of the hash a mark has. `gate.sh` knows one by its length in hexadecimal digits.
const MARK: usize = 8;

/// What the item of a sentinel begins with.
const SENTINEL: char = 's';

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

/// The gate of a source, as a script for its server. `host` names the appliance in it.
fn script(source: &Source, host: &str) -> String {
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
    fill(
        SCRIPT,
        &[
            ("USER", &source.user),
            ("HOST", host),
            ("NAME", &source.name),
            ("MARK", &mark),
            ("ITEMS", &paths),
            ("REQUESTS", &asked),
        ],
    )
}

/// A script with its blanks filled in. What is filled in is looked at no more: a path may be called like a blank.
fn fill(script: &str, blanks: &[(&str, &str)]) -> String {
    let mut parts = script.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").expect("a blank ends");
        let (_, text) = blanks.iter().find(|(known, _)| *known == name).expect("there is a text for each blank");
        filled += text;
        filled += rest;
    }
    filled
}

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

/// A hash of all that the gate has, each with an end that none of it can hold.
fn mark(source: &Source) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.as_bytes());
        hash.update(&[0]);
    };
    for request in requests(source) {
        add(request.words());
        add(request.line());
    }
    for named in servers::named(source) {
        [named.verb, &named.list, &named.line].into_iter().for_each(&mut add);
    }
    for (path, item) in items(source) {
        add(&item);
        add(&path.to_string_lossy());
    }
    hex(&hash.finish()[..MARK])
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Gate, Request, fill, mark, script};
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

    /// Whoever has to change this mark breaks every gate that stands on a server, until its setup is run again: the CHANGELOG has to
    /// say so.
    #[test]
    fn a_new_version_asks_the_gates_of_the_last_one() {
        let mut source = source(&["/srv"]);
        source.postgresql = vec![String::from("*")];
        source.dumps.mariadb = vec![String::from("shop")];
        source.dumps.sqlite = vec![PathBuf::from("/srv/app.db")];
        assert_eq!(mark(&source), "32ecdce8f47637dd");
    }

    #[test]
    fn what_stands_in_the_configuration_is_one_word_of_the_script() {
        let script = script(&source(&["/srv/it's $(here) {{MARK}}"]), "box");
        assert!(script.contains("path='/srv/it'\\''s $(here) {{MARK}}/' ;;\n"), "{script}");
        assert_eq!(script.matches("{{").count(), 5, "{script}");
        assert_eq!(fill("a {{B}}{{C}} d", &[("C", "{{B}}"), ("B", "b")]), "a b{{B}} d");
    }
}
