//! `[[source]]`: the servers to pull from, and the rules between them.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::dumps;
use super::error::{Fault, show};
use super::read::{Element, Report, Section, Value};
use super::section::distinct;
use super::{Backup, Files, Jump, Source, keep, name, place, public_key, schema, value};

/// Reads every source, of an appliance that backs up as `backup` says.
pub(super) fn sources<'a>(report: &mut Report<'_>, root: &'a DeTable<'a>, backup: &Backup) -> Vec<Source> {
    let head = schema::SOURCE.head();
    let hint = format!("begin each source with {head}, followed by name, host, user, host_keys and paths");
    let Some(value) = root.get(schema::SOURCE.name) else {
        report.add_if_whole(&(0..0), schema::SOURCE.name, Fault::new("there is no server to pull from", hint));
        return Vec::new();
    };
    let elements = match value.get_ref() {
        DeValue::Array(elements) => elements,
        DeValue::Table(_) => {
            let fault = Fault::new("must have double brackets, so that there can be several", format!("write {head}"));
            report.add(&value.span(), schema::SOURCE.name, fault);
            return Vec::new();
        }
        _ => {
            report.add(&value.span(), schema::SOURCE.name, Fault::new("must be a section", hint));
            return Vec::new();
        }
    };
    if elements.is_empty() {
        report.add_if_whole(&value.span(), schema::SOURCE.name, Fault::new("there is no server to pull from", hint));
    }
    let mut before = Before::default();
    elements.iter().enumerate().filter_map(|(index, element)| source(report, element, index + 1, backup, &mut before)).collect()
}

/// What the sources before one have taken, with their numbers.
#[derive(Default)]
struct Before {
    names: Vec<(String, usize)>,
    accounts: Vec<Account>,
}

struct Account {
    host: Option<String>,
    port: u16,
    user: String,
    gate: bool,
    number: usize,
}

/// Reads one source; none if a part of it is missing or wrong.
fn source(report: &mut Report<'_>, element: Value<'_>, number: usize, backup: &Backup, before: &mut Before) -> Option<Source> {
    let section = Section::nth(report, element, &schema::SOURCE, number)?;
    let name = section.required(report, "name", |text| {
        let name = name::source_name(text)?;
        if let Some((_, other)) = before.names.iter().find(|(known, _)| *known == name) {
            let message = format!("{} is the name of source[{other}] already", show(text));
            return Err(Fault::new(message, "give each source a name of its own; it names folders"));
        }
        before.names.push((name.clone(), number));
        Ok(name)
    });
    let host = section.required(report, "host", name::host);
    let port = section.number(report, "port", 22, 1..=u16::MAX).value;
    let gate = section.flag(report, "gate", false).value;
    let user = section.required(report, "user", |text| {
        let user = name::source_user(text)?;
        let account = Account { host: host.clone(), port, user: user.clone(), gate, number };
        let shared = |other: &&Account| (&other.host, other.port, &other.user) == (&account.host, port, &user);
        if let Some(other) = before.accounts.iter().filter(|other| gate || other.gate).find(shared) {
            let other = other.number;
            let message = format!("{} is the account of source[{other}] too, and a gate serves one source", show(text));
            return Err(Fault::new(message, "give each of the two an account of its own on that server"));
        }
        before.accounts.push(account);
        Ok(user)
    });
    let identity = section.text(report, "identity", backup.state.join("ssh/id_ed25519"), place::identity).value;
    let host_keys = section.required_list(report, "host_keys", public_key::host).value;
    let host_keys = distinct(report, host_keys);
    let jump = jump(report, &section);
    let retries = section.number(report, "retries", 3, 0..=10).value;
    let bandwidth = section.text(report, "bandwidth", None, |text| value::size_from(text, 16 << 10).map(Some)).value;
    let quota = section.text(report, "quota", None, |text| value::size_from(text, 1 << 20).map(Some)).value;
    let postgresql = section.list(report, "postgresql", name::databases);
    let dumps = dumps::dumps(report, &section, &postgresql);
    let paths = section.list(report, "paths", place::remote);
    let nothing = postgresql.value.is_empty() && paths.value.is_empty() && !dumps.is_any();
    if nothing && postgresql.sound() && paths.sound() {
        let hint = "add paths = [\"/srv\", \"/home\"], or postgresql = [\"wiki\"], or both";
        report.add_if_whole(&paths.at, section.path("paths"), Fault::new("there is nothing to save", hint));
    }
    let postgresql = distinct(report, postgresql.value);
    let paths = disjoint(report, paths.value);
    let files = files(report, &section, &paths);
    let keep = section.any(report, "keep", backup.keep, keep::keep).value;
    Some(Source {
        name: name?,
        host: host?,
        port,
        user: user?,
        identity,
        host_keys,
        jump,
        gate,
        retries,
        bandwidth,
        quota,
        postgresql,
        dumps,
        paths,
        files,
        keep,
    })
}

/// The host on the way, with its keys; neither goes without the other.
fn jump(report: &mut Report<'_>, section: &Section<'_>) -> Option<Jump> {
    let jump = section.text(report, "jump", None, |text| name::user_at_host(text).map(Some));
    let keys = section.list(report, "jump_host_keys", public_key::host);
    if jump.value.is_some() && keys.sound() && keys.value.is_empty() {
        let hint = "write jump_host_keys = [\"ssh-ed25519 AAAA…\"]; `vaultberry source trust` shows them";
        report.add(&jump.at, section.path("jump"), Fault::new("needs the keys that prove the host", hint));
    }
    if jump.value.is_none() && jump.sound() && !keys.value.is_empty() {
        let fault =
            Fault::new("there is no host that they could belong to", "add jump = \"backup@gate.example.org\", or remove this");
        report.add(&keys.at, section.path("jump_host_keys"), fault);
    }
    let host_keys = distinct(report, keys.value);
    jump.value.map(|(user, host, port)| Jump { user, host, port, host_keys })
}

/// How the paths are pulled.
fn files(report: &mut Report<'_>, section: &Section<'_>, paths: &[PathBuf]) -> Files {
    let exclude = section.list(report, "exclude", name::pattern).value;
    for Element { value, path, at } in &exclude {
        let below = |path: &PathBuf| Path::new(value).strip_prefix(path).is_ok_and(|rest| !rest.as_os_str().is_empty());
        if value.starts_with('/') && !paths.is_empty() && !paths.iter().any(below) {
            let hint = "begin it with one of the paths, as in \"/srv/cache\" for \"/srv\"; without a slash it counts anywhere";
            report.add(at, path.clone(), Fault::new("lies below none of the paths, and would leave out nothing", hint));
        }
    }
    let sentinels = section.list(report, "sentinels", place::absolute).value;
    Files {
        exclude: distinct(report, exclude),
        largest: section.text(report, "largest_file", None, |text| value::size(text).map(Some)).value,
        one_file_system: section.flag(report, "one_file_system", false).value,
        sentinels: sentinels.into_iter().map(|element| element.value).collect(),
        max_deletions: section.number(report, "max_deletions", 20, 0..=100).value,
    }
}

/// The paths without those that stand twice or overlap, which are reported: they would be pulled twice, and deleted by
/// one pass what the other has brought.
fn disjoint(report: &mut Report<'_>, elements: Vec<Element<PathBuf>>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for Element { value, path, at } in elements {
        let text = |path: &Path| show(&path.to_string_lossy());
        let clash = paths.iter().find(|known| value.starts_with(known) || known.starts_with(&value));
        let fault = match clash {
            None => {
                paths.push(value);
                continue;
            }
            Some(known) if *known == value => {
                Fault::new(format!("{} stands twice in this list", text(known)), "keep one of the two")
            }
            Some(known) if value.starts_with(known) => {
                Fault::new(format!("{} lies inside {}, which is saved already", text(&value), text(known)), "leave it out")
            }
            Some(known) => Fault::new(
                format!("{} holds {}, which is saved already", text(&value), text(known)),
                format!("leave out {}", text(known)),
            ),
        };
        report.add(&at, path, fault);
    }
    paths
}
