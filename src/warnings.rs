//! Warnings in bounded number: a server with a million unreadable files must not fill the report.

use serde::Serialize;

/// How many warnings are kept word for word.
const KEPT: usize = 100;

/// The first warnings of a piece of work, and how many more there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Warnings {
    /// What was said, each one line, in order; at most a hundred.
    pub lines: Vec<String>,
    /// How many came after those.
    pub more: u64,
}

impl Warnings {
    /// Takes one more; `line` is printable already.
    pub fn push(&mut self, line: String) {
        if self.lines.len() < KEPT {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    /// Takes over all of another piece of work.
    pub fn append(&mut self, other: Self) {
        for line in other.lines {
            self.push(line);
        }
        self.more += other.more;
    }

    /// How many there were, the uncounted ones included.
    pub fn total(&self) -> u64 {
        self.lines.len() as u64 + self.more
    }
}

#[cfg(test)]
mod tests {
    use super::Warnings;

    #[test]
    fn beyond_the_bound_warnings_are_counted_only() {
        let mut warnings = Warnings::default();
        for number in 0..103 {
            warnings.push(number.to_string());
        }
        assert_eq!((warnings.lines.len(), warnings.more, warnings.total()), (100, 3, 103));
        let mut all = Warnings::default();
        all.push("first".into());
        all.append(warnings);
        assert_eq!((all.lines.len(), all.lines[1].as_str(), all.more), (100, "0", 4));
    }
}
