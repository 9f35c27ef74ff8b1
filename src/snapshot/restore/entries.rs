//! The entries of an archive, read once from its beginning to its end.
//!
//! Nothing in it is trusted. Only what [`crate::snapshot::archive`] writes is taken: files, folders and symbolic links, names
//! that lead downwards, long names in GNU's way and of bounded length. Whatever else stands there wasn't written by a
//! backup, and ends the reading with the entry named. An archive that is merely broken ends it too, but as a result: what
//! came before is worth having.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail};
use flate2::bufread::MultiGzDecoder;
use openssl::sha::Sha256;
use tar::{Archive, EntryType, Header};

use crate::digest::Sum;
use crate::log::printable;
use crate::progress::Progress;
use crate::snapshot::entry::{self, Entry, Kind};
use crate::stop::Stop;

/// The longest name or link's target that is read; Linux takes none of more than 4096 bytes.
const LONGEST: u64 = 64 << 10;

/// How much of the archive is read at once.
const BLOCK: usize = 256 << 10;

/// How an archive ended.
#[derive(Debug)]
pub enum End {
    /// It was read to its end, and this is all of it.
    Whole(Sum),
    /// It couldn't be, and why.
    Broken(String),
}

/// Takes an entry and its content; gives why the content couldn't be read to its end, should that be so.
pub type Each<'a> = dyn FnMut(&Entry, &mut dyn Read) -> Result<Option<String>> + 'a;

/// Reads the archive in `file` and gives every entry to `each`, which need not read the content.
///
/// # Errors
/// A stop, what `each` fails with, and an entry that no snapshot holds.
pub fn walk(file: &File, progress: &Progress, stop: &Stop, each: &mut Each<'_>) -> Result<End> {
    let total = file.metadata().context("asking for the archive's size")?.len();
    let measured = Measured { file, size: 0, sha256: Sha256::new(), total, progress, stop };
    let mut archive = Archive::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK, measured)));
    let broken = entries(&mut archive, stop, each)?;
    // A reading error may be the stop itself.
    stop.check()?;
    if let Some(why) = broken {
        return Ok(End::Broken(why));
    }
    // Behind the last entry stand zeros and the sums of gzip; then nothing.
    let mut gzip = archive.into_inner();
    let rest = io::copy(&mut gzip, &mut io::sink());
    stop.check()?;
    if let Err(error) = rest {
        return Ok(End::Broken(error.to_string()));
    }
    let Measured { size, sha256, .. } = gzip.into_inner().into_inner();
    Ok(End::Whole(Sum { size, sha256: sha256.finish() }))
}

fn entries<R: Read>(archive: &mut Archive<R>, stop: &Stop, each: &mut Each<'_>) -> Result<Option<String>> {
    // Raw: the crate would take long names of any length into memory, and kinds that are refused here.
    let raw = match archive.entries() {
        Ok(entries) => entries.raw(true),
        Err(error) => return Ok(Some(error.to_string())),
    };
    let mut long = Long::default();
    for entry in raw {
        stop.check()?;
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let kind = entry.header().entry_type();
        let broken = if kind.is_gnu_longname() {
            long.read(&mut entry, |long| &mut long.name)?
        } else if kind.is_gnu_longlink() {
            long.read(&mut entry, |long| &mut long.link)?
        } else {
            let described = describe(entry.header(), std::mem::take(&mut long))?;
            each(&described, &mut entry)?
        };
        if broken.is_some() {
            return Ok(broken);
        }
    }
    Ok(None)
}

/// Names for the next entry that were too long for its header.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Long {
    fn read(&mut self, content: &mut impl Read, field: fn(&mut Self) -> &mut Option<Vec<u8>>) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        if let Err(error) = content.take(LONGEST + 1).read_to_end(&mut bytes) {
            return Ok(Some(error.to_string()));
        }
        if bytes.len() as u64 > LONGEST {
            bail!("refusing a name of more than {LONGEST} bytes");
        }
        bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
        *field(self) = Some(bytes);
        Ok(None)
    }
}

/// What the header says, checked.
fn describe(header: &Header, long: Long) -> Result<Entry> {
    let mut name = long.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let shown = printable(&name);
    let refusing = || format!("refusing the entry {shown:?} of the archive");
    let target = long.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let kind = match (header.entry_type(), target) {
        (EntryType::Regular, _) => Kind::File,
        (EntryType::Directory, _) => Kind::Folder,
        (EntryType::Symlink, Some(target)) if !target.is_empty() => Kind::Symlink(OsString::from_vec(target)),
        (other, _) => bail!("{}: it is {}, which no snapshot holds", refusing(), called(other)),
    };
    if kind == Kind::Folder {
        name.pop_if(|last| *last == b'/');
    }
    let Some(path) = entry::plain(&name) else {
        bail!("{}: its name leads out of the snapshot, or roundabout", refusing());
    };
    let number = |value: io::Result<u64>| value.with_context(refusing);
    let small = |value: io::Result<u64>| number(value).and_then(|value| u32::try_from(value).with_context(refusing));
    let size = if kind == Kind::File { number(header.entry_size())? } else { 0 };
    Ok(Entry {
        path,
        kind,
        size,
        mtime: number(header.mtime())?,
        mode: header.mode().with_context(refusing)? & 0o7777,
        uid: small(header.uid())?,
        gid: small(header.gid())?,
    })
}

fn called(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Symlink => "a link to nowhere",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file",
        EntryType::XHeader | EntryType::XGlobalHeader => "a pax header",
        _ => "of an unknown kind",
    }
}

/// The archive's file, counted and hashed as it is read.
struct Measured<'a> {
    file: &'a File,
    size: u64,
    sha256: Sha256,
    total: u64,
    progress: &'a Progress,
    stop: &'a Stop,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let length = self.file.read(buffer)?;
        self.sha256.update(&buffer[..length]);
        self.size += length as u64;
        self.progress.say("restoring", self.size, Some(self.total));
        Ok(length)
    }
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
        let end = walk(file, &Progress::default(), &Stop::default(), &mut |entry, _| {
            names.push(entry.path.to_string_lossy().into_owned());
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
            (b"x", b'1', b"/etc/passwd", "it is a hard link, which no snapshot holds"),
            (b"x", b'2', b"", "it is a link to nowhere, which no snapshot holds"),
            (b"x", b'3', b"", "it is a device, which no snapshot holds"),
            (b"x", b'4', b"", "it is a device, which no snapshot holds"),
            (b"x", b'6', b"", "it is a pipe, which no snapshot holds"),
            (b"x", b'S', b"", "it is a sparse file, which no snapshot holds"),
            (b"x", b'x', b"", "it is a pax header, which no snapshot holds"),
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
        let error = walk(&file, &Progress::default(), &stop, &mut |_, _| Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "interrupted by a signal");
    }
}
