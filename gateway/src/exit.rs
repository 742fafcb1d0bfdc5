//! Exit codes of `tesserad`, all of them.

/// Everything went as asked.
pub const OK: u8 = 0;
/// A fault at run time.
pub const RUNTIME: u8 = 1;
/// The command line makes no sense (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// A capability or permission is missing (`EX_NOPERM`).
pub const PERMISSION: u8 = 77;
/// The configuration is wrong or asks for what is not supported (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
