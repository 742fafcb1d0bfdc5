//! The OpenVPN protocol without any IO: both roles.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

pub mod auth_token;
pub mod data;
pub mod endpoint;
pub mod keys;
pub mod message;
pub mod peer_info;
mod pem;
pub mod reliable;
pub mod replay;
pub mod rng;
pub mod secret;
pub mod session;
pub mod suite;
pub mod time;
mod tls;
pub mod wrap;

pub use rng::Rng;
pub use secret::Secret;
pub use suite::{Cipher, Digest};
pub use time::{Instant, Now, UnixTime};
pub use tls::{TlsError, TlsSummary};
