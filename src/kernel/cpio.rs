//! The "newc" cpio archives that an initramfs is made of.
//!
//! The format is the one of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`: a buffer holds any
//! number of segments with zero bytes between them, each either a plain archive that begins at a multiple of four or a
//! compressed one; a later entry of a name replaces an earlier one. That is what makes [`append`] possible: a small plain
//! segment behind the initrd adds the appliance's own configuration, and the initrd that `update-initramfs` made, compressed,
//! stays as it is.
//!
//! Writing is deterministic: everything belongs to root, inode numbers count from one, and times are the caller's. Reading
//! trusts nothing: every length is checked against what is there, and a compressed segment may not grow past
//! [`unpack::MAX_UNPACKED`]. A compression other than zstd and gzip is refused. The numbers of device nodes are read over, as nobody here asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::unpack;

const MAGIC: &[u8] = b"070701";
/// The same header with a sum of the content's bytes in its last field.
const MAGIC_SUM: &[u8] = b"070702";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// `PATH_MAX`: the kernel refuses longer names.
const MAX_NAME: usize = 4096;

const TYPE: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// One file, folder, symbolic link or device node of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root of the initramfs, with neither `./` before nor `/` behind.
    pub path: String,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// A file's bytes or a symbolic link's target; empty for anything else.
    pub content: Vec<u8>,
}

impl Entry {
    /// A regular file with these permissions.
    pub fn file(path: &str, permissions: u32, mtime: u32, content: &[u8]) -> Self {
        Self { path: path.to_owned(), mode: FILE | (permissions & !TYPE), mtime, content: content.to_vec() }
    }

    /// A folder with these permissions.
    pub fn folder(path: &str, permissions: u32, mtime: u32) -> Self {
        Self { path: path.to_owned(), mode: FOLDER | (permissions & !TYPE), mtime, content: Vec::new() }
    }

    /// A symbolic link to `target`.
    pub fn symlink(path: &str, target: &str, mtime: u32) -> Self {
        Self { path: path.to_owned(), mode: SYMLINK | 0o777, mtime, content: target.as_bytes().to_vec() }
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & TYPE == FILE
    }

    /// Whether this is a folder.
    pub fn is_folder(&self) -> bool {
        self.mode & TYPE == FOLDER
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & TYPE == SYMLINK
    }
}

/// Makes one plain segment of `entries`, in their order, with the trailer, padded to a multiple of 512 bytes.
///
/// A folder must stand before what is in it: the kernel makes no folders of its own accord and drops, without a word, a file
/// whose folder is missing.
pub fn write(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    let mut folders = BTreeSet::new();
    for (entry, number) in entries.iter().zip(1_u32..) {
        check(entry, &folders).with_context(|| format!("archiving {:?}", entry.path))?;
        if entry.is_folder() {
            folders.insert(entry.path.as_str());
        }
        put(&mut archive, number, entry)?;
    }
    let trailer = Entry { path: TRAILER.to_owned(), mode: 0, mtime: 0, content: Vec::new() };
    put(&mut archive, 0, &trailer)?;
    archive.resize(archive.len().next_multiple_of(512), 0);
    Ok(archive)
}

/// Adds `entries` behind `initrd` as a plain segment of their own, at a multiple of four.
pub fn append(initrd: &mut Vec<u8>, entries: &[Entry]) -> Result<()> {
    let segment = write(entries)?;
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend_from_slice(&segment);
    Ok(())
}

fn check(entry: &Entry, folders: &BTreeSet<&str>) -> Result<()> {
    let path = entry.path.as_str();
    ensure!(path.len() < MAX_NAME, "the name has {} bytes, and the kernel takes at most {}", path.len(), MAX_NAME - 1);
    ensure!(!path.contains('\0'), "the name has a zero byte in it");
    ensure!(path != TRAILER, "the name means the end of an archive");
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    ensure!(plain, "the name isn't a plain path below the root");
    let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
    ensure!(folders.contains(folder), "its folder {folder:?} doesn't stand before it");
    Ok(())
}

fn put(archive: &mut Vec<u8>, number: u32, entry: &Entry) -> Result<()> {
    let size = u32::try_from(entry.content.len()).with_context(|| format!("archiving {:?}: 4 GiB or more", entry.path))?;
    let links = if entry.is_folder() { 2 } else { 1 };
    let name_size = u32::try_from(entry.path.len() + 1)?;
    archive.extend_from_slice(MAGIC);
    // inode, mode, uid, gid, links, mtime, size, the device's and the node's two numbers, the name's size, the sum
    for field in [number, entry.mode, 0, 0, links, entry.mtime, size, 0, 0, 0, 0, name_size, 0] {
        write!(archive, "{field:08x}")?;
    }
    archive.extend_from_slice(entry.path.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(&entry.content);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

/// Reads every entry of every segment of an initrd, in the order of the kernel: a later entry of a name replaces an earlier
/// one.
///
/// # Errors
/// A segment is cut short or damaged, unpacks to more than [`unpack::MAX_UNPACKED`], or is compressed with something else than zstd
/// or gzip. The error names the byte of the initrd where the segment begins.
pub fn read(initrd: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(padding) = initrd[at..].iter().position(|&byte| byte != 0) {
        at += padding;
        let rest = &initrd[at..];
        let segment = if rest.starts_with(b"0") && !at.is_multiple_of(4) {
            Err(anyhow!("it isn't at a multiple of four, where alone the kernel looks for a plain archive"))
        } else {
            segment(rest, &mut entries)
        };
        at += segment.with_context(|| format!("reading the initrd's segment at byte {at}"))?;
    }
    ensure!(!entries.is_empty(), "reading the initrd: it holds nothing");
    Ok(entries)
}

/// Reads the segment at the front of `bytes` and gives its length.
fn segment(bytes: &[u8], entries: &mut Vec<Entry>) -> Result<usize> {
    if bytes.starts_with(MAGIC) || bytes.starts_with(MAGIC_SUM) {
        return archive(bytes, entries);
    }
    let Some((unpacked, length)) = unpack::unpack(bytes)? else {
        let start = &bytes[..bytes.len().min(6)];
        bail!("it begins with {start:02x?}: neither a cpio archive nor compressed with zstd or gzip")
    };
    let mut at = 0;
    while let Some(padding) = unpacked[at..].iter().position(|&byte| byte != 0) {
        at += padding;
        at += archive(&unpacked[at..], entries).with_context(|| format!("at byte {at} of what it unpacks to"))?;
    }
    Ok(length)
}

/// Reads one plain archive up to its trailer and gives its length.
fn archive(bytes: &[u8], entries: &mut Vec<Entry>) -> Result<usize> {
    let first = entries.len();
    // of several names of one file only the last carries the content
    let mut links: BTreeMap<[u32; 3], Vec<usize>> = BTreeMap::new();
    let mut at = 0;
    loop {
        let header = bytes.get(at..at + HEADER).with_context(|| format!("the archive is cut short at byte {at}"))?;
        let sum = header.starts_with(MAGIC_SUM);
        ensure!(sum || header.starts_with(MAGIC), "the archive is damaged: no header at byte {at}");
        let mut fields = [0_u32; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks(8)) {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            *field =
                value.with_context(|| format!("the archive is damaged: no hexadecimal number in the header at byte {at}"))?;
        }
        let [number, mode, _, _, count, mtime, size, major, minor, _, _, name_size, wanted] = fields;
        let name_size = usize::try_from(name_size)?;
        ensure!((2..=MAX_NAME).contains(&name_size), "the archive is damaged: a name of {name_size} bytes at byte {at}");
        let name = bytes.get(at + HEADER..at + HEADER + name_size).context("the archive is cut short inside a name")?;
        let Some((0, name)) = name.split_last() else { bail!("the archive is damaged: the name at byte {at} has no end") };
        let name = std::str::from_utf8(name).with_context(|| format!("reading the name at byte {at}"))?;
        at = (at + HEADER + name_size).next_multiple_of(4);
        if name == TRAILER {
            return Ok(at.min(bytes.len()));
        }
        let end = at.checked_add(usize::try_from(size)?).context("the archive is damaged: a size beyond all memory")?;
        let content = bytes.get(at..end).with_context(|| format!("the archive is cut short inside {name:?}"))?;
        let found = content.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
        ensure!(!sum || found == wanted, "the archive is damaged: the sum of {name:?} is {found:08x} instead of {wanted:08x}");
        at = end.next_multiple_of(4);
        let path = name.trim_start_matches("./").trim_matches('/');
        if mode & TYPE == FILE && count > 1 {
            links.entry([major, minor, number]).or_default().push(entries.len() - first);
        }
        entries.push(Entry { path: path.to_owned(), mode, mtime, content: content.to_vec() });
        if let Some(others) = links.get(&[major, minor, number]).filter(|_| !content.is_empty()) {
            for &other in others {
                entries[first + other].content = content.to_vec();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use flate2::{Compression, write::GzEncoder};

    use super::{Entry, append, read, write};
    use crate::process;

    fn sample() -> Vec<Entry> {
        vec![
            Entry::folder("etc", 0o755, 7),
            Entry::file("etc/hostname", 0o644, 8, b"berry\n"),
            Entry::symlink("bin", "usr/bin", 9),
            Entry::file("empty", 0o600, 10, b""),
        ]
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8], options: &[&str]) -> Vec<u8> {
        process::output_with_input(Command::new("zstd").arg("-cq").args(options), "packing", bytes).unwrap()
    }

    #[test]
    fn an_archive_has_the_exact_bytes_of_the_format() {
        let archive = write(&[Entry::file("a", 0o644, 0x10, b"hello")]).unwrap();
        let mut wanted = b"070701000000010000\
            81a4000000000000000000000001000000100000000500000000000000000000000000000000\
            0000000200000000a\0hello\0\0\0\
            07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000\
            000b00000000TRAILER!!!\0\0\0\0"
            .to_vec();
        wanted.resize(512, 0);
        assert_eq!(String::from_utf8(archive).unwrap(), String::from_utf8(wanted).unwrap());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let archive = write(&sample()).unwrap();
        assert_eq!(archive.len() % 512, 0);
        assert_eq!(read(&archive).unwrap(), sample());
    }

    #[test]
    fn segments_may_be_plain_or_compressed_with_zeros_between() {
        let segment = |name: &str| write(&[Entry::file(name, 0o644, 0, name.as_bytes())]).unwrap();
        let mut initrd = segment("early");
        initrd.extend_from_slice(&[0; 513]);
        initrd.extend_from_slice(&zstd(&segment("main"), &["-3"]));
        initrd.extend_from_slice(&[0; 3]);
        initrd.extend_from_slice(&zstd(&segment("second"), &["-19", "--no-check"]));
        initrd.extend_from_slice(&gzip(&segment("third")));
        assert!(!initrd.len().is_multiple_of(4), "nothing is left to align");
        append(&mut initrd, &[Entry::file("late", 0o600, 1, b"x")]).unwrap();
        let names: Vec<_> = read(&initrd).unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(names, ["early", "main", "second", "third", "late"]);
    }

    #[test]
    fn every_cut_of_an_initrd_is_an_error() {
        let archive = write(&sample()).unwrap();
        let end = archive.iter().rposition(|&byte| byte == b'!').unwrap() + 2;
        for length in 0..end {
            assert!(read(&archive[..length]).is_err(), "{length} bytes were taken for a whole archive");
        }
        assert!(read(&archive[..end]).is_ok());
        for packed in [zstd(&archive, &[]), gzip(&archive)] {
            for length in 0..packed.len() {
                assert!(read(&packed[..length]).is_err(), "{length} bytes were taken for a whole segment");
            }
        }
    }

    #[test]
    fn damage_is_named() {
        let error = |initrd: &[u8]| format!("{:#}", read(initrd).unwrap_err());
        let mut archive = write(&sample()).unwrap();
        assert_eq!(error(&[0; 8]), "reading the initrd: it holds nothing");
        let xz = [0, 0, 0xfd, b'7', b'z', b'X', b'Z', 0, 1];
        let wanted = "reading the initrd's segment at byte 2: it begins with [fd, 37, 7a, 58, 5a, 00]: \
             neither a cpio archive nor compressed with zstd or gzip";
        assert_eq!(error(&xz), wanted);
        let aside = [&[0], archive.as_slice()].concat();
        let wanted = "it isn't at a multiple of four, where alone the kernel looks for a plain archive";
        assert_eq!(error(&aside), format!("reading the initrd's segment at byte 1: {wanted}"));
        archive[7] = b'+';
        let wanted = "the archive is damaged: no hexadecimal number in the header at byte 0";
        assert_eq!(error(&archive), format!("reading the initrd's segment at byte 0: {wanted}"));
    }

    #[test]
    fn a_sum_is_checked() {
        let archive = write(&[Entry::file("a", 0o644, 0, b"abc")]).unwrap();
        let mut archive = archive;
        archive[5] = b'2';
        archive[102..110].copy_from_slice(b"00000126");
        assert_eq!(read(&archive).unwrap().len(), 1);
        archive[109] = b'7';
        let error = format!("{:#}", read(&archive).unwrap_err());
        assert!(error.ends_with("the sum of \"a\" is 00000126 instead of 00000127"), "{error}");
    }

    #[test]
    fn hard_links_share_the_last_ones_content() {
        let mut first = write(&[Entry::file("a", 0o644, 0, b"")]).unwrap();
        let mut second = write(&[Entry::file("b", 0o644, 0, b"same")]).unwrap();
        for archive in [&mut first, &mut second] {
            archive[45] = b'2';
        }
        first.truncate(112);
        first.extend_from_slice(&second);
        let entries = read(&first).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.content.as_slice()).collect::<Vec<_>>(), [b"same", b"same"]);
    }

    #[test]
    fn names_that_the_kernel_would_drop_are_refused() {
        for path in ["", "/etc", "a//b", "../etc", "./etc", "a\0b", "TRAILER!!!"] {
            assert!(write(&[Entry::folder(path, 0o755, 0)]).is_err(), "{path:?} was taken");
        }
        let error = write(&[Entry::file("etc/hostname", 0o644, 0, b"")]).unwrap_err();
        assert_eq!(format!("{error:#}"), "archiving \"etc/hostname\": its folder \"etc\" doesn't stand before it");
    }
}
