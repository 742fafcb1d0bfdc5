//! The admin socket: lines of JSON ([`tessera_api`]) over a Unix socket, for root and for one group.
//!
//! ```text
//!  socket: bind, never steal ─▶ serve: who is it, how many are there ─▶ connection: read, ask the backend, write
//! ```
//!
//! Everything runs inside the one future that [`serve`] returns; when it is dropped, connections end and the socket's file is
//! removed.

mod connection;
mod peer;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

use std::future::Future;

use tessera_api::{ApiError, Request, Response};

pub use peer::Peer;
pub use serve::serve;
pub use socket::{AdminSocket, SocketError, SocketOptions};

/// What does what is asked for.
pub trait Backend {
    /// Does it. The peer is allowed to ask; the request is within bounds. The future runs on the runtime of [`serve`] beside
    /// everything else there, so it must not block, and it is dropped when it takes longer than 30 seconds. A change
    /// goes on when its client hangs up.
    ///
    /// # Errors
    /// What the client is told. Holds nothing secret.
    fn handle(&self, request: Request, peer: Peer) -> impl Future<Output = Result<Response, ApiError>>;
}
