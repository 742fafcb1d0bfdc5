//! The OpenVPN protocol without any IO: both roles.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

pub mod data;
pub mod keys;
mod pem;
pub mod reliable;
pub mod replay;
pub mod rng;
pub mod secret;
pub mod suite;
pub mod time;
pub mod wrap;

pub use rng::Rng;
pub use secret::Secret;
pub use suite::{Cipher, Digest};
pub use time::{Instant, Now, UnixTime};
