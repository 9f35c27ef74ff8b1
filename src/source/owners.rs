//! The names of a server's users and groups, which its files know by number only.
//!
//! They are asked for at each pull and kept beside the mirror, for the nights on which the server doesn't tell, or lets the
//! key run nothing but rsync. An archive has them beside the numbers, as tar does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::source::child::{self, Limits};
use crate::source::request::Request;
use crate::source::ssh::Connection;
use crate::stop::Stop;

/// Their file in a mirror.
const FILE: &str = "owners.json";

/// The most that a server may say of its users and groups, in bytes.
const MOST: usize = 1 << 20;

/// How long it may say nothing; a directory service may be slow.
const PATIENCE: Duration = Duration::from_mins(2);

/// Both databases (passwd(5), group(5)), with a line between them that neither can have.
const COMMAND: &str = "env LC_ALL=C sh -c 'getent passwd 2>/dev/null || cat /etc/passwd; echo :; getent group 2>/dev/null || \
                       cat /etc/group'";

/// What the server is asked.
pub fn request() -> Request {
    Request::new("owners", COMMAND)
}

/// Names by number, as the server has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Groups.
    pub groups: BTreeMap<u32, String>,
}

/// Asks the server, and keeps its answer in `mirror`; what was kept there before, when it doesn't tell.
///
/// # Errors
/// A stop was asked for, or the mirror can't be written.
pub async fn fetch(connection: &Connection<'_>, mirror: &Path, stop: &Stop) -> Result<Owners> {
    let mut said = Vec::new();
    let mut take = |block: &[u8]| {
        said.extend_from_slice(block);
        if said.len() > MOST {
            bail!("it says more than {MOST} bytes of its users and groups");
        }
        Ok(())
    };
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let ended = child::run(connection.command(&request()), limits, stop, &mut take).await;
    stop.check()?;
    let path = mirror.join(FILE);
    match Owners::parse(&said).filter(|_| ended.is_ok_and(|ended| ended.code == Some(0))) {
        Some(owners) => {
            durable::private_folder(mirror)?;
            let json = serde_json::to_vec(&owners).context("putting the names of owners into JSON")?;
            durable::write(&path, &json, 0o600)?;
            Ok(owners)
        }
        None => Ok(kept(&path)),
    }
}

/// What was kept; nothing when that can't be read, since names are only a help.
fn kept(path: &Path) -> Owners {
    fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

impl Owners {
    /// Drops names that no server could have.
    pub(super) fn retain_plain(&mut self) {
        self.users.retain(|_, name| is_plain(name));
        self.groups.retain(|_, name| is_plain(name));
    }

    /// From what the server says; none when that isn't both databases.
    fn parse(said: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(said);
        let (users, groups) = text.split_once("\n:\n")?;
        let owners = Self { users: names(users), groups: names(groups) };
        (!owners.users.is_empty() && !owners.groups.is_empty()).then_some(owners)
    }
}

fn is_plain(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The first name of each number.
fn names(database: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in database.lines() {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next(), fields.next(), fields.next());
        let number = number.and_then(|number| number.parse::<u32>().ok());
        let name = name.filter(|name| is_plain(name));
        if let (Some(name), Some(number)) = (name, number) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::Owners;

    #[test]
    fn both_databases_are_read_and_what_is_odd_in_them_is_left_out() {
        let said = "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\nwww\x1b:x:33:33::/:\n:x:5:5::/:\nbad\nanna:x:1000:1000::/:\n:\nroot:x:0:\nstaff:x:50:anna,bert\n";
        let owners = Owners::parse(said.as_bytes()).unwrap();
        assert_eq!(owners.users, [(0, "root".to_owned()), (1000, "anna".to_owned())].into());
        assert_eq!(owners.groups, [(0, "root".to_owned()), (50, "staff".to_owned())].into());
        for nothing in ["", "root:x:0:0::/:/bin/sh\n", "\n:\nroot:x:0:\n", "This account is for rsync only.\n"] {
            assert_eq!(Owners::parse(nothing.as_bytes()), None);
        }
    }
}
