//! The mirror guard: what keeps a server's accident from emptying its mirror.
//!
//! A disk that isn't mounted over there looks like a folder in which all was deleted, and rsync would delete it here. So a pull
//! first holds all deletions back (`--max-delete=0`), which costs nothing, and rsync says how many there would be. Only when
//! there are some, and they are plausible, a second pass makes them.

/// How many deletions are never too many: in a small folder two files can be half of all.
const FEW: u64 = 10;

/// What a pass would delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletions {
    /// How many entries would go from the mirror.
    pub gone: u64,
    /// How many the path has on the server, itself included.
    pub there: u64,
    /// How many of those are new to the mirror.
    pub new: u64,
}

impl Deletions {
    /// Whether they are plausible, with at most `most` per cent of what the mirror had.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(self, most: u16) -> Result<(), String> {
        let Self { gone, there, new } = self;
        let had = there.saturating_sub(new) + gone;
        if gone > 0 && there <= 1 {
            return Err(format!("there is nothing in it on the server, and the mirror has {gone} entries"));
        }
        if gone > FEW && u128::from(gone) * 100 > u128::from(had) * u128::from(most) {
            return Err(format!("{gone} of its {had} entries are gone on the server, which is more than {most} %"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Deletions;

    #[test]
    fn the_golden_table() {
        let nothing = |gone| Err(format!("there is nothing in it on the server, and the mirror has {gone} entries"));
        let many =
            |gone, had, most| Err(format!("{gone} of its {had} entries are gone on the server, which is more than {most} %"));
        for (gone, there, new, most, expected) in [
            (0, 100, 100, 20, Ok(())),
            (0, 1, 0, 20, Ok(())),
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
            // an empty source is never plausible
            (1, 1, 0, 100, nothing(1)),
            (5000, 1, 0, 100, nothing(5000)),
            (5000, 0, 0, 100, nothing(5000)),
            (5000, 2, 0, 100, Ok(())),
        ] {
            assert_eq!(Deletions { gone, there, new }.judge(most), expected, "{gone} {there} {new} {most}");
        }
    }
}
