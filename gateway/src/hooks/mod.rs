//! Programs that the operator hooks into logins: run elsewhere, bounded, and never in anybody's way.
//!
//! ```text
//!  login (shard) ──HookJob──▶ queue ──▶ runner thread: at most N at a time ──▶ outcome back to the login
//! ```
//!
//! A program gets a fixed argument list (no shell), exactly the environment that [`Env`] holds, three file descriptors,
//! its own process group, and a time limit. What it can say is its exit code, a file for `client-connect`, and, for an
//! answer that comes later, the files of a [`Deferral`].

mod answers;
mod connect;
mod deferral;
mod env;
mod files;
mod job;
mod kinds;
mod process;
mod runner;
mod stats;
#[cfg(test)]
mod tests;
mod watch;

pub use answers::{PendingAuth, PendingMethod};
pub use connect::{ConnectFile, Connected, Connecting, Farewell, Totals};
pub use deferral::{AuthAnswer, Deferral, DeferralError, DeferredEvent, Returned};
pub(crate) use env::printable;
pub use env::{Env, PATH};
pub use files::{HookDir, HookFile};
pub use kinds::{Assigned, Hook, Peer};
pub use process::Outcome;
pub(crate) use process::{pidfd, prefer_for_oom_kill};
pub use runner::{HookHandle, HookLimits, HookRunner};
pub use stats::{DURATION_BUCKETS, HookKind, HookStats, KindStats};

/// What an outcome means for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Exit code 0.
    Allow,
    /// Any other exit code.
    Deny,
    /// No answer at all: signal, timeout, or the program could not be run. Never an allow, and not the client's fault.
    NoAnswer,
}
