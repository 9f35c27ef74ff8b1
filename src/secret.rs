//! Secrets kept out of logs and errors by their type.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A value that must not be shown: `Debug` prints a placeholder, there is no `Display`, and the memory is
/// overwritten when the value goes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes `value` into keeping.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Lends the value to the code that uses it; never to code that prints.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Secret<T> {
    /// Lends the value to the code that fills it.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::new(String::from("correct horse"));
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(secret.expose(), "correct horse");
    }
}
