//! The access key of the store.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use aws_sdk_s3::config::Credentials;
use serde::Deserialize;

use crate::credentials;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessKey {
    access_key_id: String,
    secret_access_key: String,
}

/// Reads the two lines of the file `path`. What the SDK keeps of them it overwrites when it goes.
pub fn read(path: &Path) -> Result<Credentials> {
    let AccessKey { access_key_id, secret_access_key } = key(path)
        .map_err(|error| anyhow!("{error:#}\nhint: it has two lines: access_key_id = \"…\" and secret_access_key = \"…\""))?;
    Ok(Credentials::new(access_key_id, secret_access_key, None, None, "vaultberry"))
}

fn key(path: &Path) -> Result<AccessKey> {
    let key = credentials::read::<AccessKey>(path)?;
    if key.access_key_id.is_empty() || key.secret_access_key.is_empty() {
        bail!("reading the credentials {}: a line is empty", path.display());
    }
    // It stands in a header of each request, as it is.
    if !key.access_key_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "reading the credentials {}: access_key_id has something else in it than ASCII letters, digits and signs",
            path.display()
        );
    }
    if key.secret_access_key.trim() != key.secret_access_key || key.secret_access_key.contains(char::is_control) {
        bail!(
            "reading the credentials {}: secret_access_key has a blank at an end, or a control character in it",
            path.display()
        );
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::read;

    fn outcome(id: &str, secret: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s3");
        fs::write(&path, format!("access_key_id = {id:?}\nsecret_access_key = {secret:?}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        read(&path).map(drop).map_err(|error| format!("{error:#}").replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn what_could_not_stand_in_a_request_is_refused_and_not_shown() {
        outcome("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap();
        for id in ["a\nb", "AKID ", "a\tb", "AKIDé"] {
            let error = outcome(id, "secret").unwrap_err();
            assert!(error.starts_with("reading the credentials FILE: access_key_id has something else in it"), "{error}");
            assert!(!error.contains(id), "{error}");
        }
        for secret in ["hunter2\n", " hunter2", "hun\nter2"] {
            let error = outcome("AKID", secret).unwrap_err();
            assert!(error.starts_with("reading the credentials FILE: secret_access_key has a blank"), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        }
        assert!(outcome("", "x").unwrap_err().starts_with("reading the credentials FILE: a line is empty\nhint: "));
    }
}
