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
    /// What helps.
    pub hint: &'static str,
}

/// What helps when somebody else may have put it there.
pub const LOOK_WHO: &str =
    "look who else writes to the bucket; nothing is ever overwritten, and the next snapshot has a key of its own";

/// What helps when the store encrypts in a way that leaves no sum to prove by.
const ASK_FOR_SHA256: &str = "set [offsite] checksums = \"sha256\", or let the bucket encrypt with keys of the store's own (SSE-S3): of what \
                              is encrypted with a key of a service, the ETag is no MD5; the next snapshot has a key of its own";

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, why, hint } = self;
        write!(formatter, "{key} is in the store, and isn't proven to be what was sealed: {why}\nhint: {hint}")
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
        // A run may have ended between its last part and this.
        multipart::sweep(store, pending, part).await;
        return prove(&key, &file, &file.proven_sums(&store.stop)?, &said);
    }
    let sums = if file.sum.size <= file.piece {
        whole(store, &key, part, &file, progress).await?
    } else {
        multipart::bring(store, outbox, pending, part, &file, progress).await?
    };
    multipart::sweep(store, pending, part).await;
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
    let hint = if said.size == file.sum.size && said.sha256.is_none() && said.foreign_key { ASK_FOR_SHA256 } else { LOOK_WHO };
    proven.map_err(|error| Taken { key: key.to_owned(), why: format!("{error:#}"), hint }.into())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use openssl::sha::sha256;

    use super::prove;
    use crate::digest::Sum;
    use crate::offsite::proof::Said;
    use crate::offsite::seal::Sealed;

    #[test]
    fn a_store_that_encrypts_with_a_key_of_a_service_is_not_taken_for_an_intruder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealed");
        fs::write(&path, "sealed").unwrap();
        let sum = Sum { size: 6, sha256: sha256(b"sealed") };
        let file = Sealed { path, sum, piece: 10 };
        let said = Said { size: 6, etag: Some("5f2c".into()), foreign_key: true, ..Said::default() };
        let told = |said: &Said| prove("key", &file, &[sum.sha256], said).unwrap_err().to_string();
        assert!(told(&said).contains("encrypts with a key of a service (SSE-KMS): its ETag proves nothing\nhint: set [offsite]"));
        assert!(told(&Said { foreign_key: false, ..said.clone() }).contains("5f2c\nhint: look who else writes"));
        // A sum proves it all the same.
        let sha256 = Some(crate::offsite::proof::sha256_base64(&sum.sha256));
        prove("key", &file, &[sum.sha256], &Said { sha256, ..said }).unwrap();
    }
}
