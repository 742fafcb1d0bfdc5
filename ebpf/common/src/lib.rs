//! What user space and the BPF programs must agree on: which data worker owns a peer-id, which session shard owns a
//! session id, what a datagram claims to be, and how it is counted. There is one definition of each, and it is here.
#![no_std]
#![forbid(unsafe_code)]

pub mod claim;
pub mod outer;
pub mod peer_id;
pub mod reason;
pub mod shard;
pub mod steer;

pub use claim::Claim;
pub use outer::{Endpoint, Outer};
pub use peer_id::PeerIdLayout;
pub use reason::Reason;
pub use shard::shard_of;
