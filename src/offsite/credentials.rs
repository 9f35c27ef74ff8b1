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
    Ok(key)
}
