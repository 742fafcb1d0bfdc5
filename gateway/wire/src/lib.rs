//! What an OpenVPN datagram looks like on the wire.
//!
//! The first byte carries the opcode (high five bits) and the key-id (low three):
//!
//! ```text
//!   0 1 2 3 4 5 6 7
//!  +---------+-----+
//!  | opcode  | kid |   P_DATA_V2: 3 bytes of peer-id follow (`data`)
//!  +---------+-----+   otherwise: 8 bytes of session id follow (`control`)
//! ```
//!
//! This crate has no dependencies, no `std`, no allocation and no `unsafe`, so that the BPF programs compile the
//! very parser that user space fuzzes. Nothing here is authenticated: every value is a claim by the sender.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used, clippy::panic)]

pub mod control;
pub mod cursor;
pub mod data;
pub mod ids;
pub mod ip;
pub mod opcode;
pub mod stream;

pub use cursor::{Reader, Truncated, Writer};
pub use ids::{KeyId, MessageId, PacketId, PeerId, SessionId};
pub use opcode::{Opcode, OpcodeByte};
pub use stream::FrameReader;
