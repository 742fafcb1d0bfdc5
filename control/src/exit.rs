//! Exit codes of `tessera`, all of them.

/// Everything went as asked.
pub(crate) const OK: u8 = 0;
/// It failed.
pub(crate) const FAILED: u8 = 1;
/// What was named is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// Refused: a configuration that the gateway would not start with.
pub(crate) const REFUSED: u8 = 5;
