//! What is said about a file that isn't a valid `appliance.toml`.
//!
//! No text here carries a line of the file or a value that could be a secret: the errors may land in a log or a mail.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong in a file, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The setting with its section, as `unlock.wait` or `source[2].paths[1]`, both counted from 1; `syntax error`
    /// where the text isn't TOML.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// All mistakes of one file, at least one, by line.
///
/// Its `Display` is one line `LINE:COLUMN: KEY: MESSAGE` for each, followed by an indented `hint:` line where there is
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Mistake>);

impl Errors {
    /// Sorts `mistakes`; none if there are none.
    pub(super) fn of(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        if mistakes.is_empty() { None } else { Some(Self(mistakes)) }
    }

    /// The mistakes in the order of the file.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }

    fn list(&self, formatter: &mut fmt::Formatter<'_>, prefix: &str) -> fmt::Result {
        for (index, Mistake { line, column, key, message, hint }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{prefix}{line}:{column}: {key}: {message}")?;
            if let Some(hint) = hint {
                write!(formatter, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list(formatter, "")
    }
}

impl std::error::Error for Errors {}

/// Why [`load`](super::load) has no configuration to give.
#[derive(Debug)]
pub enum LoadError {
    /// The file isn't there, or isn't readable text.
    Unreadable {
        /// The file as the caller named it.
        path: PathBuf,
        /// Why, without the path.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The file has been read and says what can't be.
    Invalid {
        /// The file as the caller named it.
        path: PathBuf,
        /// Everything that is wrong with it.
        errors: Errors,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason, hint } => write!(formatter, "reading {}: {reason}\nhint: {hint}", path.display()),
            Self::Invalid { path, errors } => {
                let count = errors.0.len();
                let noun = if count == 1 { "error" } else { "errors" };
                writeln!(formatter, "checking {}: {count} {noun}", path.display())?;
                errors.list(formatter, &format!("{}:", path.display()))
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Why a value is refused, and what to write instead. Where it stands is added by who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }

    /// As an error of its own, about `what`.
    pub(super) fn told(self, what: &str) -> anyhow::Error {
        let hint = self.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        anyhow::anyhow!("{what} {}{hint}", self.message)
    }
}

/// Quotes a value for an error, for settings that hold no secret.
///
/// People paste the wrong thing into the right place, so what could still be a secret isn't shown: private keys,
/// anything with an `@` (`user:password@host`), anything long.
pub(super) fn show(value: &str) -> String {
    const LONGEST: usize = 64;
    let suspicious = value.contains('@') || value.to_ascii_uppercase().contains("PRIVATE KEY");
    if suspicious || value.chars().count() > LONGEST {
        String::from("this text")
    } else {
        format!("\"{}\"", value.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::{Errors, Mistake, show};

    fn mistake(line: usize, column: usize, hint: Option<&str>) -> Mistake {
        let (key, message) = (String::from("disk.serial"), String::from("is empty"));
        Mistake { line, column, key, message, hint: hint.map(String::from) }
    }

    #[test]
    fn mistakes_are_listed_by_line_with_their_hints() {
        let errors = Errors::of(vec![mistake(10, 1, None), mistake(9, 4, Some("name the disk")), mistake(9, 2, None)]).unwrap();
        let expected = "9:2: disk.serial: is empty\n\
                        9:4: disk.serial: is empty\n  hint: name the disk\n\
                        10:1: disk.serial: is empty";
        assert_eq!(errors.to_string(), expected);
        assert_eq!(Errors::of(Vec::new()), None);
    }

    #[test]
    fn values_are_escaped_and_what_may_be_secret_is_not_shown() {
        for (value, shown) in [
            ("plain", "\"plain\""),
            ("a\x1b[31mb\n\u{202e}\"", "\"a\\u{1b}[31mb\\n\\u{202e}\\\"\""),
            ("backup:hunter2@db", "this text"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "this text"),
            (&"x".repeat(64), &format!("\"{}\"", "x".repeat(64))),
            (&"x".repeat(65), "this text"),
        ] {
            assert_eq!(show(value), shown);
        }
    }
}
