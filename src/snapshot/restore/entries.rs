//! The entries of an archive, read once from its beginning to its end, or from the place of one of them on.
//!
//! Nothing in it is trusted. Only what [`crate::snapshot::archive`] writes is taken: the kinds of things that it knows, names
//! that lead downwards, headers of bounded length with the records that [`crate::snapshot::header`] makes. Whatever else stands there
//! wasn't written by a backup, and ends the reading with the entry named. An archive that is merely broken ends it too, but as a
//! result: what came before is worth having.

mod described;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use anyhow::{Result, anyhow};
use flate2::bufread::MultiGzDecoder;
use openssl::sha::Sha256;
use tar::Header;

use crate::digest::Sum;
use crate::progress::Progress;
use crate::snapshot::gzip::Place;
use crate::snapshot::header;
use crate::stop::Stop;

pub use described::Described;
use described::Extra;

/// How much of the archive is read at once.
const READ: usize = 256 << 10;

/// How an archive ended.
#[derive(Debug)]
pub enum End {
    /// It was read to its end, and this is all of it.
    Whole(Sum),
    /// It couldn't be, and why.
    Broken(String),
}

/// Takes an entry and its content; gives why the content couldn't be read to its end, should that be so.
pub type Each<'a> = dyn FnMut(Described, &mut dyn Read) -> Result<Option<String>> + 'a;

/// Reads the archive `content`, of `total` bytes as far as that is known, and gives every entry to `each`, which need not read
/// the entry's content. `doing` is what progress calls it.
///
/// # Errors
/// A stop, what `each` fails with, and an entry that no snapshot holds.
pub fn walk(
    content: &mut dyn Read,
    total: u64,
    doing: &str,
    progress: &Progress,
    stop: &Stop,
    each: &mut Each<'_>,
) -> Result<End> {
    let measured = Measured { content, size: 0, sha256: Sha256::new(), total, doing, progress, stop };
    let mut gzip = MultiGzDecoder::new(BufReader::with_capacity(READ, measured));
    // Behind the last entry stand zeros and the sums of gzip; then nothing.
    let read = entries(&mut gzip, u64::MAX, stop, each).and_then(|()| Ok(io::copy(&mut gzip, &mut io::sink())?));
    // A reading error may be the stop itself.
    stop.check()?;
    match read {
        Ok(_) => {
            let Measured { size, sha256, .. } = gzip.into_inner().into_inner();
            Ok(End::Whole(Sum { size, sha256: sha256.finish() }))
        }
        Err(Trouble::Broken(why)) => Ok(End::Broken(why)),
        Err(Trouble::Ended(error)) => Err(error),
    }
}

/// Reads `count` entries of the archive in `file`, from the one at `place` on. The inner error is why it can't be read.
///
/// # Errors
/// As of [`walk`].
pub fn some(file: &File, place: Place, count: u64, stop: &Stop, each: &mut Each<'_>) -> Result<Result<(), String>> {
    let from = BufReader::with_capacity(READ, From { file, offset: place.block });
    let mut gzip = MultiGzDecoder::new(from);
    let skip = u64::from(place.skip);
    let skipped = io::copy(&mut (&mut gzip).take(skip), &mut io::sink()).map_err(Trouble::from);
    let read = skipped.and_then(|_| entries(&mut gzip, count, stop, each));
    stop.check()?;
    match read {
        Ok(()) => Ok(Ok(())),
        Err(Trouble::Broken(why)) => Ok(Err(why)),
        Err(Trouble::Ended(error)) => Err(error),
    }
}

/// Why reading ends early.
#[derive(Debug)]
enum Trouble {
    /// The archive can't be read on.
    Broken(String),
    /// It mustn't be, or needn't.
    Ended(anyhow::Error),
}

impl std::convert::From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl std::convert::From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Ended(error)
    }
}

fn entries(tar: &mut impl Read, count: u64, stop: &Stop, each: &mut Each<'_>) -> Result<(), Trouble> {
    let mut extra = Extra::default();
    let mut read = 0;
    while read < count {
        stop.check()?;
        let Some(header) = next_header(tar)? else {
            return if count == u64::MAX { Ok(()) } else { Err(Trouble::Broken("it ends too early".into())) };
        };
        if Extra::is_one(header.entry_type()) {
            extra.read(&header, tar)?;
            continue;
        }
        let described = Described::new(&header, std::mem::take(&mut extra), tar)?;
        let stored = described.stored;
        let mut content = tar.by_ref().take(stored);
        if let Some(why) = each(described, &mut content)? {
            return Err(Trouble::Broken(why));
        }
        pass(&mut content, stored)?;
        read += 1;
    }
    Ok(())
}

/// Reads what is left of a content of `size` bytes, and what fills its last block.
fn pass<R: Read>(content: &mut io::Take<&mut R>, size: u64) -> Result<(), Trouble> {
    let left = content.limit();
    let padding = header::padding(size).len() as u64;
    content.set_limit(left + padding);
    let passed = io::copy(content, &mut io::sink())?;
    if passed == left + padding { Ok(()) } else { Err(Trouble::Broken("it ends in the middle of a file".into())) }
}

/// The next header; none at the end of the archive.
fn next_header(tar: &mut impl Read) -> Result<Option<Header>, Trouble> {
    let mut header = Header::new_old();
    tar.read_exact(header.as_mut_bytes())?;
    if header.as_bytes().iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let sum: u32 =
        header.as_bytes().iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { byte.into() }).sum();
    if header.cksum().ok() == Some(sum) { Ok(Some(header)) } else { Err(Trouble::Broken("a header's checksum is wrong".into())) }
}

/// An archive, counted and hashed as it is read.
struct Measured<'a> {
    content: &'a mut dyn Read,
    size: u64,
    sha256: Sha256,
    total: u64,
    doing: &'a str,
    progress: &'a Progress,
    stop: &'a Stop,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let length = self.content.read(buffer)?;
        self.sha256.update(&buffer[..length]);
        self.size += length as u64;
        self.progress.say(self.doing, self.size, Some(self.total));
        Ok(length)
    }
}

/// The archive's file from a place on, whoever else reads it.
struct From<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

fn refused(name: &[u8], why: &str) -> anyhow::Error {
    anyhow!("refusing the entry {:?} of the archive: {why}", crate::log::printable(name))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::{End, walk};
    use crate::progress::Progress;
    use crate::stop::Stop;

    fn compressed(tar: &[u8]) -> File {
        let mut gzip = GzEncoder::new(tempfile::tempfile().unwrap(), Compression::fast());
        gzip.write_all(tar).unwrap();
        let mut file = gzip.finish().unwrap();
        file.rewind().unwrap();
        file
    }

    /// An archive of one entry with this name, kind and target, written byte for byte.
    fn one(name: &[u8], kind: u8, target: &[u8]) -> File {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        for (field, text) in [(0, name), (157, target)] {
            header.as_mut_bytes()[field..field + text.len()].copy_from_slice(text);
        }
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, std::io::empty()).unwrap();
        compressed(&tar.into_inner().unwrap())
    }

    fn names(file: &File) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let end = walk(&mut &*file, 0, "restoring", &Progress::default(), &Stop::default(), &mut |described, _| {
            names.push(described.entry.path.to_string_lossy().into_owned());
            Ok(None)
        });
        match end.map_err(|error| format!("{error:#}"))? {
            End::Whole(_) => Ok(names),
            End::Broken(why) => Err(format!("broken: {why}")),
        }
    }

    #[test]
    fn only_what_a_snapshot_holds_is_taken() {
        assert_eq!(names(&one(b"srv/a", b'0', b"")).unwrap(), ["srv/a"]);
        assert_eq!(names(&one(b"srv/", b'5', b"")).unwrap(), ["srv"]);
        assert_eq!(names(&one(b"srv/l", b'2', b"/../anything")).unwrap(), ["srv/l"]);
        for (name, kind, target, why) in [
            (b"/etc/cron.d/x".as_slice(), b'0', b"".as_slice(), "its name leads out of the snapshot, or roundabout"),
            (b"srv/../../x", b'0', b"", "its name leads out of the snapshot, or roundabout"),
            (b"../x", b'2', b"y", "its name leads out of the snapshot, or roundabout"),
            (b"./x", b'5', b"", "its name leads out of the snapshot, or roundabout"),
            (b"", b'0', b"", "its name leads out of the snapshot, or roundabout"),
            (b"x/", b'0', b"", "its name leads out of the snapshot, or roundabout"),
            (b"x", b'1', b"/etc/passwd", "it is a link out of the snapshot, to \"/etc/passwd\""),
            (b"x", b'1', b"a/../../b", "it is a link out of the snapshot, to \"a/../../b\""),
            (b"x", b'2', b"", "it is a link to nowhere, which no snapshot holds"),
            (b"x", b'g', b"", "it is a pax header for all, which no snapshot holds"),
            (b"x", b'V', b"", "it is of an unknown kind, which no snapshot holds"),
        ] {
            let shown = String::from_utf8_lossy(name);
            assert_eq!(
                names(&one(name, kind, target)).unwrap_err(),
                format!("refusing the entry {shown:?} of the archive: {why}")
            );
        }
    }

    #[test]
    fn a_name_without_end_takes_no_memory() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.resize(tar.len() + (1 << 20), b'a');
        assert_eq!(names(&compressed(&tar)).unwrap_err(), "refusing a name of more than 65536 bytes");
    }

    #[test]
    fn what_is_broken_is_a_result_and_a_stop_is_not() {
        let mut file = one(b"srv/a", b'0', b"");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let size = bytes.len();
        for (change, why) in [
            (&mut (|bytes: &mut Vec<u8>| bytes.truncate(size - 9)) as &mut dyn FnMut(&mut Vec<u8>), "incomplete deflate stream"),
            (&mut |bytes| bytes[size - 8] ^= 1, "corrupt gzip stream does not have a matching checksum"),
            (&mut |bytes| bytes[0] = b'x', "invalid gzip header"),
        ] {
            let mut changed = bytes.clone();
            change(&mut changed);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&changed).unwrap();
            file.rewind().unwrap();
            assert_eq!(names(&file).unwrap_err(), format!("broken: {why}"));
        }
        let stop = Stop::default();
        stop.request();
        let error = walk(&mut &file, 0, "restoring", &Progress::default(), &stop, &mut |_, _| Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "interrupted by a signal");
    }
}
