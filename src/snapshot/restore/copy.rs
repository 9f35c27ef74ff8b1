//! A file's content, from the archive to its place, hashed on its way.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use openssl::sha::Sha256;

use crate::snapshot::restore::entries::Described;
use crate::stop::Stop;

/// How copying a content ended.
pub(super) enum Copied {
    /// All of it is there, with this SHA-256.
    Whole([u8; 32]),
    /// The archive can't be read on, and why.
    Broken(String),
}

/// Copies a content, with holes where it has some. The error is one of writing, or a stop.
pub(super) fn copy(
    content: &mut dyn Read,
    described: &Described,
    file: &mut File,
    buffer: &mut [u8],
    stop: &Stop,
) -> Result<Copied> {
    let whole = [0..described.entry.size];
    let mut sha256 = Sha256::new();
    for stretch in described.sparse.as_deref().unwrap_or(&whole) {
        let mut at = stretch.start;
        while at < stretch.end {
            stop.check()?;
            let most = usize::try_from(stretch.end - at).unwrap_or(usize::MAX).min(buffer.len());
            match content.read(&mut buffer[..most]) {
                Ok(0) => return Ok(Copied::Broken(format!("{} bytes of a file are missing", stretch.end - at))),
                Ok(length) => {
                    sha256.update(&buffer[..length]);
                    file.write_all_at(&buffer[..length], at)?;
                    at += length as u64;
                }
                Err(error) => {
                    stop.check()?;
                    return Ok(Copied::Broken(error.to_string()));
                }
            }
        }
    }
    if described.sparse.is_some() {
        file.set_len(described.entry.size)?;
    }
    Ok(Copied::Whole(sha256.finish()))
}
