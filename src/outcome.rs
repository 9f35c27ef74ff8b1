//! How a piece of work ended, and the exit codes that say so.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// How a source, or a whole run, ended. The same word stands in exit code, log, index, mail and metrics.
///
/// The order is from best to worst, so that a run's outcome is the `max` of its sources'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything asked for was done. May carry warnings.
    Complete,
    /// It didn't run, and nothing was changed: another run holds the lock.
    Skipped,
    /// Something is there, but it doesn't count as good.
    Partial,
    /// Nothing usable came of it.
    Failed,
}

impl Outcome {
    /// The exit code that stands for this outcome: 0 complete, 1 failed, 3 partial, 4 skipped.
    ///
    /// 2 is left to the command line: wrong usage.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// The number behind [`Outcome::exit_code`].
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failed => 1,
            Self::Partial => 3,
            Self::Skipped => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Complete => "complete",
            Self::Skipped => "skipped",
            Self::Partial => "partial",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn the_worst_of_many_is_their_maximum() {
        let outcomes = [Outcome::Complete, Outcome::Failed, Outcome::Partial];
        assert_eq!(outcomes.into_iter().max(), Some(Outcome::Failed));
    }

    #[test]
    fn each_outcome_has_a_code_of_its_own_and_none_takes_the_usage_code() {
        let codes = [Outcome::Complete, Outcome::Failed, Outcome::Partial, Outcome::Skipped].map(Outcome::code);
        assert_eq!(codes, [0, 1, 3, 4]);
    }
}
