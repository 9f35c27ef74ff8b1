//! The content of a sealed object, from the store, checked against its commit object.
//!
//! A connection that breaks in the midst of it is made anew, and goes on where it was: only of the very same object
//! (`If-Match`), as long as something still comes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use openssl::sha::Sha256;
use tokio::time::sleep;

use super::commit::Object;
use super::store::Store;
use super::trouble::broken;
use crate::digest::hex;

/// How often in a row a connection may break without a byte between.
const TRIES: u32 = 5;

/// How long is waited after the first of them; each time twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives all of `object` to `take`, block by block, and how much came so far.
///
/// # Errors
/// It isn't there, or isn't what the commit object says; what was taken is worth nothing then. Or `take` failed, or a stop
/// was asked for.
pub async fn read(store: &Store, object: &Object, take: &mut (dyn FnMut(&[u8], u64) -> Result<()> + Send)) -> Result<()> {
    let fetching = || format!("fetching {}", object.key);
    let (mut sha256, mut done, mut failed, mut etag) = (Sha256::new(), 0, 0, None);
    while done < object.size || done == 0 {
        let (mut body, found) = store.open(&object.key, done, etag.as_deref()).await?;
        etag = etag.or(found);
        let before = done;
        let ended = loop {
            match store.wait(body.next()).await? {
                None => break None,
                Some(Err(error)) => break Some(broken(&error)),
                Some(Ok(bytes)) => {
                    done += bytes.len() as u64;
                    // A store shall not fill the disk.
                    if done > object.size {
                        bail!("{} has more than the {} bytes that were proven: it was changed", object.key, object.size);
                    }
                    sha256.update(&bytes);
                    take(&bytes, done)?;
                }
            }
        };
        match ended {
            None => break,
            Some(error) => {
                failed = if done > before { 1 } else { failed + 1 };
                if failed >= TRIES || etag.is_none() {
                    return Err(error).with_context(fetching);
                }
                tracing::warn!("{}: {error:#}: going on at byte {done}", fetching());
                store.wait(sleep(PAUSE * 2_u32.pow(failed))).await?;
            }
        }
    }
    if done != object.size || hex(&sha256.finish()) != object.sha256 {
        bail!("{} isn't what was proven to be there: it was changed or cut short", object.key);
    }
    Ok(())
}
