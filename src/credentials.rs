//! Passwords and access keys: small TOML files on the appliance that only root can read.
//!
//! Nothing that stands in such a file gets into an error: the parser's own words would quote it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Two lines of it are used; what is larger was named by mistake.
const LARGEST: usize = 64 << 10;

/// Reads the file `path`, which nobody but its owner may have rights on. What was read is overwritten in memory; seeing to
/// the result is the business of its type, which should deny unknown fields too.
///
/// # Errors
/// Names the file, and the line where that is known, but nothing of the content.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("opening the credentials {shown}"))?;
    let mode = file.metadata().with_context(|| format!("looking at the credentials {shown}"))?.mode();
    if mode & 0o077 != 0 {
        bail!("the credentials {shown} can be read or changed by others than their owner\nhint: chmod 600 {shown}");
    }
    // All the room at once: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    let reading = || format!("reading the credentials {shown}");
    (&mut file).take(LARGEST as u64 + 1).read_to_end(&mut content).with_context(reading)?;
    if content.len() > LARGEST {
        bail!("the credentials {shown} are larger than {LARGEST} bytes");
    }
    let Ok(text) = str::from_utf8(&content) else { bail!("the credentials {shown} are no UTF-8 text") };
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or(text.len(), |span| span.start.min(text.len()));
        let line = text.as_bytes()[..place].split(|byte| *byte == b'\n').count();
        anyhow::anyhow!("the credentials {shown} aren't what they should be, line {line}")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use serde::Deserialize;

    use super::read;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Login {
        user: String,
        password: String,
    }

    fn attempt(text: &str, mode: u32) -> Result<Login, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("smtp");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&path).map_err(|error| format!("{error:#}").replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn a_file_of_its_owner_alone_is_read() {
        let login = Login { user: "me".into(), password: "hunter2".into() };
        assert_eq!(attempt("user = \"me\"\npassword = \"hunter2\"\n", 0o600), Ok(login));
    }

    #[test]
    fn a_file_for_others_too_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o602] {
            let expected = "the credentials FILE can be read or changed by others than their owner\nhint: chmod 600 FILE";
            assert_eq!(attempt("user = \"me\"\npassword = \"hunter2\"\n", mode).unwrap_err(), expected);
        }
    }

    #[test]
    fn errors_name_the_line_and_show_nothing_of_it() {
        for (text, line) in [
            ("user = \"me\"\npassword = hunter2\n", 2),
            ("user = \"me\"\npassword = \"hunter2\"\nhunter2 = 1\n", 3),
            ("user = \"me\"\npassword = [\"hunter2\"]\n", 2),
            ("hunter2", 1),
        ] {
            assert_eq!(
                attempt(text, 0o600).unwrap_err(),
                format!("the credentials FILE aren't what they should be, line {line}")
            );
        }
        assert!(attempt("user = \"me\"\n", 0o600).is_err());
        assert_eq!(attempt(&"#".repeat((64 << 10) + 1), 0o600).unwrap_err(), "the credentials FILE are larger than 65536 bytes");
        assert!(read::<Login>(Path::new("/no/such/file")).is_err());
    }
}
