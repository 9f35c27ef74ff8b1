//! Reading the queue's files. Whatever else lies in its folder is neither waited for nor sent.
//!
//! A pipe would never come to its end, a symbolic link may lead to what isn't meant to be mailed, and what isn't a mail of
//! the appliance's own may be anything, which would go out in clear.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::report::limits::MOST_BYTES;

/// What helps against a file that isn't of the queue.
const HINT: &str = "nothing of vaultberry's made it: look what it is, and remove it from the queue";

/// In how many bytes the headers of a mail of ours end: it has no more than a few hundred recipients.
const LONGEST_HEADERS: u64 = 256 << 10;

/// What each mail of the appliance has among its headers, sealed or not.
const OURS: [&[u8]; 3] = [b"Message-ID: <", b"Subject: ", b"Auto-Submitted: auto-generated"];

/// A mail as it goes out.
///
/// # Errors
/// It can't be read, or isn't a mail of the appliance's own.
pub fn mail(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading the mail {}", path.display());
    let mail = read(path)?.with_context(|| format!("{}: it is gone", reading()))?;
    if !is_ours(&mail) {
        bail!("{}: it is no mail that vaultberry made, and isn't sent\nhint: {HINT}", reading());
    }
    Ok(mail)
}

/// A text beside the mails; none where there is no such file.
///
/// # Errors
/// It can't be read, or isn't text.
pub fn text(path: &Path) -> Result<Option<String>> {
    let text = read(path)?.map(String::from_utf8).transpose();
    text.with_context(|| format!("reading {}", path.display()))
}

/// How many bytes a mail of the appliance's own has; none when it is gone, or isn't one.
pub fn size(path: &Path) -> Option<u64> {
    let file = open(path).ok()??;
    let length = file.metadata().ok()?.len();
    let mut start = Vec::new();
    file.take(LONGEST_HEADERS).read_to_end(&mut start).ok()?;
    is_ours(&start).then_some(length)
}

/// What stands in a regular file; none where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let reading = || format!("reading {}", path.display());
    let Some(file) = open(path)? else { return Ok(None) };
    if file.metadata().with_context(reading)?.len() > MOST_BYTES {
        bail!("{}: it is larger than all mails together may be\nhint: {HINT}", reading());
    }
    whole(file).map(Some).with_context(reading)
}

/// A regular file, to be read; none where there is none.
fn open(path: &Path) -> Result<Option<File>> {
    let reading = || format!("reading {}", path.display());
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            bail!("{}: it is a symbolic link\nhint: {HINT}", reading())
        }
        file => file.with_context(reading)?,
    };
    if !file.metadata().with_context(reading)?.is_file() {
        bail!("{}: it isn't a file\nhint: {HINT}", reading());
    }
    Ok(Some(file))
}

fn whole(file: File) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether the headers, which end with the first empty line, are those of a mail that the appliance made.
fn is_ours(mail: &[u8]) -> bool {
    let Some(end) = mail.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let lines: Vec<&[u8]> = mail[..end].split(|byte| *byte == b'\n').collect();
    OURS.iter().all(|start| lines.iter().any(|line| line.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use super::is_ours;
    use crate::report::fake;

    #[test]
    fn a_mail_has_our_headers_before_its_first_empty_line() {
        assert!(is_ours(&fake::mail("content")));
        for other in ["", "root:x:0:0:root\n", "Message-ID: <1@a>\r\nSubject: x\r\n\r\nAuto-Submitted: auto-generated\r\n"] {
            assert!(!is_ours(other.as_bytes()), "{other}");
        }
    }
}
