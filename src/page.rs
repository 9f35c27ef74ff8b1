//! A page of settings or facts for people: sections, each with lines of a key and its values.

use std::fmt::Write as _;

/// The column where values begin: the longest key, its indentation, and two blanks.
const VALUES: usize = 22;

/// A page that is being written.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a section.
    pub fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.write(format_args!("{gap}{name}\n"));
    }

    /// A key with its value.
    pub fn line(&mut self, key: &str, value: &str) {
        let width = VALUES - 2;
        self.write(format_args!("  {key:width$}{value}\n"));
    }

    /// One line for each value, the key on the first.
    pub fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let mut values = values.peekable();
        if values.peek().is_none() {
            self.line(key, "(none)");
        }
        for (index, value) in values.enumerate() {
            self.line(if index == 0 { key } else { "" }, &value);
        }
    }

    /// As [`Page::list`], with other words for none.
    pub fn list_or<T: ToString>(&mut self, key: &str, values: &[T], none: &str) {
        if values.is_empty() {
            self.line(key, none);
        } else {
            self.list(key, values.iter().map(ToString::to_string));
        }
    }

    /// What was written.
    pub fn text(self) -> String {
        self.0
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a string can't fail");
    }
}
