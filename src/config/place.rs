//! Absolute paths, on the appliance and on the servers.

use std::path::{Path, PathBuf};

use super::error::{Fault, show};

/// Linux's `PATH_MAX`, with its closing zero byte.
const LONGEST: usize = 4095;

/// Where dumps stand in a source's mirror and in its snapshots, as if it were a folder of the server.
const DUMPS: &str = "/dumps";

/// An absolute path in its shortest spelling, so that two paths are the same place when they are the same text.
pub(super) fn absolute(text: &str) -> Result<PathBuf, Fault> {
    let hint = "write it from the root on, as in \"/srv/data\"";
    if !text.starts_with('/') {
        return Err(Fault::new(format!("{} is not an absolute path", show(text)), hint));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new(
            format!("{} has a control character in it", show(text)),
            "rename the folder, or save the one above it",
        ));
    }
    if text.len() > LONGEST {
        return Err(Fault::new(format!("is longer than {LONGEST} bytes"), "write a shorter path"));
    }
    if text != "/" && text.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Err(Fault::new(format!("{} is not in its shortest form", show(text)), shortest_hint(text)));
    }
    Ok(PathBuf::from(text))
}

/// A folder on a server. Not the whole of it: `/proc`, `/sys` and `/dev` are no files to keep.
pub(super) fn remote(text: &str) -> Result<PathBuf, Fault> {
    let path = absolute(text)?;
    if text == "/" {
        return Err(Fault::new(
            "a whole root file system can't be saved",
            "name the folders that matter, as in \"/srv\", \"/home\"",
        ));
    }
    if path.starts_with(DUMPS) {
        return Err(Fault::new(
            format!("{DUMPS} is where the dumps of databases stand in a snapshot"),
            "have these files at another place on the server",
        ));
    }
    Ok(path)
}

/// A place on the appliance for files of its own.
pub(super) fn own(text: &str) -> Result<PathBuf, Fault> {
    let path = absolute(text)?;
    if text == "/" {
        return Err(Fault::new("the root folder holds the system itself", "write a folder of its own, as in \"/mnt/backup\""));
    }
    Ok(path)
}

/// The private key to log in with. The text isn't shown: a key pasted in place of its name must not be.
pub(super) fn identity(text: &str) -> Result<PathBuf, Fault> {
    if super::public_key::is_private(text) {
        return Err(Fault::new(
            "this is a private key itself, which must not stand in here",
            "take the key out of the file and make a new one; write only a path, as in \"/var/lib/vaultberry/ssh/id_ed25519\"",
        ));
    }
    let hint = "write the key's absolute path on the appliance, as in \"/var/lib/vaultberry/ssh/id_ed25519\"";
    if Path::new(text).extension().is_some_and(|extension| extension == "pub") {
        return Err(Fault::new("is the public half of a key", "write the path of the private half, without .pub"));
    }
    own(text).map_err(|_| Fault::new("is not an absolute path in its shortest form", hint))
}

/// A file with a password or an access key. The text isn't shown: it may be the password itself.
pub(super) fn credentials(text: &str) -> Result<PathBuf, Fault> {
    let hint = "write the absolute path of a root-only file on the appliance, as in \"/etc/vaultberry/credentials/s3\"";
    own(text).map_err(|_| Fault::new("is not an absolute path in its shortest form", hint))
}

/// `.`, `..` and doubled or closing slashes: says what the path comes to, unless that depends on links.
fn shortest_hint(text: &str) -> String {
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") || text.len() > 64 || text.contains('@') {
        String::from("write it without \"..\", \".\", doubled slashes and a slash at its end")
    } else {
        format!("write \"/{}\"", parts.join("/").escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{absolute, identity, own, remote};

    #[test]
    fn a_whole_server_is_refused_early() {
        assert_eq!(remote("/").unwrap_err().message, "a whole root file system can't be saved");
        assert_eq!(remote("/srv"), Ok(PathBuf::from("/srv")));
    }

    #[test]
    fn shortest_absolute_paths_pass() {
        for text in ["/", "/srv", "/srv/my data", "/srv/ünï", "/srv/.hidden", "/srv/..data", "/srv/a.b"] {
            assert_eq!(absolute(text), Ok(PathBuf::from(text)));
        }
        assert_eq!(own("/mnt/backup"), Ok(PathBuf::from("/mnt/backup")));
        assert_eq!(identity("/k/id_ed25519"), Ok(PathBuf::from("/k/id_ed25519")));
    }

    #[test]
    fn other_paths_are_refused_with_a_way_out() {
        for (text, message, hint) in [
            ("", "\"\" is not an absolute path", "write it from the root on, as in \"/srv/data\""),
            ("srv", "\"srv\" is not an absolute path", "write it from the root on, as in \"/srv/data\""),
            ("~/data", "\"~/data\" is not an absolute path", "write it from the root on, as in \"/srv/data\""),
            ("/srv/", "\"/srv/\" is not in its shortest form", "write \"/srv\""),
            ("//srv/./x", "\"//srv/./x\" is not in its shortest form", "write \"/srv/x\""),
            (
                "/srv/../etc",
                "\"/srv/../etc\" is not in its shortest form",
                "write it without \"..\", \".\", doubled slashes and a slash at its end",
            ),
            ("/a\nb", "\"/a\\nb\" has a control character in it", "rename the folder, or save the one above it"),
            ("/a\u{85}b", "\"/a\\u{85}b\" has a control character in it", "rename the folder, or save the one above it"),
        ] {
            let fault = absolute(text).unwrap_err();
            assert_eq!((fault.message.as_str(), fault.hint.as_deref()), (message, Some(hint)));
        }
        assert_eq!(absolute(&format!("/{}", "a".repeat(4095))).unwrap_err().message, "is longer than 4095 bytes");
        assert_eq!(own("/").unwrap_err().message, "the root folder holds the system itself");
    }

    #[test]
    fn an_identity_is_a_path_and_never_shown() {
        for (text, message) in [
            ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU", "this is a private key itself, which must not stand in here"),
            ("hunter2", "is not an absolute path in its shortest form"),
            ("/root/.ssh/id_ed25519.pub", "is the public half of a key"),
        ] {
            assert_eq!(identity(text).unwrap_err().message, message);
        }
    }
}
