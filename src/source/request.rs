//! What a server is asked for: in the words of a gate, and as a line for a shell.
//!
//! A plain account is sent the line. A gate is sent the words alone, and has the line itself: what a server's gate allows is made
//! of the same requests ([`crate::source::gate`]), so that the two can't come apart.

/// One thing that a server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    words: String,
    line: String,
}

impl Request {
    /// `words`: a verb, and where it has several objects the number of one, from 1 on, or a database's name. `line`: for any shell.
    pub fn new(words: impl Into<String>, line: impl Into<String>) -> Self {
        Self { words: words.into(), line: line.into() }
    }

    /// Nothing at all.
    pub fn quiet() -> Self {
        Self::new("quiet", "true")
    }

    /// The words for a gate.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// The line for the account's shell.
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// A request for one of the databases that the server itself names: its words end with the name, and its line has `"$1"` for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The verb.
    pub verb: &'static str,
    /// The line, with `"$1"`.
    pub line: String,
    /// The line that names them all, one a line.
    pub list: String,
}
