//! Access control lists (acl(5)), in the four forms in which they meet us.
//!
//! - rsync's `--fake-super` keeps the list of the server's file in an extended attribute: four numbers of 32 bits, little
//!   endian, for owner, group, mask and others (0x80: not said, the mode says it), then pairs of an id and its rights, with the highest
//!   bit set for a user. (rsync's `acls.c`; measured with rsync 3.5.)
//! - The archive has the text of `getfacl -n`, with commas, in the PAX records `SCHILY.acl.access` and `SCHILY.acl.default`, which
//!   GNU tar and libarchive know.
//! - The kernel takes `system.posix_acl_access` and `…_default`: version 2, then a tag, rights and id each (Linux,
//!   `posix_acl_xattr.h`).
//! - Here it is the entries in the kernel's order.

use std::fmt::Write as _;

/// Whom an entry of a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// The file's owner.
    Owner,
    /// A user, by number.
    User(u32),
    /// The file's group.
    OwningGroup,
    /// A group, by number.
    Group(u32),
    /// The most that users and groups get.
    Mask,
    /// Everybody else.
    Other,
}

/// An access control list: each entry with its three bits of rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<(Whom, u8)>);

/// More entries than file systems hold; a list that claims more isn't one.
const MOST: usize = 8192;

impl Acl {
    /// From what rsync keeps. `mode`: the file's permission bits, for what isn't said; none for a default list, which says all.
    pub fn from_rsync(bytes: &[u8], mode: Option<u32>) -> Option<Self> {
        const NOT_SAID: u32 = 0x80;
        const USER: u32 = 1 << 31;
        let words: Vec<u32> = bytes.chunks(4).map(|word| word.try_into().ok().map(u32::from_le_bytes)).collect::<Option<_>>()?;
        let (&[owner, group, mask, other], named) = words.split_first_chunk::<4>()?;
        let said = |word: u32, shift: u32| match (word, mode) {
            (0..=7, _) => rights(word),
            (NOT_SAID, Some(mode)) => rights(mode >> shift & 7),
            _ => None,
        };
        let mut entries =
            vec![(Whom::Owner, said(owner, 6)?), (Whom::OwningGroup, said(group, 3)?), (Whom::Other, said(other, 0)?)];
        if mask != NOT_SAID {
            entries.push((Whom::Mask, rights(mask)?));
        }
        for pair in named.chunks(2) {
            let &[id, access] = pair else { return None };
            let whom = if access & USER == 0 { Whom::Group(id) } else { Whom::User(id) };
            entries.push((whom, rights(access & !USER)?));
        }
        Self::of(entries)
    }

    /// From the text of the archive.
    pub fn from_text(text: &str) -> Option<Self> {
        let entry = |text: &str| {
            let mut parts = text.trim().splitn(3, ':');
            let (tag, id, access) = (parts.next()?, parts.next()?, parts.next()?);
            let whom = match (tag, id) {
                ("user", "") => Whom::Owner,
                ("user", id) => Whom::User(id.parse().ok()?),
                ("group", "") => Whom::OwningGroup,
                ("group", id) => Whom::Group(id.parse().ok()?),
                ("mask", "") => Whom::Mask,
                ("other", "") => Whom::Other,
                _ => return None,
            };
            let bit = |at: usize, letter: u8, bit: u8| match access.as_bytes().get(at) {
                Some(&found) if found == letter => Some(bit),
                Some(b'-') => Some(0),
                _ => None,
            };
            Some((whom, bit(0, b'r', 4)? | bit(1, b'w', 2)? | bit(2, b'x', 1)?))
        };
        Self::of(text.split(',').map(entry).collect::<Option<_>>()?)
    }

    /// As the archive has it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for &(whom, rights) in &self.0 {
            let comma = if text.is_empty() { "" } else { "," };
            let (tag, id) = match whom {
                Whom::Owner => ("user", None),
                Whom::User(id) => ("user", Some(id)),
                Whom::OwningGroup => ("group", None),
                Whom::Group(id) => ("group", Some(id)),
                Whom::Mask => ("mask", None),
                Whom::Other => ("other", None),
            };
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            let letter = |bit: u8, letter: char| if rights & bit == 0 { '-' } else { letter };
            write!(text, "{comma}{tag}:{id}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x'))
                .expect("writing to a string doesn't fail");
        }
        text
    }

    /// As the kernel takes it.
    pub fn to_xattr(&self) -> Vec<u8> {
        const NO_ID: u32 = u32::MAX;
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for &(whom, rights) in &self.0 {
            let (tag, id) = match whom {
                Whom::Owner => (0x01_u16, NO_ID),
                Whom::User(id) => (0x02, id),
                Whom::OwningGroup => (0x04, NO_ID),
                Whom::Group(id) => (0x08, id),
                Whom::Mask => (0x10, NO_ID),
                Whom::Other => (0x20, NO_ID),
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(u16::from(rights).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// The entries in order; none when one stands twice or one that each list has is missing.
    fn of(mut entries: Vec<(Whom, u8)>) -> Option<Self> {
        entries.sort_unstable();
        let twice = entries.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let has = |wanted: Whom| entries.iter().any(|&(whom, _)| whom == wanted);
        let whole = has(Whom::Owner) && has(Whom::OwningGroup) && has(Whom::Other);
        (whole && !twice && entries.len() <= MOST).then_some(Self(entries))
    }
}

fn rights(word: u32) -> Option<u8> {
    u8::try_from(word).ok().filter(|rights| *rights <= 7)
}

#[cfg(test)]
mod tests {
    use super::Acl;
    use crate::digest::unhex;

    #[test]
    fn what_rsync_keeps_is_what_getfacl_shows() {
        let access = unhex("80000000050000000700000080000000d2040000050000804d00000006000000").unwrap();
        let acl = Acl::from_rsync(&access, Some(0o775)).unwrap();
        assert_eq!(acl.to_text(), "user::rwx,user:1234:r-x,group::r-x,group:77:rw-,mask::rwx,other::r-x");
        assert_eq!(Acl::from_text(&acl.to_text()), Some(acl));
        let default = unhex("070000000500000005000000050000000900000005000080").unwrap();
        assert_eq!(Acl::from_rsync(&default, None).unwrap().to_text(), "user::rwx,user:9:r-x,group::r-x,mask::r-x,other::r-x");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bytes in
            ["", "80", "8000000005000000070000", "08000000050000000700000000000000", "80000000050000000700000080000000d2040000"]
        {
            assert_eq!(Acl::from_rsync(&unhex(bytes).unwrap(), Some(0o775)), None, "{bytes}");
        }
        assert_eq!(Acl::from_rsync(&unhex("80000000050000000700000005000000").unwrap(), None), None);
        for text in
            ["", "user::rwx", "user::rwx,group::r-x,other::r-x,other::---", "user::rwx,group::r-x,other::rws", "user:x:rwx"]
        {
            assert_eq!(Acl::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn the_kernels_form_is_version_two() {
        let acl = Acl::from_text("user::rw-,user:5:r--,group::r--,mask::r--,other::---").unwrap();
        let expected =
            ["02000000", "01000600ffffffff", "0200040005000000", "04000400ffffffff", "10000400ffffffff", "20000000ffffffff"];
        assert_eq!(acl.to_xattr(), unhex(&expected.concat()).unwrap());
    }
}
