//! gzip, made by all processors at once, with a known place for everything in it.
//!
//! What is written is cut into blocks of [`BLOCK`] bytes, and each becomes gzip members of its own: RFC 1952 section 2.2 has a
//! file be a row of members, and every gunzip reads it as one. So blocks can be compressed side by side, and reading can
//! begin at any of them. It costs half a per cent of size, since a member knows nothing of the one before.
//!
//! Three kinds of threads share a fixed number of blocks, which is all the memory there is to it:
//!
//! - the caller fills blocks,
//! - workers compress them (`member`),
//! - one thread writes them in their order, and only there is it known where a block comes to stand.
//!
//! Whoever writes can set a [`Members::mark`] and give a note for it later; the note comes out on the writing thread, in order, with
//! the [`Place`] of its mark. The bytes don't depend on how many threads there are.

mod member;

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::digest::{Sum, Summing};
use crate::snapshot::gzip::member::Packer;

/// How much is compressed as one, in bytes.
pub const BLOCK: usize = 1 << 20;

/// How many things may wait for the writing thread.
const WAITING: usize = 1024;

/// Where something begins in a file of gzip members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The offset of a member's first byte.
    pub block: u64,
    /// How many bytes come before it when reading begins there; less than [`BLOCK`].
    pub skip: u32,
}

/// Bytes on their way: as they are, and compressed.
#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    packed: Vec<u8>,
}

/// What the writing thread gets, in order.
enum Item<N> {
    Block(Receiver<Block>),
    Mark(u32),
    Note(N),
}

type Job = (Block, SyncSender<Block>);

/// What is to be compressed is written here.
pub struct Members<N> {
    block: Block,
    empty: Receiver<Block>,
    jobs: SyncSender<Job>,
    ordered: SyncSender<Item<N>>,
}

/// Compresses to `out`, with `threads` workers, what `produce` writes, and gives every note to `each`.
///
/// # Errors
/// Those of `produce`, of `each`, and of writing; when there are several, that of the writing thread, which is the cause.
pub fn compress<W, N, R>(
    out: W,
    threads: usize,
    each: impl FnMut(Place, N) -> Result<()> + Send,
    produce: impl FnOnce(&mut Members<N>) -> Result<R>,
) -> Result<(R, Sum)>
where
    W: Write + Send,
    N: Send,
{
    let threads = threads.max(1);
    let blocks = 2 * threads + 2;
    let (give_back, empty) = sync_channel(blocks);
    for _ in 0..blocks {
        give_back.send(Block::default()).expect("there is room for all of them");
    }
    let (jobs, open_jobs) = sync_channel::<Job>(threads);
    let open_jobs = Mutex::new(open_jobs);
    let (ordered, items) = sync_channel(WAITING);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&open_jobs));
        }
        let writer = scope.spawn(move || write(out, &items, &give_back, each));
        let mut members = Members { block: Block::default(), empty, jobs, ordered };
        let produced = members.next_block().map_err(anyhow::Error::from).and_then(|()| {
            let produced = produce(&mut members)?;
            members.cut()?;
            Ok(produced)
        });
        // Its ends are what tells the others that nothing more comes.
        drop(members);
        let written = writer.join().map_err(|_| anyhow!("the thread that writes the archive panicked"))?;
        match (produced, written) {
            (Ok(produced), Ok(sum)) => Ok((produced, sum)),
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    })
}

/// Compresses blocks until there are no more.
fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut packer = Packer::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((mut block, done)) = job else { return };
        packer.pack(&block.plain, &mut block.packed);
        // Nobody waits for it after an error, which has its own way out.
        let _ = done.send(block);
    }
}

fn write<W: Write, N>(
    out: W,
    items: &Receiver<Item<N>>,
    give_back: &SyncSender<Block>,
    mut each: impl FnMut(Place, N) -> Result<()>,
) -> Result<Sum> {
    let mut out = Summing::new(out);
    let mut place = Place::default();
    for item in items {
        match item {
            Item::Block(done) => {
                let mut block = done.recv().map_err(|RecvError| anyhow!("a thread that compresses the archive panicked"))?;
                out.write_all(&block.packed).context("writing the archive")?;
                block.plain.clear();
                // Whoever fills blocks has none to fill any more when this fails.
                let _ = give_back.send(block);
            }
            Item::Mark(skip) => place = Place { block: out.size(), skip },
            Item::Note(note) => each(place, note)?,
        }
    }
    out.finish().context("writing the archive")
}

impl<N> Members<N> {
    /// Notes that something begins here.
    pub fn mark(&mut self) -> io::Result<()> {
        if self.block.plain.len() == BLOCK {
            self.cut_here()?;
        }
        let skip = u32::try_from(self.block.plain.len()).expect("a block is small");
        self.ordered.send(Item::Mark(skip)).map_err(|_| gone())
    }

    /// Hands on what is to be known of what the last mark stands for.
    pub fn note(&mut self, note: N) -> io::Result<()> {
        self.ordered.send(Item::Note(note)).map_err(|_| gone())
    }

    /// Lets `fill` write to the beginning of some room of at least a byte and at most `most`; it says how much it wrote.
    pub fn fill(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> io::Result<usize> {
        if self.block.plain.len() == BLOCK {
            self.cut_here()?;
        }
        let begin = self.block.plain.len();
        let room = most.min(BLOCK - begin);
        self.block.plain.resize(begin + room, 0);
        let filled = fill(&mut self.block.plain[begin..]).min(room);
        self.block.plain.truncate(begin + filled);
        Ok(filled)
    }

    /// Ends the last block.
    fn cut(&mut self) -> io::Result<()> {
        if self.block.plain.is_empty() { Ok(()) } else { self.cut_here() }
    }

    fn cut_here(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        let (done, finished) = sync_channel(1);
        self.jobs.send((block, done)).map_err(|_| gone())?;
        self.ordered.send(Item::Block(finished)).map_err(|_| gone())?;
        self.next_block()
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.block = self.empty.recv().map_err(|_| gone())?;
        Ok(())
    }
}

/// The thread that writes has ended; its own error says why.
fn gone() -> io::Error {
    io::Error::other("the archive can't be written on")
}

impl<N> Write for Members<N> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.fill(bytes.len(), |room| {
            room.copy_from_slice(&bytes[..room.len()]);
            room.len()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use anyhow::{Result, bail};
    use flate2::read::MultiGzDecoder;

    use super::{BLOCK, Place, compress};
    use crate::digest::Sum;

    /// Text, then noise, then text: some three blocks.
    fn mixed() -> Vec<u8> {
        let text = |count: u32| (0..count).flat_map(|number| format!("line {number}\n").into_bytes());
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        text(50_000).chain(noise.take(BLOCK + 12_345)).chain(text(90_000)).collect()
    }

    fn packed(threads: usize, bytes: &[u8], piece: usize) -> (Vec<u8>, Sum, Vec<(Place, usize)>) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let each = |place, note| {
            notes.push((place, note));
            Ok(())
        };
        let (count, sum) = compress(&mut out, threads, each, |members| {
            for (number, piece) in bytes.chunks(piece).enumerate() {
                members.mark()?;
                members.write_all(piece)?;
                members.note(number)?;
            }
            Ok(bytes.len())
        })
        .unwrap();
        assert_eq!(count, bytes.len());
        (out, sum, notes)
    }

    #[test]
    fn every_gunzip_reads_it_and_the_number_of_threads_changes_nothing() {
        let bytes = mixed();
        let (one, sum, _) = packed(1, &bytes, 100_000);
        let (four, ..) = packed(4, &bytes, 77);
        assert!(one == four && sum.size == one.len() as u64 && sum.sha256 == openssl::sha::sha256(&one));
        let mut read = Vec::new();
        MultiGzDecoder::new(one.as_slice()).read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        // The noise is stored, and all else small.
        assert!(one.len() > BLOCK && one.len() < BLOCK + BLOCK / 2, "{}", one.len());
        assert_eq!(packed(2, b"", 1).0, b"");
    }

    #[test]
    fn reading_can_begin_at_every_note() {
        let bytes = mixed();
        let (out, _, notes) = packed(3, &bytes, 65_536);
        assert_eq!(notes.len(), bytes.len().div_ceil(65_536));
        for (place, number) in notes {
            let mut from = MultiGzDecoder::new(&out[usize::try_from(place.block).unwrap()..]);
            io::copy(&mut (&mut from).take(place.skip.into()), &mut io::sink()).unwrap();
            let mut piece = Vec::new();
            from.take(65_536).read_to_end(&mut piece).unwrap();
            assert!(Some(piece.as_slice()) == bytes.chunks(65_536).nth(number), "{number}");
        }
    }

    #[test]
    fn an_error_anywhere_is_the_end_and_the_cause_is_told() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("the disk is full"))?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let endless = |out: Full, each: fn(Place, u32) -> Result<()>| {
            let done = compress(out, 2, each, |members| -> Result<()> {
                loop {
                    members.mark()?;
                    members.write_all(&[7; 1000])?;
                    members.note(1)?;
                }
            });
            format!("{:#}", done.unwrap_err())
        };
        assert_eq!(endless(Full(20_000), |_, _| Ok(())), "writing the archive: the disk is full");
        assert_eq!(endless(Full(usize::MAX), |_, _| bail!("no room for the index")), "no room for the index");
        let stopped = compress(
            io::sink(),
            2,
            |_, ()| Ok(()),
            |members| {
                members.write_all(&vec![1; 5 * BLOCK])?;
                bail!("interrupted")
            },
        );
        assert_eq!(stopped.map(|((), _)| ()).unwrap_err().to_string(), "interrupted");
    }
}
