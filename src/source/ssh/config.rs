//! The files that ssh is told everything by: its configuration, the pinned keys, the copy of the key to log in with.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{ALIVE_SECONDS, CONNECT_TIMEOUT};
use crate::config::Source;
use crate::sandbox::Cell;
use crate::secret::Secret;

/// Source, host and port, as messages name them.
pub(super) fn place(source: &Source) -> String {
    let Source { name, host, port, user, .. } = source;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let jump = source.jump.as_ref().map(|jump| format!(" by way of {}", jump.host)).unwrap_or_default();
    format!("{name} ({user}@{host}:{port}{jump})")
}

/// Puts all that ssh needs into `cell`, the key too, and gives its configuration's name.
///
/// # Errors
/// Something can't be written.
pub fn prepare(source: &Source, key: &Secret<Vec<u8>>, cell: &Cell) -> Result<PathBuf> {
    copy_key(key, cell)?;
    configure(source, cell)
}

/// The key that `source` is logged in at with.
///
/// # Errors
/// There is none.
pub fn read_key(source: &Source) -> Result<Secret<Vec<u8>>> {
    let identity = &source.identity;
    match fs::read(identity) {
        Ok(content) => Ok(Secret::new(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "connecting to {}: there is no key {}\nhint: `vaultberry source key` makes it and shows the line for the server's \
             authorized_keys",
            place(source),
            identity.display()
        ),
        Err(error) => Err(error).with_context(|| format!("reading the key {}", identity.display())),
    }
}

/// Writes ssh's configuration and the pinned keys, and gives the former's name.
pub(super) fn configure(source: &Source, cell: &Cell) -> Result<PathBuf> {
    let known_hosts = cell.file("known_hosts", known_hosts_text(source).as_bytes())?;
    cell.file("config", &config_text(source, &known_hosts, &cell.folder().join(KEY))?)
}

/// The name of the key's copy.
const KEY: &str = "key";

/// Writes the key to where ssh can read it, for as long as that has to.
pub(super) fn copy_key(key: &Secret<Vec<u8>>, cell: &Cell) -> Result<PathBuf> {
    cell.file(KEY, key.expose())
}

/// What stands for the jump host of `source` in files. No source has a dot in its name.
fn jump_alias(source: &Source) -> String {
    format!("{}.jump", source.name)
}

/// One line a pinned key. They stand under the source's name (`HostKeyAlias`), which spares the forms that `known_hosts` has
/// for ports and IPv6 addresses.
fn known_hosts_text(source: &Source) -> String {
    let own = source.host_keys.iter().map(|key| (source.name.clone(), key));
    let jump = source.jump.iter().flat_map(|jump| &jump.host_keys).map(|key| (jump_alias(source), key));
    own.chain(jump).fold(String::new(), |text, (name, key)| text + &format!("{name} {}\n", key.trim()))
}

/// The whole client configuration (`ssh_config(5)`).
fn config_text(source: &Source, known_hosts: &Path, key: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut host = |alias: &str, name: &str, user: &str, port: u16| -> Result<()> {
        text.extend_from_slice(format!("Host {alias}\nHostKeyAlias {alias}\nPort {port}\n").as_bytes());
        text.extend(setting(source, "HostName", name.as_ref())?);
        text.extend(setting(source, "User", user.as_ref())?);
        Ok(())
    };
    host(&source.name, &source.host, &source.user, source.port)?;
    if let Some(jump) = &source.jump {
        let alias = jump_alias(source);
        host(&alias, &jump.host, &jump.user, jump.port)?;
        text.extend_from_slice(format!("Host {}\nProxyJump {alias}\n", source.name).as_bytes());
    }
    text.extend_from_slice(
        format!(
            "Host *\n\
             GlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\n\
             UpdateHostKeys no\n\
             VerifyHostKeyDNS no\n\
             CheckHostIP no\n\
             CanonicalizeHostname no\n\
             IdentitiesOnly yes\n\
             IdentityAgent none\n\
             PreferredAuthentications publickey\n\
             ForwardAgent no\n\
             ForwardX11 no\n\
             ClearAllForwardings yes\n\
             PermitLocalCommand no\n\
             RequestTTY no\n\
             EscapeChar none\n\
             Compression no\n\
             ConnectTimeout {}\n\
             ServerAliveInterval {ALIVE_SECONDS}\n\
             LogLevel ERROR\n",
            CONNECT_TIMEOUT.as_secs()
        )
        .as_bytes(),
    );
    text.extend(setting(source, "UserKnownHostsFile", known_hosts.as_os_str())?);
    text.extend(setting(source, "IdentityFile", key.as_os_str())?);
    Ok(text)
}

/// A line of the configuration, its value quoted.
fn setting(source: &Source, key: &str, value: &OsStr) -> Result<Vec<u8>> {
    let mut text = format!("{key} \"").into_bytes();
    for &byte in value.as_bytes() {
        match byte {
            // ssh would read a further setting from it; nothing stands for it inside quotes
            b'\n' | b'\r' | 0 => bail!("connecting to {}: its {key} has a line end in it", place(source)),
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            // `%` begins a token, except in user names
            b'%' if key != "User" => text.extend_from_slice(b"%%"),
            _ => text.push(byte),
        }
    }
    text.extend_from_slice(b"\"\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{config_text, known_hosts_text, place};
    use crate::config::{Jump, Source, sample};

    fn source() -> Source {
        Source {
            host: "fe80::1%eth0".into(),
            port: 2222,
            host_keys: vec!["ssh-ed25519 AAAA1".into(), "ssh-rsa AAAA2 comment".into()],
            ..sample::source("web")
        }
    }

    #[test]
    fn pinned_keys_stand_under_the_sources_name() {
        assert_eq!(known_hosts_text(&source()), "web ssh-ed25519 AAAA1\nweb ssh-rsa AAAA2 comment\n");
    }

    #[test]
    fn values_are_quoted_and_tokens_taken_literally() {
        let text = |source: &Source| {
            let text = config_text(source, Path::new("/tmp/100%/known"), Path::new("/tmp/a \"b\"/key"));
            text.map(|text| String::from_utf8(text).unwrap())
        };
        let plain = text(&source()).unwrap();
        let begin = "Host web\nHostKeyAlias web\nPort 2222\nHostName \"fe80::1%%eth0\"\nUser \"backup\"\nHost *\n";
        assert!(plain.starts_with(begin), "{plain}");
        let end = "\nUserKnownHostsFile \"/tmp/100%%/known\"\nIdentityFile \"/tmp/a \\\"b\\\"/key\"\n";
        assert!(plain.ends_with(end), "{plain}");
        let evil = Source { host: "a\nProxyCommand evil".into(), ..source() };
        assert!(text(&evil).unwrap_err().to_string().contains("its HostName has a line end in it"));
    }

    #[test]
    fn a_jump_host_has_a_name_and_keys_of_its_own() {
        let jump = Jump { host: "gate".into(), port: 22, user: "hop".into(), host_keys: vec!["ssh-ed25519 AAAA3".into()] };
        let source = Source { jump: Some(jump), ..source() };
        let text = String::from_utf8(config_text(&source, Path::new("/k"), Path::new("/i")).unwrap()).unwrap();
        let part = "Host web.jump\nHostKeyAlias web.jump\nPort 22\nHostName \"gate\"\nUser \"hop\"\nHost web\nProxyJump web.jump\nHost *\n";
        assert!(text.contains(part), "{text}");
        assert!(known_hosts_text(&source).ends_with("\nweb.jump ssh-ed25519 AAAA3\n"));
        assert_eq!(place(&source), "web (backup@[fe80::1%eth0]:2222 by way of gate)");
    }
}
