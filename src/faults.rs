//! Several errors at once, so that whoever mends them mends all.

use anyhow::{Result, anyhow};

use crate::complaint;

/// What is wrong so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Keeps the error; gives the value where there is none.
    pub fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(complaint::plain(&error))).ok()
    }

    /// Whether nothing is wrong.
    ///
    /// # Errors
    /// With all that was kept, in its order.
    pub fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(anyhow!(self.0.concat().trim_end().to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::Faults;

    #[test]
    fn all_that_is_wrong_is_told_and_what_is_right_is_given() {
        let mut faults = Faults::default();
        assert_eq!(faults.keep(Ok(1)), Some(1));
        assert!(Faults::default().end().is_ok());
        assert_eq!(faults.keep::<()>(Err(anyhow!("no file\nhint: make it")).context("reading a")), None);
        assert_eq!(faults.keep::<()>(Err(anyhow!("no b"))), None);
        assert_eq!(faults.end().unwrap_err().to_string(), "reading a: no file\nhint: make it\nno b");
    }
}
