//! The OpenVPN protocol without any IO: both roles.

pub mod secret;
pub mod suite;

pub use secret::Secret;
pub use suite::{Cipher, Digest};
