//! Bringing a sealed file into the store: in one piece when it is small, in parts when it isn't, and never over what is
//! there. The store is asked before and after: what is there already needn't be sent, and what isn't there afterwards
//! didn't arrive.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::body;
use super::multipart::{self, CONTENT_TYPE, storage_class, time_for};
use super::outbox::Outbox;
use super::pending::{Part, Pending};
use super::pieces::{Piece, pieces};
use super::proof::{Marks, Said, etag};
use super::seal::Sealed;
use super::store::{Store, patience};
use crate::progress::Progress;

/// Something else stands where an object belongs.
#[derive(Debug)]
pub struct Taken {
    /// Its key.
    pub key: String,
    /// How it is something else.
    pub why: String,
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, why } = self;
        write!(
            formatter,
            "{key} is in the store, and isn't proven to be what was sealed: {why}\n\
             hint: look who else writes to the bucket; nothing is ever overwritten, and the next snapshot has a key of its own"
        )
    }
}

impl std::error::Error for Taken {}

/// Makes sure that the sealed file of `part` is in the store, and proves it.
///
/// # Errors
/// It isn't, or a stop was asked for; [`Taken`] when something else is there.
pub async fn upload(store: &Store, outbox: &Outbox, pending: &mut Pending, part: Part, progress: &Progress) -> Result<()> {
    let key = pending.object(part).key.clone();
    let file = pending.sealed(part, outbox.folder())?;
    if let Some(said) = store.head(&key).await? {
        return prove(&key, &file, &file.proven_sums(&store.stop)?, &said);
    }
    let sums = if file.sum.size <= file.piece {
        whole(store, &key, part, &file, progress).await?
    } else {
        multipart::bring(store, outbox, pending, part, &file, progress).await?
    };
    let said = store.head(&key).await?;
    prove(&key, &file, &sums, &said.with_context(|| format!("proving that {key} has arrived: the store doesn't have it"))?)
}

/// Makes sure that what the store says of `key` is what it would say of the file, whose pieces have these sums.
fn prove(key: &str, file: &Sealed, sums: &[[u8; 32]], said: &Said) -> Result<()> {
    let etag = || {
        let md5s: Result<Vec<[u8; 16]>> = pieces(file.sum.size, file.piece).map(|piece| piece.md5(&file.path)).collect();
        etag(&md5s?)
    };
    let proven = Marks::of(&file.sum, sums).prove(said, etag);
    proven.map_err(|error| Taken { key: key.to_owned(), why: format!("{error:#}") }.into())
}

/// Sends the file in one piece, and gives its sum as the only one of its pieces.
async fn whole(store: &Store, key: &str, part: Part, file: &Sealed, progress: &Progress) -> Result<Vec<[u8; 32]>> {
    let content = File::open(&file.path).with_context(|| format!("reading {}", file.path.display()))?;
    let (content, piece) = (Arc::new(content), Piece { number: 1, offset: 0, length: file.sum.size });
    let sums = store.sums(&file.sum.sha256, || piece.md5(&file.path))?;
    // An MD5 is of the bytes of today: it counts only when they are still those that were sealed.
    let proven = file.proven_sums(&store.stop)?;
    store
        .put_where_none_is(key, |pulse| {
            let request = store.client.put_object().content_type(CONTENT_TYPE).set_storage_class(storage_class(store, part));
            let request = request
                .set_checksum_sha256(sums.sha256.clone())
                .set_content_md5(sums.md5.clone())
                .set_checksum_algorithm(sums.algorithm());
            let request = request.body(body::of(&content, piece, store.pace.as_ref(), pulse));
            (request, patience(time_for(store, piece.length)))
        })
        .await
        .with_context(|| format!("uploading {key}"))?;
    progress.say("sending", file.sum.size, Some(file.sum.size));
    Ok(proven)
}
