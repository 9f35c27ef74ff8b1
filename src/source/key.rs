//! The appliance's ssh key: the private half never leaves the appliance, the public half is for the servers'
//! `authorized_keys`.
//!
//! It has no passphrase, since nobody is there at night to give one; what protects it is the encrypted root it lives on, and
//! that all it opens are unprivileged accounts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::config::Config;
use crate::durable::{self, sync_folder_of};
use crate::process;

/// The public halves of all keys that the sources of `config` use, a line each, each once. Makes those that aren't there.
pub fn ensure_all(config: &Config) -> Result<String> {
    let mut paths: Vec<&Path> = Vec::new();
    for source in &config.sources {
        if !paths.contains(&source.identity.as_path()) {
            paths.push(&source.identity);
        }
    }
    let mut lines = String::new();
    for path in paths {
        lines.push_str(&ensure(path, &config.appliance.hostname)?);
        lines.push('\n');
    }
    Ok(lines)
}

/// Makes the ed25519 key pair `path` and `path.pub` if there is no file `path`, and gives the public half as one line of an
/// `authorized_keys` file. `host` names the appliance in the key's comment. An existing key is never replaced.
pub fn ensure(path: &Path, host: &str) -> Result<String> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        make(path, host)?;
    }
    public(path)
}

/// The public half, from the private one: a `.pub` beside it may be another key's, or missing.
fn public(path: &Path) -> Result<String> {
    let doing = format!("reading the public half of {}", path.display());
    // An empty passphrase given: ssh-keygen must not ask on the terminal for that of a key that has one.
    let line = process::output(Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(path), &doing)?;
    let line = String::from_utf8(line).with_context(|| doing)?;
    Ok(line.trim_end().to_owned())
}

fn make(path: &Path, host: &str) -> Result<()> {
    let doing = format!("making the ssh key {}", path.display());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{doing}: that is no name for a file");
    };
    if !folder.exists() {
        durable::private_folder(folder).with_context(|| doing.clone())?;
    }
    // A folder that is removed with everything in it when this ends early. One that a power cut leaves is a stray key
    // that nobody trusts: no server was ever given its public half.
    let workshop = tempfile::Builder::new()
        .prefix(".new-key-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(folder)
        .with_context(|| doing.clone())?;
    let made = workshop.path().join(name);
    let mut generate = Command::new("ssh-keygen");
    generate.args(["-q", "-t", "ed25519", "-N", "", "-C"]).arg(format!("vaultberry@{host}")).arg("-f").arg(&made);
    process::run(&mut generate, &doing)?;
    for file in [&made, &made.with_added_extension("pub")] {
        fs::File::open(file).and_then(|file| file.sync_all()).with_context(|| doing.clone())?;
    }
    // The public half goes first, so that a private half in its place means that both are there; and the private half
    // goes only where nothing is, since another process may have made one meanwhile, and servers may trust it by now.
    fs::rename(made.with_added_extension("pub"), path.with_added_extension("pub")).with_context(|| doing.clone())?;
    match renameat2(AT_FDCWD, &made, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => sync_folder_of(path),
        Err(Errno::EEXIST) => bail!("{doing}: it was made by another process meanwhile\nhint: run the command again"),
        Err(errno) => Err(errno).context(doing),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::ensure;

    #[test]
    fn a_key_is_made_once_and_its_public_half_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ssh/id_ed25519");
        let line = ensure(&path, "berry").unwrap();
        assert!(line.starts_with("ssh-ed25519 AAAA") && line.ends_with(" vaultberry@berry") && !line.contains('\n'), "{line}");
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("ssh"))), (0o600, 0o700));
        assert_eq!(fs::read_to_string(folder.path().join("ssh/id_ed25519.pub")).unwrap().trim_end(), line);

        let private = fs::read(&path).unwrap();
        assert_eq!(ensure(&path, "other").unwrap(), line);
        assert_eq!(fs::read(&path).unwrap(), private);
        assert_eq!(fs::read_dir(folder.path().join("ssh")).unwrap().count(), 2, "nothing temporary is left");
    }

    #[test]
    fn a_public_half_without_its_private_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        fs::write(folder.path().join("id.pub"), "ssh-ed25519 AAAAleftover").unwrap();
        let line = ensure(&path, "berry").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("id.pub")).unwrap().trim_end(), line);
    }

    #[test]
    fn a_file_that_is_no_key_is_left_alone_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        fs::write(&path, "no key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = ensure(&path, "berry").unwrap_err().to_string();
        assert!(error.starts_with(&format!("reading the public half of {}: `ssh-keygen` ended with", path.display())), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "no key");
    }
}
