//! Warnings in bounded number: a server with a million unreadable files must not fill the report.

use serde::{Deserialize, Serialize};

/// How many warnings are kept word for word.
const KEPT: usize = 100;

/// How many characters of a warning are kept: a server chooses its file names and its messages.
const LONGEST: usize = 1000;

/// The first warnings of a piece of work, and how many more there were. Those that make it less than complete come first
/// and aren't crowded out by others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    /// What was said, each one line; at most a hundred.
    pub lines: Vec<String>,
    /// How many came after those.
    pub more: u64,
    /// How many of the lines, from the first, say why the work isn't complete.
    #[serde(skip)]
    causes: usize,
}

impl Warnings {
    /// Those that were written down before.
    pub fn of(lines: Vec<String>, more: u64) -> Self {
        Self { lines, more, causes: 0 }
    }

    /// How many of the lines, from the first, say why the work isn't complete.
    pub fn causes(&self) -> usize {
        self.causes
    }

    /// Takes one more; `line` is printable already.
    pub fn push(&mut self, line: String) {
        if self.lines.len() < KEPT {
            self.lines.push(cut(line));
        } else {
            self.more += 1;
        }
    }

    /// Takes one more that says why the work isn't complete.
    pub fn cause(&mut self, line: String) {
        if self.causes == KEPT {
            self.more += 1;
            return;
        }
        self.lines.insert(self.causes, cut(line));
        self.causes += 1;
        if self.lines.len() > KEPT {
            self.lines.truncate(KEPT);
            self.more += 1;
        }
    }

    /// Takes over all of another piece of work.
    pub fn append(&mut self, other: Self) {
        for (number, line) in other.lines.into_iter().enumerate() {
            if number < other.causes {
                self.cause(line);
            } else {
                self.push(line);
            }
        }
        self.more += other.more;
    }

    /// How many there were, the uncounted ones included.
    pub fn total(&self) -> u64 {
        self.lines.len() as u64 + self.more
    }
}

/// A line of bearable length.
fn cut(mut line: String) -> String {
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
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
        all.push("é".repeat(1001));
        assert_eq!(all.lines[0], "é".repeat(1000) + "…");
        let mut all = Warnings::default();
        all.push("first".into());
        all.append(warnings);
        assert_eq!((all.lines.len(), all.lines[1].as_str(), all.more), (100, "0", 4));
    }

    #[test]
    fn why_something_is_not_complete_is_never_crowded_out() {
        let mut warnings = Warnings::default();
        (0..150).for_each(|number| warnings.push(number.to_string()));
        warnings.cause("first cause".into());
        warnings.cause("second cause".into());
        assert_eq!(
            (&warnings.lines[..3], warnings.lines.len(), warnings.more),
            (&["first cause", "second cause", "0"].map(String::from)[..], 100, 52)
        );
        let mut all = Warnings::default();
        all.push("mere".into());
        all.append(warnings);
        assert_eq!((all.lines[1].as_str(), all.lines[2].as_str(), all.total()), ("second cause", "mere", 153));
    }
}
