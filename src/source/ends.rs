//! The beginning and the end of a stream of unknown length, in bounded memory.
//!
//! What a child says can be endless, when the server wants it so. Its first words say what it is, its last ones why it
//! ended; what lies between is counted as left out.

use crate::log::printable;

/// What is kept of a stream.
#[derive(Debug)]
pub struct Ends {
    first: Vec<u8>,
    // the bytes right after `first`, without those that were dropped from its front
    last: Vec<u8>,
    dropped: bool,
    most_first: usize,
    most_last: usize,
}

impl Ends {
    /// Keeps the first `first` bytes, and of the rest at least the last `last`.
    pub fn new(first: usize, last: usize) -> Self {
        Self { first: Vec::new(), last: Vec::new(), dropped: false, most_first: first, most_last: last }
    }

    /// Takes the next bytes of the stream.
    pub fn take(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(self.most_first - self.first.len()));
        self.first.extend_from_slice(first);
        self.last.extend_from_slice(rest);
        // Not at each call: moving the end to the front costs as much as what is kept.
        if self.last.len() > self.most_last * 2 {
            self.last.drain(..self.last.len() - self.most_last);
            self.dropped = true;
        }
    }

    /// The stream's first bytes.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// The stream's last bytes: all of it, when it was short.
    pub fn last(&self) -> Vec<u8> {
        if self.dropped { self.last.clone() } else { [self.first.as_slice(), &self.last].concat() }
    }

    /// What was kept as printable lines, without empty ones; `…` stands for what was dropped.
    pub fn lines(&self) -> Vec<String> {
        if self.dropped {
            let gap = std::iter::once("…".to_owned());
            lines(&self.first).into_iter().chain(gap).chain(lines(&self.last)).collect()
        } else {
            lines(&self.last())
        }
    }
}

fn lines(text: &[u8]) -> Vec<String> {
    text.split(|&byte| byte == b'\n').map(|line| printable(line.trim_ascii())).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::Ends;

    fn of(blocks: &[&[u8]]) -> Ends {
        let mut ends = Ends::new(4, 3);
        for block in blocks {
            ends.take(block);
        }
        ends
    }

    #[test]
    fn what_is_short_is_kept_whole() {
        let ends = of(&[b"ab", b"", b"cdef"]);
        assert_eq!((ends.first(), ends.last().as_slice()), (b"abcd".as_slice(), b"abcdef".as_slice()));
    }

    #[test]
    fn of_what_is_long_the_ends_are_kept() {
        let mut ends = of(&[b"0123456789ab"]);
        assert_eq!((ends.first(), ends.last().as_slice()), (b"0123".as_slice(), b"9ab".as_slice()));
        for _ in 0..100_000 {
            ends.take(b"xyz!");
        }
        assert_eq!(ends.first(), b"0123");
        assert!(ends.last().ends_with(b"yz!") && ends.last().len() <= 6, "{:?}", ends.last());
    }

    #[test]
    fn lines_are_printable_and_not_empty_and_a_gap_is_shown() {
        let mut ends = Ends::new(100, 10);
        ends.take(b"one\r\n\n  \x1b[2Jtwo\n");
        assert_eq!(ends.lines(), ["one", "\\u{1b}[2Jtwo"]);
        assert_eq!(of(&[b"a\nb\n", b"................\nz\n"]).lines(), ["a", "b", "…", "z"]);
    }
}
