//! The reliable stream under each TLS negotiation: message ids, acknowledgements, retransmission.
//!
//! ```text
//!   TLS bytes ─▶ SendWindow (6) ──packets──▶ ╌╌loss, reorder╌╌ ──▶ RecvWindow (12) ─▶ TLS bytes, in order
//!                     ▲                                               │
//!                     └───────────────── AckQueue ◀───────────────────┘
//! ```
//!
//! Acknowledgements are not cumulative: each names one message. They ride on control packets, or alone in a P_ACK_V1.

mod ack;
mod recv;
mod send;

pub use ack::{AckQueue, MAX_PIGGYBACK};
pub use recv::{RECV_WINDOW, Received, RecvWindow};
pub use send::{Outgoing, RTO_MAX, SEND_WINDOW, SendWindow};
