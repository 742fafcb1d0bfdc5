//! Load for the data channel: peers that log in and then send and receive as fast as there is room, so that the gateway
//! is the bottleneck and never this program.
//!
//! ```text
//!              client namespace                                   LAN namespace
//!  clients ── logins, keep-alives, counts ◀── down ──┐   ┌── lan-tx (trains, UDP_SEGMENT)
//!  client-tx ── bank of sealed trains ── up ──▶ gateway ─┴─▶ lan-rx (UDP_GRO, counts by sequence)
//!  client-probe ◀── stamped packets, both ways ─────────────▶ lan-probe
//! ```
//!
//! `run` puts it together; `phase` says what counts. All figures are of the same measured time, which begins and ends
//! with nothing under way.

pub mod bank;
pub mod clients;
pub mod count;
pub mod drive;
pub mod lan;
pub mod mix;
pub mod pace;
pub mod packet;
pub mod peer;
pub mod phase;
pub mod plan;
pub mod probe;
pub mod receive;
pub mod report;
pub mod run;
pub mod send;
pub mod sys;

pub use mix::Sizes;
pub use plan::{DataPlan, Direction, Far};
pub use report::DataReport;
pub use run::run;

use std::io;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// What was asked for is impossible.
    #[error("{0}")]
    Plan(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was wanted.
        what: String,
        /// The reason.
        error: io::Error,
    },
    /// A peer could not log in.
    #[error("login: {0}")]
    Login(String),
    /// A bank could not be sealed.
    #[error("sealing: {0}")]
    Seal(String),
    /// A thread has panicked.
    #[error("thread {0} panicked")]
    Panic(&'static str),
}

impl DataError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |error| Self::Io { what, error }
    }
}
