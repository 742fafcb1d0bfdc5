//! A load generator: real OpenVPN clients, many at a time, from one thread.
//!
//! ```text
//!   plan ── when to begin the next one, with what ──▶ engine ◀── epoll, timers
//!                                                       │ one login = one socket = one source port
//!   sockets (pool) ◀────────────────────────────────────┤
//!   session (a client, from reset to EXIT) ◀────────────┤
//!   report (counts, histograms) ◀───────────────────────┘
//! ```
//!
//! The protocol is that of `tessera-proto`: what is sent again, and when, is its decision.
//!
//! [`data`] loads the data channel instead: peers that stay, on both sides of the gateway, by several threads.
#![forbid(unsafe_code)]

pub mod clock;
pub mod data;
pub mod engine;
pub mod plan;
pub mod report;
pub mod session;
pub mod sockets;
pub mod timers;
pub mod tls;

pub use engine::{Engine, LoadError, Target};
pub use plan::{End, Plan};
pub use report::Report;
