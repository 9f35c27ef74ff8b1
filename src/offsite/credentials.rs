//! The access key of the store.

use std::path::Path;

use anyhow::{Result, bail};
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
    let AccessKey { access_key_id, secret_access_key } = credentials::read(path)?;
    if access_key_id.is_empty() || secret_access_key.is_empty() {
        bail!("reading the credentials {}: a line is empty", path.display());
    }
    Ok(Credentials::new(access_key_id, secret_access_key, None, None, "vaultberry"))
}
