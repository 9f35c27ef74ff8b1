//! What an archive says of an entry: its header, and what stands before that.

use std::ffi::OsString;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{Trouble, refused};
use crate::log::printable;
use crate::snapshot::acl::Acl;
use crate::snapshot::entry::{self, Device, Entry, Extras, Kind, Time};
use crate::snapshot::header;

/// The longest name or link's target that is read; Linux takes none of more than 4096 bytes.
const LONGEST_NAME: u64 = 64 << 10;

/// The longest row of records, in bytes. The attributes that a file may have take less.
const LONGEST_RECORDS: u64 = 4 << 20;

/// How many stretches a sparse file may have; as many as [`crate::snapshot::archive`] tells apart, and the end.
const MOST_STRETCHES: usize = 100_001;

/// An entry, and how its content is stored.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it is.
    pub entry: Entry,
    /// Of a sparse file, the stretches that are stored, in order.
    pub sparse: Option<Vec<Range<u64>>>,
    /// How many bytes of content are stored.
    pub stored: u64,
}

/// What stands before a header about the entry.
#[derive(Default)]
pub(super) struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    uid: Option<u32>,
    gid: Option<u32>,
    extras: Extras,
}

impl Extra {
    /// Whether an entry of this kind is about the next one.
    pub(super) fn is_one(kind: EntryType) -> bool {
        kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions()
    }

    /// Reads one.
    pub(super) fn read(&mut self, header: &Header, tar: &mut impl Read) -> Result<(), Trouble> {
        let kind = header.entry_type();
        let records = kind.is_pax_local_extensions();
        let longest = if records { LONGEST_RECORDS } else { LONGEST_NAME };
        let size = header.entry_size()?;
        if size > longest {
            let what = if records { "records" } else { "a name" };
            return Err(Trouble::Ended(anyhow::anyhow!("refusing {what} of more than {longest} bytes")));
        }
        let mut content = tar.by_ref().take(size);
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        super::pass(&mut content, size)?;
        if records {
            self.records(&bytes)?;
        } else {
            bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
            *(if kind.is_gnu_longname() { &mut self.name } else { &mut self.link }) = Some(bytes);
        }
        Ok(())
    }

    /// Takes the records of a pax header: `LENGTH KEY=VALUE` and a newline each.
    fn records(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).context("refusing an entry of the archive: a pax record is none")?;
            let (key, value) = record;
            self.record(key, value)
                .with_context(|| format!("refusing an entry of the archive: the pax record {:?}", printable(key)))?;
            bytes = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = || std::str::from_utf8(value).context("it isn't text");
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(text()?.parse()?),
            b"mtime" => self.mtime = Some(header::time_of(text()?).context("it is no time")?),
            b"uid" => self.uid = Some(text()?.parse()?),
            b"gid" => self.gid = Some(text()?.parse()?),
            // By number, as everything here.
            b"uname" | b"gname" => {}
            b"SCHILY.acl.access" => self.extras.acl = Some(Acl::from_text(text()?).context("it is no list")?),
            b"SCHILY.acl.default" => self.extras.default_acl = Some(Acl::from_text(text()?).context("it is no list")?),
            _ => match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) if !name.is_empty() && !name.contains(&0) => {
                    self.extras.xattrs.push((OsString::from_vec(name.to_vec()), value.to_vec()));
                }
                _ => bail!("no snapshot holds it"),
            },
        }
        Ok(())
    }
}

/// A record's key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record of these, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let blank = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &bytes[length..]))
}

impl Described {
    /// What `header` and `extra` say, checked. The rest of a sparse file's header is read from `tar`.
    pub(super) fn new(header: &Header, extra: Extra, tar: &mut impl Read) -> Result<Self, Trouble> {
        let mut name = extra.name.unwrap_or_else(|| name_of(header));
        let target = extra.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let kind = kind(header, &name, target)?;
        if kind == Kind::Folder {
            name.pop_if(|last| *last == b'/');
        }
        let Some(path) = entry::plain(&name) else {
            return Err(refused(&name, "its name leads out of the snapshot, or roundabout").into());
        };
        let odd = |_: io::Error| Trouble::Ended(refused(&name, "its header can't be read"));
        let stored = if kind == Kind::File { extra.size.map_or_else(|| header.entry_size().map_err(odd), Ok)? } else { 0 };
        let (sparse, size) = if header.entry_type() == EntryType::GNUSparse {
            let (stretches, size) = sparse(header, tar, stored, &name)?;
            (Some(stretches), size)
        } else {
            (None, stored)
        };
        let number = |given: Option<u32>, field: io::Result<u64>| match given {
            Some(number) => Ok(number),
            None => u32::try_from(field.map_err(odd)?).map_err(|_| Trouble::Ended(refused(&name, "its owner is none"))),
        };
        let mtime = match extra.mtime {
            Some(time) => time,
            None => Time::seconds(i64::try_from(header.mtime().map_err(odd)?).unwrap_or(i64::MAX)),
        };
        let (uid, gid) = (number(extra.uid, header.uid())?, number(extra.gid, header.gid())?);
        let mode = header.mode().map_err(odd)? & 0o7777;
        Ok(Self { entry: Entry { path, kind, size, mtime, mode, uid, gid, extras: extra.extras }, sparse, stored })
    }
}

/// The name that stands in the header itself. The crate would join a prefix, which a snapshot's headers don't have.
fn name_of(header: &Header) -> Vec<u8> {
    let name = &header.as_old().name;
    name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())].to_vec()
}

fn kind(header: &Header, name: &[u8], target: Vec<u8>) -> Result<Kind> {
    let device = || -> io::Result<Device> {
        let (major, minor) = (header.device_major()?, header.device_minor()?);
        Ok(Device { major: major.unwrap_or(0), minor: minor.unwrap_or(0) })
    };
    let held = |what| refused(name, &format!("it is {what}, which no snapshot holds"));
    Ok(match header.entry_type() {
        EntryType::Regular => Kind::File,
        EntryType::GNUSparse if header.as_gnu().is_some() => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink if !target.is_empty() => Kind::Symlink(OsString::from_vec(target)),
        EntryType::Link => match entry::plain(&target) {
            Some(first) => Kind::Hardlink(first),
            None => return Err(refused(name, &format!("it is a link out of the snapshot, to {:?}", printable(&target)))),
        },
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => Kind::CharDevice(device().map_err(|_| held("a device without a number"))?),
        EntryType::Block => Kind::BlockDevice(device().map_err(|_| held("a device without a number"))?),
        EntryType::Symlink => return Err(held("a link to nowhere")),
        EntryType::XGlobalHeader => return Err(held("a pax header for all")),
        _ => return Err(held("of an unknown kind")),
    })
}

/// The stretches of a sparse file, and its size.
fn sparse(header: &Header, tar: &mut impl Read, stored: u64, name: &[u8]) -> Result<(Vec<Range<u64>>, u64), Trouble> {
    let odd = || Trouble::Ended(refused(name, "its holes can't be told"));
    let gnu = header.as_gnu().ok_or_else(odd)?;
    let size = gnu.real_size().map_err(|_| odd())?;
    let mut stretches = Vec::new();
    let mut take = |fields: &[GnuSparseHeader]| -> Result<(), Trouble> {
        for field in fields.iter().filter(|field| !field.is_empty()) {
            let (start, length) = (field.offset().map_err(|_| odd())?, field.length().map_err(|_| odd())?);
            let end = start.checked_add(length).filter(|end| *end <= size).ok_or_else(odd)?;
            if stretches.last().is_some_and(|last: &Range<u64>| last.end > start) || stretches.len() == MOST_STRETCHES {
                return Err(odd());
            }
            stretches.push(start..end);
        }
        Ok(())
    };
    take(&gnu.sparse)?;
    let mut extended = gnu.is_extended();
    while extended {
        let mut block = GnuExtSparseHeader::new();
        tar.read_exact(block.as_mut_bytes())?;
        take(block.sparse())?;
        extended = block.is_extended();
    }
    if stretches.iter().map(|stretch| stretch.end - stretch.start).sum::<u64>() != stored {
        return Err(odd());
    }
    Ok((stretches, size))
}
