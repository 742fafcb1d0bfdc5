//! Values that must never be seen: they redact themselves, wipe themselves, and compare in constant time.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Holds `T`, prints as `[redacted]`, and is zeroized when dropped. There is no `Display` and no serialisation;
/// the only way to the value is [`Secret::expose`], so that every use can be found by that name.
#[derive(Clone, Default)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes ownership of the value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Never log, format or store what comes back.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, to be filled in place.
    pub const fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares without telling by its time where the values differ (lengths are not hidden).
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.0.as_ref().ct_eq(other).into()
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> core::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_nothing_of_the_value() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(format!("{:?}", Some(&secret)), "Some([redacted])");
    }

    #[test]
    fn compares_whole_values() {
        let secret = Secret::new(b"token".to_vec());
        assert!(secret.ct_eq(b"token"));
        assert!(!secret.ct_eq(b"tokem"));
        assert!(!secret.ct_eq(b"toke"));
    }
}
