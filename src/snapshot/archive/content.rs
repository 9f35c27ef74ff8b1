//! A file's content, of exactly the size that was promised, hashed as it goes by.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use openssl::sha::Sha256;

use crate::sparse::data_from;

/// The most that is asked for at once, in bytes.
const MOST: u64 = 1 << 20;

/// How many stretches of a sparse file are told apart; a file with more of them is taken as a whole, holes and all.
const MOST_STRETCHES: usize = 100_000;

/// The stretches of `file` that aren't holes, in order; none when there is nothing to be gained from knowing.
pub(super) fn stretches(file: &File, size: u64) -> Option<Vec<Range<u64>>> {
    let mut stretches = Vec::new();
    let mut at = 0;
    while let Some(data) = data_from(file, at, size).ok()? {
        if stretches.len() == MOST_STRETCHES || data.is_empty() {
            return None;
        }
        at = data.end;
        stretches.push(data);
    }
    (stretches != [0..size]).then_some(stretches)
}

/// What is read of a file.
pub(super) struct Content<'a> {
    file: &'a File,
    // the rest, the next stretch first
    data: std::vec::IntoIter<Range<u64>>,
    now: Range<u64>,
    left: u64,
    sha256: Sha256,
    trouble: Option<String>,
}

impl<'a> Content<'a> {
    /// These stretches of `file`.
    pub(super) fn new(file: &'a File, data: Vec<Range<u64>>) -> Self {
        let left = data.iter().map(|stretch| stretch.end - stretch.start).sum();
        Self { file, data: data.into_iter(), now: 0..0, left, sha256: Sha256::new(), trouble: None }
    }

    /// Whether all was read.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// How much may be asked for next, in bytes.
    pub(super) fn next_length(&self) -> usize {
        usize::try_from(self.left.min(MOST)).expect("it is small")
    }

    /// Fills the beginning of `room`, which isn't empty, and gives how much of it.
    pub(super) fn read(&mut self, room: &mut [u8]) -> usize {
        if self.now.is_empty() {
            self.now = self.data.by_ref().find(|stretch| !stretch.is_empty()).unwrap_or(0..0);
        }
        let wanted = usize::try_from(self.now.end - self.now.start).unwrap_or(usize::MAX).min(room.len());
        let length = self.fill(&mut room[..wanted]);
        self.sha256.update(&room[..length]);
        self.now.start += length as u64;
        self.left -= length as u64;
        length
    }

    /// The hash of what was given out, and what went wrong.
    pub(super) fn finish(self) -> ([u8; 32], Option<String>) {
        (self.sha256.finish(), self.trouble)
    }

    fn fill(&mut self, room: &mut [u8]) -> usize {
        if self.trouble.is_none() {
            match read_at(self.file, room, self.now.start) {
                Ok(0) => self.trouble = Some(format!("its last {} bytes were gone, zeros stand for them", self.left)),
                Ok(length) => return length,
                Err(error) => {
                    self.trouble = Some(format!("reading it: {error}; zeros stand for its last {} bytes", self.left));
                }
            }
        }
        room.fill(0);
        room.len()
    }
}

fn read_at(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(room, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::ops::Range;

    use nix::unistd::ftruncate;

    use super::{Content, stretches};

    fn given(file: &File, data: &[Range<u64>]) -> (Vec<u8>, Option<String>) {
        let mut content = Content::new(file, data.to_vec());
        let mut bytes = Vec::new();
        while !content.is_over() {
            let mut room = [0; 3];
            let length = content.next_length().min(3);
            let length = content.read(&mut room[..length]);
            bytes.extend_from_slice(&room[..length]);
        }
        (bytes, content.finish().1)
    }

    #[test]
    fn content_has_the_promised_size_whatever_the_file_does() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"12345").unwrap();
        assert_eq!(given(&file, &[0..5]), (b"12345".to_vec(), None));
        assert_eq!(given(&file, &[0..3]), (b"123".to_vec(), None));
        assert_eq!(given(&file, &[1..2, 3..3, 3..5]), (b"245".to_vec(), None));
        assert_eq!(given(&file, &[0..0]), (Vec::new(), None));
        let gone = "its last 2 bytes were gone, zeros stand for them";
        assert_eq!(given(&file, &[0..7]), (b"12345\0\0".to_vec(), Some(gone.into())));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_filled_with_zeros_and_named() {
        // Reading a folder's descriptor is an error, as a bad sector is.
        let folder = tempfile::tempdir().unwrap();
        let file = File::open(folder.path()).unwrap();
        let (bytes, trouble) = given(&file, &[0..4]);
        assert_eq!(bytes, [0; 4]);
        assert!(trouble.unwrap().ends_with("; zeros stand for its last 4 bytes"));
    }

    #[test]
    fn holes_are_found_where_there_are_any() {
        let file = tempfile::tempfile().unwrap();
        ftruncate(&file, 1 << 20).unwrap();
        assert_eq!(stretches(&file, 1 << 20), Some(Vec::new()));
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 8192], 1 << 18).unwrap();
        assert_eq!(stretches(&file, 1 << 20), Some(vec![1 << 18..(1 << 18) + 8192]));
        let mut whole = tempfile::tempfile().unwrap();
        whole.write_all(&[7; 10_000]).unwrap();
        assert_eq!(stretches(&whole, 10_000), None);
    }
}
