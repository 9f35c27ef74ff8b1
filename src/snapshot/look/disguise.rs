//! What rsync's `--fake-super` keeps in extended attributes, because the account that it runs as may not set it.
//!
//! | attribute | content |
//! |---|---|
//! | `user.rsync.%stat` | `104755 0,0 1000:1001`: type and mode in octal, device numbers, owner and group |
//! | `user.rsync.%aacl`, `user.rsync.%dacl` | the access control lists, in rsync's own form ([`Acl::from_rsync`]) |
//! | `user.rsync.NAME` | the attribute `NAME` of another namespace, as `security.capability` |
//!
//! Attributes of `user.` stand under their own names. (rsync's `xattrs.c`; measured with rsync 3.5.)

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::snapshot::acl::Acl;
use crate::snapshot::entry::{Device, Entry, Extras};

const PREFIX: &[u8] = b"user.rsync.";
const STAT: &[u8] = b"%stat";
const ACL: &[u8] = b"%aacl";
const DEFAULT_ACL: &[u8] = b"%dacl";

/// What a file's attributes say that it really is.
#[derive(Debug, PartialEq, Eq)]
pub enum Disguise {
    /// Nothing: it is what it seems.
    None,
    /// This.
    Stat(Stat),
    /// Something that can't be understood.
    Unclear,
}

/// The content of `user.rsync.%stat`.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it was.
    pub kind: Type,
    /// Its permission bits.
    pub mode: u32,
    /// Its numbers, of a device.
    pub device: Device,
    /// Its owner's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

/// What `stat(2)` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; the file that stands for it holds its target.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A socket.
    Socket,
}

/// Whether an attribute is worth reading: those of other namespaces are this machine's own (its security labels, say).
pub fn is_kept(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"user.")
}

/// Tells what rsync keeps from what the server's file had. `entry` is what the file seems to be, for what isn't said.
pub fn split(attributes: Vec<(OsString, Vec<u8>)>, entry: &Entry) -> (Disguise, Extras) {
    let mut disguise = Disguise::None;
    let mut extras = Extras::default();
    let (mut acl, mut default_acl) = (None, None);
    for (name, value) in attributes {
        match name.as_bytes().strip_prefix(PREFIX) {
            None => extras.xattrs.push((name, value)),
            Some(STAT) => disguise = Stat::parse(&value).map_or(Disguise::Unclear, Disguise::Stat),
            Some(ACL) => acl = Some(value),
            Some(DEFAULT_ACL) => default_acl = Some(value),
            // rsync's own, of a version that knows more.
            Some(other) if other.starts_with(b"%") => {}
            Some(other) => extras.xattrs.push((OsString::from_vec(other.to_vec()), value)),
        }
    }
    let mode = if let Disguise::Stat(stat) = &disguise { stat.mode } else { entry.mode };
    extras.acl = acl.and_then(|acl| Acl::from_rsync(&acl, Some(mode)));
    extras.default_acl = default_acl.and_then(|acl| Acl::from_rsync(&acl, None));
    extras.xattrs.sort_unstable();
    (disguise, extras)
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split(' ');
        let (mode, device, owner) = (parts.next()?, parts.next()?, parts.next()?);
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let (major, minor) = device.split_once(',')?;
        let (uid, gid) = owner.split_once(':')?;
        let kind = match mode & 0o170_000 {
            0o100_000 => Type::File,
            0o040_000 => Type::Folder,
            0o120_000 => Type::Symlink,
            0o010_000 => Type::Fifo,
            0o020_000 => Type::CharDevice,
            0o060_000 => Type::BlockDevice,
            0o140_000 => Type::Socket,
            _ => return None,
        };
        let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
        let stat = Self { kind, mode: mode & 0o7777, device, uid: uid.parse().ok()?, gid: gid.parse().ok()? };
        parts.next().is_none().then_some(stat)
    }
}
