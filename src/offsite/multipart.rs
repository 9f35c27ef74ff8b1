//! A sealed file on its way in parts, several at a time (S3's multipart upload).
//!
//! What has arrived the store is asked, so that an upload that was broken off goes on with the parts that are there. Each
//! part comes with its sum, by which the store checks it. An upload of ours that nobody knows of any more is thrown away;
//! those of others are left alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, EncodingType, Part as Listed, StorageClass};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::body::{self, Pulse};
use super::outbox::Outbox;
use super::pending::{Part, Parts, Pending};
use super::pieces::{Piece, pieces};
use super::proof::{etag, sha256_base64};
use super::seal::Sealed;
use super::store::{Store, Sums, decoded, patience};
use super::trouble::{self, Refusal};
use crate::config::Checksums;
use crate::progress::Progress;

/// The slowest line that is waited for, in bytes a second.
const SLOWEST: u64 = 16 << 10;

/// The last step may take so many times as long as others: an object has thousands of parts.
const COMPLETING: u32 = 10;

/// What all objects but commit objects are.
pub const CONTENT_TYPE: &str = "application/octet-stream";

/// Brings the sealed file of `part` to the store, but for what is there already, and gives the SHA-256 of each of its pieces.
///
/// # Errors
/// It didn't arrive as a whole, or a stop was asked for. What did arrive stays for the next try.
pub async fn bring(
    store: &Store,
    outbox: &Outbox,
    pending: &mut Pending,
    part: Part,
    file: &Sealed,
    progress: &Progress,
) -> Result<Vec<[u8; 32]>> {
    let key = pending.object(part).key.clone();
    let (id, there) = match resumed(store, outbox, pending, part).await? {
        Some(resumed) => resumed,
        None => (begin(store, outbox, pending, part).await?, BTreeMap::new()),
    };
    let (parts, sums) = send(store, &key, &id, file, there, progress).await?;
    complete(store, &key, &id, parts).await?;
    Ok(sums)
}

/// Throws away what is left when the object of `part` is there: a request to begin that was tried again may have begun two.
pub async fn sweep(store: &Store, pending: &Pending, part: Part) {
    let begun = pending.upload(part).parts.as_ref().map(|parts| Parts { foreign: parts.foreign.clone(), id: None });
    if let Err(error) = abort_all(store, &pending.object(part).key, begun.as_ref()).await {
        tracing::warn!("{error:#}");
    }
}

/// An upload's name in the store, and the parts that are there, by number.
type Resumed = (String, BTreeMap<i32, Listed>);

/// The upload that an earlier try has begun; none when there is none any more.
async fn resumed(store: &Store, outbox: &Outbox, pending: &mut Pending, part: Part) -> Result<Option<Resumed>> {
    let key = pending.object(part).key.clone();
    match pending.upload(part).parts.as_ref().map(|parts| parts.id.clone()) {
        None => return Ok(None),
        Some(Some(id)) => {
            if let Some(listed) = list(store, &key, &id).await? {
                tracing::info!("going on with the upload of {key}: {} parts are there", listed.len());
                return Ok(Some((id, listed.into_iter().filter_map(|part| Some((part.part_number()?, part))).collect())));
            }
            tracing::info!("the upload of {key} is no longer known to the store: it begins anew");
        }
        // Cut short before the store's answer was written down.
        Some(None) => abort_all(store, &key, pending.upload(part).parts.as_ref()).await?,
    }
    pending.upload_mut(part).parts = None;
    outbox.save(pending)?;
    Ok(None)
}

async fn begin(store: &Store, outbox: &Outbox, pending: &mut Pending, part: Part) -> Result<String> {
    let key = pending.object(part).key.clone();
    // Written down first: what is there now isn't ours, and what is there later and unknown is.
    let foreign = uploads(store, &key).await?;
    pending.upload_mut(part).parts = Some(Parts { foreign, id: None });
    outbox.save(pending)?;
    let request = store.client.create_multipart_upload().bucket(&store.bucket).key(&key).content_type(CONTENT_TYPE);
    let request = request.set_storage_class(storage_class(store, part));
    let algorithm = (store.offsite.checksums == Checksums::Sha256).then_some(ChecksumAlgorithm::Sha256);
    let begun = store.ask(format!("beginning the upload of {key}"), request.set_checksum_algorithm(algorithm).send()).await?;
    let id = begun.upload_id().with_context(|| format!("beginning the upload of {key}: the store gives it no id"))?;
    if let Some(parts) = &mut pending.upload_mut(part).parts {
        parts.id = Some(id.to_owned());
    }
    outbox.save(pending)?;
    Ok(id.to_owned())
}

/// The class of archives is for the owner to choose; indexes are small, and read more often than restored.
pub fn storage_class(store: &Store, part: Part) -> Option<StorageClass> {
    let class = store.offsite.storage_class.as_deref().filter(|_| part == Part::Archive);
    class.map(StorageClass::from)
}

/// Sends what isn't there, and gives all parts, and the sums of all pieces.
async fn send(
    store: &Store,
    key: &str,
    id: &str,
    file: &Sealed,
    there: BTreeMap<i32, Listed>,
    progress: &Progress,
) -> Result<(Vec<CompletedPart>, Vec<[u8; 32]>)> {
    let content = File::open(&file.path).with_context(|| format!("reading {}", file.path.display()))?;
    let (content, upload) = (Arc::new(content), Arc::new((key.to_owned(), id.to_owned())));
    let (summed, mut ahead) = mpsc::channel(1);
    // All of it is read once more, so that what has changed on the disk since it was sealed isn't committed.
    let summing = spawn_blocking({
        let (file, stop) = (file.clone(), store.stop.clone());
        move || file.sums(&stop, |sum| summed.blocking_send(sum).is_ok())
    });
    let mut rest = pieces(file.sum.size, file.piece).peekable();
    let (mut parts, mut sums, mut sent, mut in_flight) = (BTreeMap::new(), Vec::new(), 0, JoinSet::new());
    while rest.peek().is_some() || !in_flight.is_empty() {
        if in_flight.len() < usize::from(store.offsite.parallel)
            && let Some(piece) = rest.next()
        {
            // Without a sum the file has ended too early, or can't be read: the thread says which.
            let Some(sum) = store.wait(ahead.recv()).await? else { break };
            sums.push(sum);
            if let Some(part) = there.get(&piece.number).map(|listed| same(file, piece, &sum, listed)).transpose()?.flatten() {
                parts.insert(piece.number, part);
                sent += piece.length;
                continue;
            }
            let sums = store.sums(&sum, || piece.md5(&file.path))?;
            in_flight.spawn(send_one(store.clone(), Arc::clone(&upload), Arc::clone(&content), piece, sums));
            continue;
        }
        let ended = store.wait(in_flight.join_next()).await?.context("a part is on its way")?;
        let (piece, part) = ended.context("uploading a part")??;
        parts.insert(piece.number, part);
        sent += piece.length;
        progress.say("sending", sent, Some(file.sum.size));
    }
    drop(ahead);
    let sum = summing.await.context("summing the sealed file")??;
    file.require(&sum)?;
    Ok((parts.into_values().collect(), sums))
}

/// The listed part, when it is this piece of the file.
fn same(file: &Sealed, piece: Piece, sum: &[u8; 32], listed: &Listed) -> Result<Option<CompletedPart>> {
    if listed.size() != i64::try_from(piece.length).ok() {
        return Ok(None);
    }
    let right = match listed.checksum_sha256() {
        Some(listed) => listed == sha256_base64(sum),
        None => listed.e_tag().map(|etag| etag.trim_matches('"').to_owned()) == Some(etag(&[piece.md5(&file.path)?])?),
    };
    let part = CompletedPart::builder().part_number(piece.number).set_e_tag(listed.e_tag().map(String::from));
    Ok(right.then(|| part.set_checksum_sha256(listed.checksum_sha256().map(String::from)).build()))
}

/// Sends one part. Dropped, it breaks off.
async fn send_one(
    store: Store,
    upload: Arc<(String, String)>,
    content: Arc<File>,
    piece: Piece,
    sums: Sums,
) -> Result<(Piece, CompletedPart)> {
    let (key, id) = &*upload;
    let request = |pulse: &Pulse| {
        let request = store.client.upload_part().bucket(&store.bucket).key(key).upload_id(id).part_number(piece.number);
        let request = request
            .set_checksum_sha256(sums.sha256.clone())
            .set_content_md5(sums.md5.clone())
            .set_checksum_algorithm(sums.algorithm());
        let request = request.body(body::of(&content, piece, store.pace.as_ref(), pulse)).customize();
        request.config_override(patience(time_for(&store, piece.length))).send()
    };
    let doing = || format!("uploading part {} of {key}", piece.number);
    let answer = store.send(request).await.with_context(doing)?.map_err(|error| trouble::told(&error)).with_context(doing)?;
    let part = CompletedPart::builder().part_number(piece.number).set_checksum_sha256(sums.sha256);
    Ok((piece, part.set_e_tag(answer.e_tag().map(String::from)).build()))
}

/// How long one try to send so much may take, on a line that others use too.
pub fn time_for(store: &Store, length: u64) -> Duration {
    let rate = store.offsite.bandwidth.unwrap_or(SLOWEST).min(SLOWEST) / u64::from(store.offsite.parallel);
    store.offsite.silence + Duration::from_secs(length / rate.max(1))
}

/// Makes an object of the parts, where there is none: one that is there is for the caller to look at.
async fn complete(store: &Store, key: &str, id: &str, parts: Vec<CompletedPart>) -> Result<()> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let doing = || format!("completing the upload of {key}");
    for only_new in [true, false] {
        let request = store.client.complete_multipart_upload().bucket(&store.bucket).key(key).upload_id(id);
        let request = request.multipart_upload(parts.clone()).set_if_none_match(only_new.then(|| String::from("*")));
        match store.wait(request.customize().config_override(patience(store.offsite.silence * COMPLETING)).send()).await? {
            Ok(_) => return Ok(()),
            Err(error) => match error.code() {
                // There is an object: ours, when the answer of an earlier try was lost.
                Some("PreconditionFailed" | "NoSuchUpload") => return Ok(()),
                Some("NotImplemented") if only_new => {}
                _ => return Err(trouble::told(&error)).with_context(doing),
            },
        }
    }
    unreachable!("without a condition the store knows what to do")
}

/// The parts of an upload; none when the store doesn't know the upload.
async fn list(store: &Store, key: &str, id: &str) -> Result<Option<Vec<Listed>>> {
    let doing = || format!("asking which parts of {key} are there");
    let request = store.client.list_parts().bucket(&store.bucket).key(key).upload_id(id);
    let mut pages = request.into_paginator().send();
    let mut listed = Vec::new();
    while let Some(page) = store.wait(pages.next()).await? {
        match page {
            Ok(page) => listed.extend(page.parts().iter().cloned()),
            Err(error) if error.code() == Some("NoSuchUpload") => return Ok(None),
            Err(error) => return Err(trouble::told(&error)).with_context(doing),
        }
    }
    Ok(Some(listed))
}

/// The ids of the uploads to `key` that aren't completed.
async fn uploads(store: &Store, key: &str) -> Result<Vec<String>> {
    let request = store.client.list_multipart_uploads().bucket(&store.bucket).prefix(key).encoding_type(EncodingType::Url);
    let listed = store.ask(format!("asking for broken-off uploads of {key}"), request.send()).await?;
    let is_ours = |name: &str| decoded(name, listed.encoding_type()) == key;
    let ours = listed.uploads().iter().filter(|upload| upload.key().is_some_and(is_ours));
    Ok(ours.filter_map(|upload| upload.upload_id().map(String::from)).collect())
}

/// Throws away what was begun of an upload. Uploads that were there before stay. What the store refuses to throw away is
/// told in the log and stays, too: asked the next night, it would say the same, and nothing would get past it.
///
/// # Errors
/// The store can't be asked.
pub async fn abort_all(store: &Store, key: &str, parts: Option<&Parts>) -> Result<()> {
    match try_to_abort_all(store, key, parts).await {
        Err(error) if error.is::<Refusal>() => {
            tracing::warn!("parts of {key} may be left in the store, where a lifecycle rule removes them: {error:#}");
            Ok(())
        }
        result => result,
    }
}

async fn try_to_abort_all(store: &Store, key: &str, parts: Option<&Parts>) -> Result<()> {
    let ids = match parts {
        None => Vec::new(),
        Some(Parts { id: Some(id), .. }) => vec![id.clone()],
        Some(Parts { foreign, id: None }) => uploads(store, key).await?.into_iter().filter(|id| !foreign.contains(id)).collect(),
    };
    for id in ids {
        let abort = store.client.abort_multipart_upload().bucket(&store.bucket).key(key).upload_id(&id).send();
        match store.wait(abort).await? {
            Ok(_) => tracing::info!("threw away the broken-off upload of {key}"),
            Err(error) if error.code() == Some("NoSuchUpload") => {}
            Err(error) => return Err(trouble::told(&error)).with_context(|| format!("throwing away the parts of {key}")),
        }
    }
    Ok(())
}
