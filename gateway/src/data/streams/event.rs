//! What connections do, as the worker hears of it.

use std::fmt;
use std::io;
use std::net::TcpStream;

use tessera_wire::stream::BadLength;

use crate::data::Counter;
use crate::net::Path;

/// A connection of a worker. Whoever writes to one that is gone reaches nobody, also when its slot has been taken again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// Its place in the worker's table.
    pub slot: u32,
    /// Tells it from former owners of the slot.
    pub generation: u32,
}

/// One thing that happened.
#[derive(Debug)]
pub enum StreamEvent<'a> {
    /// A whole packet came in.
    Frame {
        /// On which connection.
        id: StreamId,
        /// At which listener.
        listener: usize,
        /// From where, and to which of our addresses.
        path: Path,
        /// The packet as it would be in a datagram, to be opened in place.
        bytes: &'a mut [u8],
    },
    /// A connection is gone that the worker has not closed itself.
    Closed {
        /// Which one; the id is dead already.
        id: StreamId,
        /// At which listener it was.
        listener: usize,
        /// From where.
        path: Path,
        /// Why.
        why: CloseReason,
        /// Whether any packet had come out of it: if not, nobody else knows of it.
        spoke: bool,
    },
    /// Somebody who is no OpenVPN client (`port-share`); the connection is no longer ours.
    Foreign {
        /// At which listener.
        listener: usize,
        /// From where.
        path: Path,
        /// The connection, non-blocking.
        stream: TcpStream,
        /// What was read from it.
        first: &'a [u8],
    },
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client hung up.
    Ended,
    /// The client hung up in the middle of a packet.
    Truncated,
    /// The connection failed.
    Failed(io::ErrorKind),
    /// A packet's length was 0 or over the limit.
    BadLength(u16),
    /// No whole packet in time.
    Silent,
    /// No session in time.
    NotEstablished,
    /// It had said nothing yet, and its place was needed.
    Evicted,
    /// It took nothing for too long while something waited for it.
    Stalled,
    /// Too many control packets wait for it.
    Backlog,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the client hung up"),
            Self::Truncated => f.write_str("the client hung up in the middle of a packet"),
            Self::Failed(kind) => write!(f, "{kind}"),
            Self::BadLength(length) => BadLength(*length).fmt(f),
            Self::Silent => f.write_str("no packet in time"),
            Self::NotEstablished => f.write_str("no session in time"),
            Self::Evicted => f.write_str("no packet yet, and its place was needed"),
            Self::Stalled => f.write_str("it takes nothing any more"),
            Self::Backlog => f.write_str("too many control packets wait for it"),
        }
    }
}

/// What the connections of a worker have seen.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Connections that are open now.
    pub open: Counter,
    /// Connections taken.
    pub accepted: Counter,
    /// Connections turned away at a limit.
    pub refused: Counter,
    /// Accepts that failed for want of files or memory.
    pub accept_failed: Counter,
    /// Connections handed out as foreign.
    pub foreign: Counter,
    /// Packets read.
    pub packets: Counter,
    /// Closed: by the client, or failed.
    pub ended: Counter,
    /// Closed: a wrong length.
    pub bad_length: Counter,
    /// Closed: no packet or no session in time.
    pub timed_out: Counter,
    /// Closed: to make place.
    pub evicted: Counter,
    /// Closed: stalled.
    pub stalled: Counter,
}

impl StreamCounters {
    pub(super) fn count(&self, why: CloseReason) {
        match why {
            CloseReason::Ended | CloseReason::Truncated | CloseReason::Failed(_) => &self.ended,
            CloseReason::BadLength(_) => &self.bad_length,
            CloseReason::Silent | CloseReason::NotEstablished => &self.timed_out,
            CloseReason::Evicted => &self.evicted,
            CloseReason::Stalled | CloseReason::Backlog => &self.stalled,
        }
        .add(1);
    }
}
