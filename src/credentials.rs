//! Files with a login in them: a few lines of TOML that only their owner may read.
//!
//! Nothing of what such a file holds gets into an error: not a value, and not a name that may be a value at a wrong place.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// A login is a few lines; a device or an image named by mistake shall not fill the memory.
const LARGEST: u64 = 64 << 10;

/// Reads the login in the file `path`. `T` says which lines there must be, and should deny all others.
///
/// # Errors
/// The file can't be read, others than its owner may read it, or its lines aren't those of `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let shown = path.display();
    let reading = || format!("reading the credentials {shown}");
    let file = open(path)?;
    let metadata = file.metadata().with_context(reading)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{}: others than its owner may read it\nhint: chmod 600 {shown}", reading());
    }
    // As long as it will ever be, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(metadata.len().min(LARGEST)).unwrap_or(0) + 1));
    file.take(LARGEST).read_to_string(&mut text).map_err(|_| anyhow!("{}: it isn't text", reading()))?;
    toml::from_str(&text).map_err(|error| anyhow!("{}: {}", reading(), told(&error, &text)))
}

/// Opens such a file, to be read. A pipe isn't waited for.
///
/// # Errors
/// There is none, or it isn't a regular file.
pub fn open(path: &Path) -> Result<File> {
    let reading = || format!("reading the credentials {}", path.display());
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).with_context(reading)?;
    if !file.metadata().with_context(reading)?.is_file() {
        bail!("{}: it isn't a file", reading());
    }
    Ok(file)
}

/// What is wrong, without a word of the file.
fn told(error: &toml::de::Error, text: &str) -> String {
    // Only this message consists of nothing but our own words.
    if error.message().starts_with("missing field") {
        return String::from(error.message());
    }
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {} isn't as it should be", before.matches('\n').count() + 1),
        None => String::from("its lines aren't as they should be"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde::Deserialize;

    use super::read;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Login {
        user: String,
        password: String,
    }

    /// What comes of a file with this text and these permission bits.
    fn outcome(text: &str, mode: u32) -> Result<Login, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&path).map_err(|error| format!("{error:#}").replace(path.to_str().unwrap(), "FILE"))
    }

    const GOOD: &str = "user = \"me\"\npassword = \"hunter2\"\n";

    #[test]
    fn two_lines_are_read() {
        let login = outcome(GOOD, 0o600).unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "hunter2"));
        assert!(outcome(GOOD, 0o400).is_ok());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_what_helps() {
        let refusal = "reading the credentials FILE: others than its owner may read it\nhint: chmod 600 FILE";
        for mode in [0o640, 0o604, 0o620, 0o601] {
            assert_eq!(outcome(GOOD, mode).unwrap_err(), refusal);
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read::<Login>(&path).unwrap_err().to_string();
        assert_eq!(error, format!("reading the credentials {}: it isn't a file", path.display()));
    }

    #[test]
    fn errors_show_nothing_of_the_file() {
        for (text, told) in [
            ("user = \"me\"\n", "missing field `password`"),
            ("user = \"me\"\nhunter2 = \"x\"\n", "line 2 isn't as it should be"),
            ("user = \"me\"\npassword = hunter2\n", "line 2 isn't as it should be"),
            ("user = \"me\"\npassword = [\"hunter2\"]\n", "line 2 isn't as it should be"),
            ("hunter2", "line 1 isn't as it should be"),
        ] {
            assert_eq!(outcome(text, 0o600).unwrap_err(), format!("reading the credentials FILE: {told}"));
        }
    }
}
