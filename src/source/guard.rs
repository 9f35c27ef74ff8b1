//! The mirror guard: what keeps a server's accident from emptying its mirror.
//!
//! A disk that isn't mounted over there looks like a folder in which all was deleted, and rsync would delete it here. So a pull
//! first holds all deletions back (`--max-delete=0`), which costs nothing, and rsync says how many there would be. Only when
//! there are some, and they are plausible, a second pass makes them.

use serde::{Deserialize, Serialize};

/// How many deletions are never too many: in a small folder two files can be half of all.
const FEW: u64 = 10;

/// What a pass would delete. Folders don't count: rsync doesn't say how many it would have to empty first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletions {
    /// How many files would go from the mirror; with them empty folders.
    pub gone: u64,
    /// How many files there are on the server.
    pub there: u64,
    /// How many of those are new to the mirror.
    pub new: u64,
    /// Whether there is anything at all on the server, be it a folder.
    pub empty: bool,
}

impl Deletions {
    /// Whether they are plausible, with at most `most` per cent of what the mirror had.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(self, most: u16) -> Result<(), String> {
        let Self { gone, there, new, empty } = self;
        let had = there.saturating_sub(new) + gone;
        if gone > 0 && empty {
            return Err("there is nothing in it on the server, and the mirror isn't empty".to_owned());
        }
        if gone > FEW && u128::from(gone) * 100 > u128::from(had) * u128::from(most) {
            return Err(format!("{gone} of its {had} files are gone on the server, which is more than {most} %"));
        }
        Ok(())
    }
}

/// Of a source's regular files, how many a pull couldn't read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Those that can't be read on the server.
    pub unreadable: u64,
    /// All of them.
    pub all: u64,
}

impl Unread {
    /// Adds those of another path.
    pub fn add(&mut self, other: Self) {
        self.unreadable += other.unreadable;
        self.all += other.all;
    }

    /// Whether enough could be read for what came to be taken for the state of the server: more than half, unless those that
    /// can't be read are few, and in any case one.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(self) -> Result<(), String> {
        let Self { unreadable, all } = self;
        let read = all.saturating_sub(unreadable);
        if unreadable > 0 && (read == 0 || unreadable > FEW && unreadable >= read) {
            return Err(format!("{unreadable} of its {all} files can't be read on the server"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Deletions, Unread};

    #[test]
    fn half_of_a_source_must_be_readable_unless_the_rest_are_few() {
        let told = |unreadable, all| Err(format!("{unreadable} of its {all} files can't be read on the server"));
        for (unreadable, all, expected) in [
            (0, 0, Ok(())),
            (0, 100, Ok(())),
            (1, 1, told(1, 1)),
            (10, 11, Ok(())),
            (11, 22, told(11, 22)),
            (11, 23, Ok(())),
            (40, 40, told(40, 40)),
        ] {
            assert_eq!(Unread { unreadable, all }.judge(), expected, "{unreadable} {all}");
        }
    }

    #[test]
    fn the_golden_table() {
        let nothing = Err("there is nothing in it on the server, and the mirror isn't empty".to_owned());
        let many =
            |gone, had, most| Err(format!("{gone} of its {had} files are gone on the server, which is more than {most} %"));
        for (gone, there, new, most, expected) in [
            (0, 100, 100, 20, Ok(())),
            // a share: new files don't dilute it
            (20, 81, 1, 20, Ok(())),
            (21, 81, 1, 20, many(21, 101, 20)),
            (50, 1050, 1000, 20, many(50, 100, 20)),
            (1_000_000, 4_000_000, 0, 20, Ok(())),
            // few are never many
            (10, 2, 0, 20, Ok(())),
            (11, 2, 0, 20, many(11, 13, 20)),
            (10, 2, 0, 0, Ok(())),
            (11, 1000, 0, 0, many(11, 1011, 0)),
            (5000, 2, 0, 100, Ok(())),
        ] {
            assert_eq!(Deletions { gone, there, new, empty: false }.judge(most), expected, "{gone} {there} {new} {most}");
        }
        // an empty source is never plausible
        for (gone, expected) in [(0, Ok(())), (1, nothing.clone()), (5000, nothing)] {
            assert_eq!(Deletions { gone, there: 0, new: 0, empty: true }.judge(100), expected, "{gone}");
        }
    }
}
