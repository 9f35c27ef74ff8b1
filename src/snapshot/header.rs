//! What stands before an entry's content in a tar archive: its header, and before that what the header has no room for.
//!
//! The form is POSIX's pax interchange format (IEEE Std 1003.1, `pax`), which has a record for each thing: long names, times to
//! the nanosecond, big numbers, names of owners. Extended attributes are `SCHILY.xattr.NAME`, access control lists
//! `SCHILY.acl.access` and `SCHILY.acl.default`, as star began and GNU tar and libarchive understand. Two things are done in GNU's
//! older way, since more readers take it:
//!
//! - A long name that isn't ASCII has an entry of its own (`L`, `K`), byte for byte: a pax record has to be UTF-8, and bsdtar
//!   wants a locale for it.
//! - A sparse file is of type `S`: its header says which stretches of it follow. p7zip knows no newer form.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::snapshot::entry::{Entry, Kind, Time};
use crate::source::owners::Owners;

/// Archives are made of blocks of this many bytes.
pub const BLOCK: usize = 512;

/// The largest number of 7 octal digits, which is what a header takes for owners.
const MOST_OWNER: u32 = 0o7_777_777;

/// The largest number of 11 octal digits, for sizes and times.
const MOST_LONG: u64 = 0o77_777_777_777;

/// How many stretches of a sparse file a header names itself.
const SPARSE_IN_HEADER: usize = 4;

/// The header of `entry`, with all that must stand before it. `data`: the stretches of a sparse file that follow.
pub fn write(out: &mut impl Write, entry: &Entry, owners: &Owners, data: Option<&[Range<u64>]>) -> io::Result<()> {
    let mut name = Cow::Borrowed(entry.path.as_os_str().as_bytes());
    if entry.kind == Kind::Folder {
        name.to_mut().push(b'/');
    }
    let link = match &entry.kind {
        Kind::Symlink(target) => Some(target.as_bytes()),
        Kind::Hardlink(first) => Some(first.as_os_str().as_bytes()),
        _ => None,
    };
    let mut header = Header::new_ustar();
    if let Some(data) = data {
        header = Header::new_gnu();
        set_sparse(&mut header, entry, data);
    } else {
        header.set_size(entry.size);
        header.set_entry_type(kind(&entry.kind));
    }
    set_attributes(&mut header, entry, owners);
    let fields = header.as_old_mut();
    let name_fits = fill(&mut fields.name, &name);
    let link_fits = link.is_none_or(|link| fill(&mut fields.linkname, link));
    header.set_cksum();

    let mut records = Records::default();
    for (fits, name, key, kind) in
        [(name_fits, Some(name.as_ref()), "path", EntryType::GNULongName), (link_fits, link, "linkpath", EntryType::GNULongLink)]
    {
        match name {
            Some(name) if !fits && name.is_ascii() => records.add(key, name),
            Some(name) if !fits => long(out, kind, name)?,
            _ => {}
        }
    }
    records.attributes(entry, owners);
    records.write(out)?;
    out.write_all(header.as_bytes())?;
    data.map_or(Ok(()), |data| more_sparse(out, entry, data))
}

/// What fills the last block of a content of `size` bytes.
pub fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = usize::try_from(size % BLOCK as u64).expect("it is less than a block");
    if over == 0 { &[] } else { &ZEROS[over..] }
}

fn kind(kind: &Kind) -> EntryType {
    match kind {
        Kind::File | Kind::Socket => EntryType::Regular,
        Kind::Folder => EntryType::Directory,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::Hardlink(_) => EntryType::Link,
        Kind::Fifo => EntryType::Fifo,
        Kind::CharDevice(_) => EntryType::Char,
        Kind::BlockDevice(_) => EntryType::Block,
    }
}

/// As far as they fit; what doesn't is in [`Records::attributes`].
fn set_attributes(header: &mut Header, entry: &Entry, owners: &Owners) {
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.min(MOST_OWNER).into());
    header.set_gid(entry.gid.min(MOST_OWNER).into());
    header.set_mtime(u64::try_from(entry.mtime.seconds).unwrap_or(0).min(MOST_LONG));
    for (name, group) in [(owners.users.get(&entry.uid), false), (owners.groups.get(&entry.gid), true)] {
        let Some(name) = name.filter(|name| name.is_ascii()) else { continue };
        // One that doesn't fit is in a record.
        let _ = if group { header.set_groupname(name) } else { header.set_username(name) };
    }
    if let Kind::CharDevice(device) | Kind::BlockDevice(device) = entry.kind {
        let set = header.set_device_major(device.major).and_then(|()| header.set_device_minor(device.minor));
        set.expect("a ustar header has room for devices");
    }
}

fn set_sparse(header: &mut Header, entry: &Entry, data: &[Range<u64>]) {
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(data.iter().map(|stretch| stretch.end - stretch.start).sum());
    let fields = header.as_gnu_mut().expect("it was made as a GNU header");
    fields.set_real_size(entry.size);
    let stretches = stretches(entry, data);
    fields.set_is_extended(stretches.len() > SPARSE_IN_HEADER);
    fields.sparse.iter_mut().zip(&stretches).for_each(put);
}

/// Those that the header had no room for, 21 a block.
fn more_sparse(out: &mut impl Write, entry: &Entry, data: &[Range<u64>]) -> io::Result<()> {
    let all = stretches(entry, data);
    let mut rest = all.get(SPARSE_IN_HEADER..).unwrap_or_default();
    while !rest.is_empty() {
        let mut block = GnuExtSparseHeader::new();
        let (here, after) = rest.split_at(rest.len().min(block.sparse.len()));
        block.sparse_mut().iter_mut().zip(here).for_each(put);
        block.set_is_extended(!after.is_empty());
        out.write_all(block.as_bytes())?;
        rest = after;
    }
    Ok(())
}

/// With an empty one at the end where a hole is the last: it says how long the file is.
fn stretches(entry: &Entry, data: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all = data.to_vec();
    if all.last().is_none_or(|last| last.end < entry.size) {
        all.push(entry.size..entry.size);
    }
    all
}

fn put((field, stretch): (&mut GnuSparseHeader, &Range<u64>)) {
    field.set_offset(stretch.start);
    field.set_length(stretch.end - stretch.start);
}

/// GNU's entry for a name that doesn't fit: its content is the name, ended by a zero.
fn long(out: &mut impl Write, kind: EntryType, name: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    fill(&mut header.as_old_mut().name, b"././@LongLink");
    extra(out, header, kind, &[name, &[0]].concat())
}

/// An entry that is about the next one.
fn extra(out: &mut impl Write, mut header: Header, kind: EntryType, content: &[u8]) -> io::Result<()> {
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    out.write_all(content)?;
    out.write_all(padding(content.len() as u64))
}

/// Puts as much of `text` as fits into a header's field, and says whether all did.
fn fill(field: &mut [u8], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    text.len() <= field.len()
}

/// A time as pax writes it: seconds with as many decimals as there are.
pub fn time_text(time: Time) -> String {
    // -1.5 s are -2 s and 500,000,000 ns.
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanoseconds)
    } else {
        (if time.seconds < 0 { "-" } else { "" }, time.seconds.unsigned_abs(), time.nanoseconds)
    };
    let decimals = format!(".{nanoseconds:09}");
    format!("{sign}{seconds}{}", decimals.trim_end_matches('0').trim_end_matches('.'))
}

/// A time as pax writes it, in whatever form; none when it isn't one.
pub fn time_of(text: &str) -> Option<Time> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(decimals) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanoseconds: u32 = format!("{decimals:0<9.9}").parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// The records of a pax header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn attributes(&mut self, entry: &Entry, owners: &Owners) {
        let Time { seconds, nanoseconds } = entry.mtime;
        if nanoseconds > 0 || !(0..=MOST_LONG).contains(&u64::try_from(seconds).unwrap_or(u64::MAX)) {
            self.add("mtime", time_text(entry.mtime).as_bytes());
        }
        if entry.size > MOST_LONG {
            self.add("size", entry.size.to_string().as_bytes());
        }
        for (key, number) in [("uid", entry.uid), ("gid", entry.gid)] {
            if number > MOST_OWNER {
                self.add(key, number.to_string().as_bytes());
            }
        }
        for (key, name) in [("uname", owners.users.get(&entry.uid)), ("gname", owners.groups.get(&entry.gid))] {
            if let Some(name) = name.filter(|name| !name.is_ascii() || name.len() > 32) {
                self.add(key, name.as_bytes());
            }
        }
        for (name, value) in &entry.extras.xattrs {
            self.add_bytes(&[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
        }
        for (key, acl) in [("SCHILY.acl.access", &entry.extras.acl), ("SCHILY.acl.default", &entry.extras.default_acl)] {
            if let Some(acl) = acl {
                self.add(key, acl.to_text().as_bytes());
            }
        }
    }

    fn add(&mut self, key: &str, value: &[u8]) {
        self.add_bytes(key.as_bytes(), value);
    }

    /// `LENGTH KEY=VALUE` and a newline; the length counts its own digits.
    fn add_bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend(format!("{length} ").as_bytes());
        for part in [key, b"=", value, b"\n"] {
            self.0.extend(part);
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        fill(&mut header.as_old_mut().name, b"PaxHeader");
        extra(out, header, EntryType::XHeader, &self.0)
    }
}

/// Whether an attribute of this name can stand in a record: it ends at the first `=`.
pub fn takes(name: &Path) -> bool {
    !name.as_os_str().as_bytes().contains(&b'=')
}

#[cfg(test)]
mod tests {
    use super::{Records, time_of, time_text};
    use crate::snapshot::entry::Time;

    #[test]
    fn a_time_is_written_with_the_decimals_it_has_and_read_back() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1_795_400_000, 0, "1795400000"),
            (7, 123_456_789, "7.123456789"),
            (7, 500_000_000, "7.5"),
            (7, 1, "7.000000001"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (-5, 0, "-5"),
        ] {
            let time = Time { seconds, nanoseconds };
            assert_eq!(time_text(time), text);
            assert_eq!(time_of(text), Some(time), "{text}");
        }
        assert_eq!(time_of("7.1234567899"), Some(Time { seconds: 7, nanoseconds: 123_456_789 }));
        for text in ["", "-", ".5", "1.x", "+1", "1e9", "99999999999999999999"] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_records_length_counts_its_own_digits() {
        for (value, expected) in [("", "6 ab=\n"), ("12", "8 ab=12\n"), ("1234", "11 ab=1234\n"), ("123", "9 ab=123\n")] {
            let mut records = Records::default();
            records.add("ab", value.as_bytes());
            let text = String::from_utf8(records.0).unwrap();
            assert_eq!(text, expected);
            assert_eq!(text.len(), text.split(' ').next().unwrap().parse::<usize>().unwrap());
        }
    }
}
