//! Accepts connections, and runs them side by side.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tessera_api::{ApiError, ErrorCode, Moment, Reply};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::connection::converse;
use super::{AdminSocket, Backend, Peer};
use crate::clock;

/// Connections at a time: 64 KiB of input each, and a handful of people and tools.
pub(super) const CONNECTIONS: usize = 32;
/// Of these, those that only root and the gateway's own user get, so that a member of the group cannot lock them out.
pub(super) const RESERVED: usize = 4;
/// Long answers at a time: each may hold every session or a page of tokens in memory until it is read.
pub(super) const LISTS: usize = 4;
/// Pause after a failed accept: the process is out of file descriptors, and tight loops free none.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves the socket until it is dropped. Needs a tokio runtime with IO and time; runs whatever it runs inside itself, so
/// neither the backend nor its futures must be `Send`.
///
/// # Errors
/// When the runtime does not take the socket.
pub async fn serve(socket: AdminSocket, backend: &impl Backend) -> io::Result<Infallible> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let lists = Semaphore::new(LISTS);
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            stream = accept(&listener) => {
                match admit(&socket, &stream, connections.len()) {
                    Ok(peer) => connections.push(converse(stream, peer, backend, &lists)),
                    Err(error) => turn_away(stream, error),
                }
            }
            Some(()) = connections.next() => {}
        }
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                warn!("admin socket: accept: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Decides by the kernel's word alone; not one byte has been read.
fn admit(socket: &AdminSocket, stream: &UnixStream, connections: usize) -> Result<Peer, ApiError> {
    let unknown = |error: io::Error| {
        warn!("admin socket: credentials of a peer: {error}");
        ApiError::new(ErrorCode::Internal, "the kernel does not say who you are")
    };
    let peer = Peer::of(stream).map_err(unknown)?;
    let owner = peer.is_owner();
    let member = match socket.group {
        Some(group) if !owner => peer.is_member(stream, group).map_err(unknown)?,
        _ => false,
    };
    if !owner && !member {
        warn!(uid = peer.uid, pid = peer.pid, "admin: turned away");
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "only root, the gateway's own user and members of the socket's group may use it",
        ));
    }
    if connections >= if owner { CONNECTIONS } else { CONNECTIONS - RESERVED } {
        return Err(ApiError::new(ErrorCode::Busy, "too many connections: try again"));
    }
    Ok(peer)
}

/// Says why, and hangs up. A new socket has room for it; waiting for anything would be a favour too much.
fn turn_away(stream: UnixStream, error: ApiError) {
    let now = Moment(clock::unix_seconds());
    let said = stream.into_std().and_then(|mut stream| {
        for line in Reply::lines(now, Err(error)) {
            stream.write_all(&line.map_err(io::Error::other)?)?;
        }
        Ok(())
    });
    if let Err(error) = said {
        debug!("admin: a peer that was turned away: {error}");
    }
}
