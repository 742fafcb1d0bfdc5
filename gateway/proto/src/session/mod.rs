//! Sessions of both roles: what happens between the first reset and the last goodbye.
//!
//! # The contract
//!
//! A session is driven by four calls and answers through three:
//!
//! * in: `handle_datagram`, `handle_timeout`, and the owner's commands, each with the time as an argument;
//! * out: `poll_transmit`, `poll_event`, `poll_timeout`.
//!
//! **Drain after every call.** Whoever calls in reads transmits and events until both are empty, and then the timeout,
//! before calling in again or sleeping. Nothing happens between calls; nothing is sent that was not polled.

mod agree;
mod channel;
mod client;
mod event;
mod link;
mod params;
mod server;
mod timer;

pub use client::{ClientConfig, ClientEvent, ClientSession, Credentials};
pub use event::{
    Agreed, Attempt, AuthRequest, Authenticated, Close, CloseReason, Derivation, Event, PushConfig, Verdict,
};
pub use link::Protection;
pub use params::{Renegotiate, SessionParams};
pub use server::{Opening, ServerSession};
