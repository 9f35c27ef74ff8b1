//! Bringing a sealed file into the store: in one piece when it is small, in parts when it isn't.
//!
//! Each piece is read twice, block by block: to be summed, and to be sent. So memory is bound by a few blocks, whatever the
//! file's size and the parts'. The store checks each piece against the SHA-256 that comes with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_sdk_s3::config::Config;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use openssl::hash::{Hasher, MessageDigest};
use openssl::sha::Sha256;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::outbox::Sealed;
use super::proof::{Marks, PartSums};
use super::store::{ATTEMPT, Store};
use super::trouble;
use crate::progress::Progress;

/// The least size of a part, in bytes.
const PART: u64 = 16 << 20;

/// S3 takes no more parts than this.
const MOST_PARTS: u64 = 10_000;

/// How many parts are on their way at a time: while one waits for its answer, the other keeps the line busy.
const IN_FLIGHT: usize = 2;

/// The slowest line that is waited for, in bytes a second.
const SLOWEST: u64 = 16 << 10;

/// The last step may take long for an object of thousands of parts.
const COMPLETING: Duration = Duration::from_mins(10);

/// How long the end of a failed push may be held up.
const ABORTING: Duration = Duration::from_secs(20);

/// How much is read at a time.
const BLOCK: usize = 1 << 18;

/// Uploads `file` to `key`, replacing what may be there, and gives what the store must say of it now.
///
/// # Errors
/// It didn't arrive, or a stop was asked for. Parts that did are thrown away.
pub async fn upload(store: &Store, key: &str, file: &Sealed, progress: &Progress) -> Result<Marks> {
    if file.sum.size <= PART {
        return whole(store, key, file, progress).await;
    }
    let request = store.client.create_multipart_upload().bucket(&store.bucket).key(key);
    let request = request.content_type(CONTENT_TYPE).checksum_algorithm(ChecksumAlgorithm::Sha256);
    let begun = store.ask(format!("beginning the upload of {key}"), request.send()).await?;
    let id = begun.upload_id().with_context(|| format!("beginning the upload of {key}: the store gives it no id"))?;
    let sent = in_parts(store, key, id, file, progress).await;
    if sent.is_err() {
        // Not bound by a stop: parts that stay cost their owner money. The first error is the one to tell.
        let abort = store.client.abort_multipart_upload().bucket(&store.bucket).key(key).upload_id(id).send();
        let told = match timeout(ABORTING, abort).await {
            Ok(Ok(_)) => return sent,
            Ok(Err(error)) => trouble::told(&error),
            Err(_) => anyhow!("the store doesn't answer"),
        };
        tracing::warn!("throwing away the parts of {key}: {told:#}");
    }
    sent
}

const CONTENT_TYPE: &str = "application/octet-stream";

async fn whole(store: &Store, key: &str, file: &Sealed, progress: &Progress) -> Result<Marks> {
    let piece = Piece { number: 1, offset: 0, length: file.sum.size };
    let sums = piece.sums(&file.path)?;
    let request = store.client.put_object().bucket(&store.bucket).key(key).content_type(CONTENT_TYPE);
    let request = request.checksum_sha256(sums.sha256_base64()).body(piece.body(&file.path).await?);
    let request = request.customize().config_override(patience(piece.time()));
    store.ask(format!("uploading {key}"), request.send()).await?;
    progress.say("sending", file.sum.size, Some(file.sum.size));
    Ok(Marks::whole(file.sum.size, &sums))
}

async fn in_parts(store: &Store, key: &str, id: &str, file: &Sealed, progress: &Progress) -> Result<Marks> {
    let mut sums = Vec::new();
    let mut tags = BTreeMap::new();
    let mut sent = 0;
    let mut in_flight = JoinSet::new();
    let mut rest = pieces(file.sum.size).peekable();
    while rest.peek().is_some() || !in_flight.is_empty() {
        if in_flight.len() < IN_FLIGHT
            && let Some(piece) = rest.next()
        {
            store.wait(async {}).await?;
            let part = piece.sums(&file.path)?;
            sums.push(part);
            in_flight.spawn(send(store.clone(), key.to_owned(), id.to_owned(), file.path.clone(), piece, part));
            continue;
        }
        let ended = store.wait(in_flight.join_next()).await?.context("a part is on its way")?;
        let (piece, part) = ended.context("uploading a part")??;
        tags.insert(piece.number, part);
        sent += piece.length;
        progress.say("sending", sent, Some(file.sum.size));
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(tags.into_values().collect())).build();
    let request = store.client.complete_multipart_upload().bucket(&store.bucket).key(key).upload_id(id);
    let request = request.multipart_upload(parts).customize().config_override(patience(COMPLETING));
    store.ask(format!("completing the upload of {key}"), request.send()).await?;
    Marks::parts(&file.sum, &sums)
}

/// Sends one part. Dropped, it breaks off.
async fn send(
    store: Store,
    key: String,
    id: String,
    path: PathBuf,
    piece: Piece,
    sums: PartSums,
) -> Result<(Piece, CompletedPart)> {
    let request = store.client.upload_part().bucket(&store.bucket).key(&key).upload_id(id);
    let request = request.part_number(piece.number).checksum_sha256(sums.sha256_base64()).body(piece.body(&path).await?);
    let request = request.customize().config_override(patience(piece.time()));
    let answer = store.ask(format!("uploading part {} of {key}", piece.number), request.send()).await?;
    let part = CompletedPart::builder().part_number(piece.number).checksum_sha256(sums.sha256_base64());
    Ok((piece, part.set_e_tag(answer.e_tag().map(String::from)).build()))
}

/// A request that may take longer than others.
fn patience(time: Duration) -> aws_sdk_s3::config::Builder {
    Config::builder().timeout_config(TimeoutConfig::builder().operation_attempt_timeout(time).build())
}

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// From 1.
    number: i32,
    offset: u64,
    length: u64,
}

/// The pieces of a file of `size` bytes: all as long but the last.
fn pieces(size: u64) -> impl Iterator<Item = Piece> {
    // Whole MiB, so that a part's border never depends on a byte more or less.
    let length = size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART);
    (1..).zip((0..size).step_by(usize::try_from(length).unwrap_or(usize::MAX))).map(move |(number, offset)| Piece {
        number,
        offset,
        length: length.min(size - offset),
    })
}

impl Piece {
    /// How long one try may take, on a line that others use too.
    fn time(&self) -> Duration {
        ATTEMPT + Duration::from_secs(self.length / SLOWEST)
    }

    fn sums(&self, path: &Path) -> Result<PartSums> {
        let reading = || format!("reading {}", path.display());
        let file = File::open(path).with_context(reading)?;
        let mut sha256 = Sha256::new();
        let mut md5 = Hasher::new(MessageDigest::md5()).context("beginning an MD5")?;
        let mut block = vec![0; BLOCK];
        let mut done = 0;
        while done < self.length {
            let wanted = block.len().min(usize::try_from(self.length - done).unwrap_or(usize::MAX));
            let block = &mut block[..wanted];
            file.read_exact_at(block, self.offset + done).with_context(reading)?;
            sha256.update(block);
            md5.update(block).context("going on with an MD5")?;
            done += wanted as u64;
        }
        let mut sums = PartSums { sha256: sha256.finish(), md5: [0; 16] };
        sums.md5.copy_from_slice(&md5.finish().context("ending an MD5")?);
        Ok(sums)
    }

    async fn body(&self, path: &Path) -> Result<ByteStream> {
        let body = ByteStream::read_from().path(path).buffer_size(BLOCK).offset(self.offset).length(Length::Exact(self.length));
        body.build().await.map_err(|error| anyhow!("reading {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, pieces};

    #[test]
    fn pieces_cover_a_file_in_at_most_ten_thousand() {
        let mib = 1 << 20;
        let all: Vec<Piece> = pieces(40 * mib + 5).collect();
        assert_eq!(
            all,
            [
                Piece { number: 1, offset: 0, length: 16 * mib },
                Piece { number: 2, offset: 16 * mib, length: 16 * mib },
                Piece { number: 3, offset: 32 * mib, length: 8 * mib + 5 },
            ]
        );
        for size in [1, 16 * mib, 160_000 * mib, 160_000 * mib + 1, 5 << 40] {
            let (mut end, mut count) = (0, 0);
            for piece in pieces(size) {
                assert_eq!(piece.offset, end);
                assert!(piece.length > 0);
                (end, count) = (end + piece.length, count + 1);
            }
            assert_eq!(end, size);
            assert!(count <= 10_000, "{size}: {count}");
        }
    }

    #[test]
    fn the_sums_are_those_of_the_stretch() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, [vec![1; 300_000], vec![2; 300_000]].concat()).unwrap();
        let piece = Piece { number: 2, offset: 299_999, length: 300_000 };
        let expected = super::PartSums::of(&[vec![1; 1], vec![2; 299_999]].concat()).unwrap();
        assert_eq!(piece.sums(file.path()).unwrap(), expected);
    }
}
