//! A piece of a file on its way to the store: read block by block as it goes, at no more than a given pace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pieces::Piece;

/// How much is read at a time, in bytes.
const BLOCK: u64 = 1 << 18;

/// The same when the pace is bound: short enough for the slowest pace to flow.
const SMALL_BLOCK: u64 = 1 << 14;

/// A bound on how many bytes a second are sent, of all that share it together.
#[derive(Debug)]
pub struct Pace {
    /// In bytes a second.
    rate: u64,
    /// When the next bytes may go.
    next: Mutex<Instant>,
}

impl Pace {
    /// So many bytes a second.
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Mutex::new(Instant::now()) }
    }

    /// When the next `bytes` may go, which then count as gone.
    fn reserve(&self, bytes: u64) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (*next).max(Instant::now());
        *next = now + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        now
    }
}

/// The content of `piece` of `file`, as often as it must be sent.
pub fn of(file: &Arc<File>, piece: Piece, pace: Option<&Arc<Pace>>) -> ByteStream {
    let (file, pace) = (Arc::clone(file), pace.cloned());
    ByteStream::new(SdkBody::retryable(move || {
        let (file, pace) = (Arc::clone(&file), pace.clone());
        SdkBody::from_body_1_x(Stretch { file, at: piece.offset, end: piece.offset + piece.length, pace, wait: None })
    }))
}

struct Stretch {
    file: Arc<File>,
    at: u64,
    end: u64,
    pace: Option<Arc<Pace>>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Stretch {
    fn left(&self) -> u64 {
        self.end - self.at
    }

    fn block(&self) -> u64 {
        self.left().min(if self.pace.is_some() { SMALL_BLOCK } else { BLOCK })
    }
}

impl Body for Stretch {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let length = self.block();
        if length == 0 {
            return Poll::Ready(None);
        }
        if let Some(pace) = self.pace.clone() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(sleep_until(pace.reserve(length))));
            if wait.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.wait = None;
        }
        let mut block = vec![0; usize::try_from(length).unwrap_or(0)];
        if let Err(error) = self.file.read_exact_at(&mut block, self.at) {
            return Poll::Ready(Some(Err(error)));
        }
        self.at += length;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(block)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Pace, of};
    use crate::offsite::pieces::Piece;

    #[test]
    fn a_piece_comes_whole_and_in_its_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(&file, &content).unwrap();
        let file = Arc::new(File::open(file.path()).unwrap());
        let piece = Piece { number: 1, offset: 1000, length: 500_000 };
        let runtime = crate::offsite::runtime().unwrap();
        let all = |pace| runtime.block_on(async { of(&file, piece, pace).collect().await.unwrap().into_bytes() });
        assert!(all(None) == content[1000..501_000]);
        let (begun, pace) = (Instant::now(), Arc::new(Pace::new(1_000_000)));
        assert!(all(Some(&pace)) == content[1000..501_000]);
        // The first block goes at once.
        assert!(begun.elapsed() >= Duration::from_millis(480), "{:?}", begun.elapsed());
        let short = Piece { length: 600_000, ..piece };
        assert!(runtime.block_on(async { of(&file, short, None).collect().await.is_err() }));
    }
}
