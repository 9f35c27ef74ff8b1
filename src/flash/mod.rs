//! Writing an image to a card, or a stick's to a stick.
//!
//! What boots is written last: until all else has been read back and is the same, the first MiB, where the partition table is, is
//! zeros. So a flash that is broken off leaves a card that doesn't boot, and says so by that. Of the image only what isn't zeros
//! is written, in blocks of 4 KiB. What the card had before, which may be another appliance's plaintext, is discarded, or where
//! a card can't do that, or `overwrite` is wanted, written over with zeros.

mod image;
mod rekey;
mod target;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::amount::amount;
use crate::image::bmap::is_zeros;
use crate::progress::Progress;
use crate::stop::Stop;

use image::Image;
use rekey::Rekey;
pub use target::Target;

/// The unit in which zeros are left out, in bytes: an image's own.
const BLOCK: usize = 4 << 10;

/// How much is read and written at once, in bytes; and what is written last.
const CHUNK: usize = 1 << 20;

/// After so many bytes the card is waited for: what waits in memory for it stays bounded, and progress is what is on it.
const SYNC: u64 = 64 << 20;

/// What is to be written where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The image: `.img`, `.img.zst` or `.img.xz`. Which it is, its first bytes say.
    pub image: PathBuf,
    /// The card, as `/dev/sdX`, or a file.
    pub target: PathBuf,
    /// Write zeros where the image has none of its own, though the card could discard.
    pub overwrite: bool,
    /// Give the card a volume key of its own; the keys of the image are in this secrets folder.
    pub fresh_key: Option<PathBuf>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flashed {
    /// The image's bytes.
    pub size: u64,
    /// Of them, those that were written.
    pub written: u64,
    /// Whether all else is known to be zeros: it was written over.
    pub overwritten: bool,
    /// Where the header of root is kept, if the card has a volume key of its own.
    pub header: Option<PathBuf>,
}

/// Looks at both, and refuses what mustn't be written to. `really` is what the owner says is the target, whatever it seems to be.
///
/// # Errors
/// The image can't be read, the target is in use, too small or not what it should be, with what helps.
pub fn look(request: &Request, really: Option<&Path>) -> Result<Target> {
    let image = Image::open(&request.image)?;
    let target = Target::look(&request.target)?;
    target.refuse(really)?;
    if let Some(size) = image.size() {
        target.require(size)?;
    }
    Ok(target)
}

/// Writes the image to what [`look`] gave, and reads it back.
///
/// # Errors
/// Something can't be read or written, what is read back isn't what was written, or a stop was asked for. The target doesn't boot
/// then.
pub fn flash(request: &Request, target: &Target, progress: &Progress, stop: &Stop) -> Result<Flashed> {
    let rekey = request.fresh_key.as_ref().map(|secrets| Rekey::draw(&request.image, secrets)).transpose()?;
    let card = target.open()?;
    let mut work = Work { target, card: &card, progress, stop, zeros: true, rekey: rekey.as_ref() };
    // Also what comes behind the image: root takes the whole card later.
    let discarded = !request.overwrite && target.discard()?;
    work.zeros = !discarded;
    work.write(0, &vec![0; CHUNK.min(usize::try_from(target.size()).unwrap_or(CHUNK))])?;
    work.sync()?;

    let mut image = Image::open(&request.image)?;
    let mut flashed = Flashed { overwritten: !discarded, ..Flashed::default() };
    let first = work.pass("writing", &mut image, &mut flashed, &mut |work, at, chunk| work.write_blocks(at, chunk))?;
    image.check_sum()?;
    if !discarded {
        work.clear(flashed.size)?;
    }
    work.sync()?;
    target.forget(&card)?;
    let mut again = Image::open(&request.image)?;
    let mut read = Flashed::default();
    work.pass("reading back", &mut again, &mut read, &mut |work, at, chunk| work.compare(at, chunk))?;
    if read.size != flashed.size {
        bail!("reading {}: it has changed meanwhile", request.image.display());
    }
    // From here on it boots.
    flashed.written += work.write_blocks(0, &first)?;
    work.sync()?;
    target.forget(&card)?;
    work.compare(0, &first)?;
    drop(card);
    target.announce();
    flashed.header = rekey.map(|rekey| rekey.kept);
    Ok(flashed)
}

/// The work on a card that is open.
struct Work<'a> {
    target: &'a Target,
    card: &'a std::fs::File,
    progress: &'a Progress,
    stop: &'a Stop,
    /// Whether zeros are written as well.
    zeros: bool,
    /// What makes root the card's own.
    rekey: Option<&'a Rekey>,
}

type Step<'a> = dyn FnMut(&Work<'_>, u64, &[u8]) -> Result<u64> + 'a;

impl Work<'_> {
    /// Does `step` with each chunk of the image but the first one, which it gives. What `step` has written is counted.
    fn pass(&self, doing: &str, image: &mut Image, flashed: &mut Flashed, step: &mut Step<'_>) -> Result<Vec<u8>> {
        let (mut first, mut chunk, mut unsynced) = (Vec::new(), vec![0; CHUNK], 0);
        let total = image.size();
        loop {
            self.stop.check()?;
            let length = fill(image, &mut chunk).with_context(|| format!("reading {}", image.path().display()))?;
            if length == 0 {
                return Ok(first);
            }
            let at = flashed.size;
            if let Some(rekey) = self.rekey {
                rekey.change(at, &mut chunk[..length])?;
            }
            flashed.size += length as u64;
            self.target.require(flashed.size)?;
            if at == 0 {
                first = chunk[..length].to_vec();
            } else {
                let written = step(self, at, &chunk[..length])?;
                flashed.written += written;
                unsynced += written;
            }
            if unsynced >= SYNC {
                self.sync()?;
                unsynced = 0;
            }
            self.progress.say(doing, flashed.size, total);
        }
    }

    /// Writes what isn't zeros, and zeros too where they have to be; gives how many bytes of the image's own that were.
    fn write_blocks(&self, at: u64, chunk: &[u8]) -> Result<u64> {
        let mut written = 0;
        let blocks: Vec<&[u8]> = chunk.chunks(BLOCK).collect();
        let mut from = at;
        for run in blocks.chunk_by(|one, other| is_zeros(one) == is_zeros(other)) {
            let length: usize = run.iter().map(|block| block.len()).sum();
            let begin = usize::try_from(from - at).unwrap_or(0);
            let zeros = is_zeros(run[0]);
            if !zeros || self.zeros {
                self.write(from, &chunk[begin..begin + length])?;
            }
            written += if zeros { 0 } else { length as u64 };
            from += length as u64;
        }
        Ok(written)
    }

    /// Compares what isn't zeros, and zeros too where they were written.
    fn compare(&self, at: u64, chunk: &[u8]) -> Result<u64> {
        let mut found = vec![0; chunk.len()];
        let path = self.target.path().display();
        self.card.read_exact_at(&mut found, at).with_context(|| format!("reading {path} back"))?;
        let differs = |(_, (one, other)): &(usize, (&[u8], &[u8]))| one != other && (self.zeros || !is_zeros(one));
        match chunk.chunks(BLOCK).zip(found.chunks(BLOCK)).enumerate().find(differs) {
            None => Ok(0),
            Some((number, _)) => bail!(
                "reading {path} back: at {} it isn't what was written\nhint: the card is worn out or no genuine one: take another",
                amount(at + (number * BLOCK) as u64)
            ),
        }
    }

    /// Writes zeros from `from` to the target's end.
    fn clear(&self, from: u64) -> Result<()> {
        let zeros = vec![0; CHUNK];
        let (mut at, mut unsynced) = (from, 0);
        while at < self.target.size() {
            self.stop.check()?;
            let length = (self.target.size() - at).min(CHUNK as u64);
            self.write(at, &zeros[..usize::try_from(length).unwrap_or(CHUNK)])?;
            at += length;
            unsynced += length;
            if unsynced >= SYNC {
                self.sync()?;
                unsynced = 0;
            }
            self.progress.say("clearing the rest", at - from, Some(self.target.size() - from));
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.card.write_all_at(bytes, at).with_context(|| format!("writing {} at {}", self.target.path().display(), amount(at)))
    }

    fn sync(&self) -> Result<()> {
        self.card.sync_data().with_context(|| format!("waiting until {} has what was written", self.target.path().display()))
    }
}

/// Reads until `chunk` is full or the end; gives how much.
fn fill(from: &mut impl Read, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < chunk.len() {
        match from.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
