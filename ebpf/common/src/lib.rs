//! Steering arithmetic that user space and the BPF programs must agree on: which data worker owns a peer-id, and
//! which session shard owns a session id. There is one definition of each, and it is here.
#![no_std]
#![forbid(unsafe_code)]

pub mod peer_id;
pub mod shard;

pub use peer_id::PeerIdLayout;
pub use shard::shard_of;
