//! JSON lines: one object a line, for programs.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::digest::hex;

/// One line, with its end.
pub fn line(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value).context("putting a line into JSON")? + "\n")
}

/// A name inside a snapshot, as in the index: as text, or where it isn't UTF-8, its bytes in hexadecimal.
#[derive(Debug, Serialize)]
pub struct Name {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl Name {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { path: Some(text.to_owned()), path_hex: None },
            Err(_) => Self { path: None, path_hex: Some(hex(bytes)) },
        }
    }
}
