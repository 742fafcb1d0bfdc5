//! What session shards and data workers say to each other; bounded queues, nothing shared.

use std::time::Duration;

use tessera_proto::data::{DataKey, Framing};
use tessera_wire::{KeyId, PeerId};
use tokio::sync::oneshot;

use super::streams::{CloseReason as StreamEnd, StreamId};
use crate::net::Path;
use crate::routes::Prefix;

/// By which of our sockets somebody's packets come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// A UDP listener, by number: each worker and each shard has a socket there.
    Udp(usize),
    /// A TCP connection, which one worker owns.
    Stream {
        /// The worker.
        worker: usize,
        /// Its connection.
        id: StreamId,
    },
}

impl Via {
    /// The worker that has to own a peer that is reached so; any, when `None`.
    #[must_use]
    pub const fn worker(self) -> Option<usize> {
        match self {
            Self::Udp(_) => None,
            Self::Stream { worker, .. } => Some(worker),
        }
    }
}

/// Everything a worker must know of a peer before its first packet.
#[derive(Debug)]
pub struct PeerSpec {
    /// Number on the wire; its low bits name the worker.
    pub id: PeerId,
    /// Tells this peer from former owners of the id.
    pub generation: u64,
    /// The shard that owns its session.
    pub shard: usize,
    /// How it is reached.
    pub via: Via,
    /// Where it is.
    pub path: Path,
    /// Framing of its plaintext.
    pub framing: Framing,
    /// Say something at least this often.
    pub ping: Option<Duration>,
    /// It is gone after this long a silence.
    pub ping_restart: Option<Duration>,
    /// It is thrown out when it moves no more than so many bytes in this time.
    pub inactive: Option<(Duration, u64)>,
    /// Renegotiate after so many bytes under one key.
    pub reneg_bytes: Option<u64>,
    /// Renegotiate after so many packets under one key.
    pub reneg_packets: Option<u64>,
}

/// From a session shard to a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// A peer that will send data packets soon.
    Add(Box<PeerSpec>),
    /// A key of a peer of this worker.
    InstallKey(PeerId, Box<DataKey>),
    /// Seal with this key from now on.
    PromoteKey(PeerId, KeyId),
    /// Forget this key.
    RetireKey(PeerId, KeyId),
    /// A peer moved, and may.
    SetPath(PeerId, Path),
    /// Send in-band goodbyes, then forget the peer and report its counters.
    Remove {
        /// Who.
        id: PeerId,
        /// Which owner of the id.
        generation: u64,
    },
    /// What has this peer moved so far? Unanswered where the peer is unknown.
    Stats(PeerId, oneshot::Sender<PeerStats>),
    /// Packets for this prefix belong to this peer, whoever owns it.
    AddRoute(Prefix, PeerId),
    /// Forget all routes of this peer.
    RemoveRoutes(PeerId),
    /// A data packet that the kernel gave to a shard's socket.
    Datagram {
        /// The listener that it came in on.
        listener: usize,
        /// Where from.
        path: Path,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A session has begun on a connection: it may stay for as long as that.
    StreamEstablished(StreamId),
    /// Send a control packet over a connection.
    StreamControl(StreamId, Vec<u8>),
    /// The session of a connection is over: close it when all is sent.
    CloseStream(StreamId),
    /// End the thread.
    Stop,
}

/// Link-level counters of one peer: bytes of whole datagrams, as OpenVPN counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Bytes received from the peer.
    pub received: u64,
    /// Bytes sent to the peer.
    pub sent: u64,
}

/// From a worker to the shard that owns the peer's session.
#[derive(Debug)]
pub enum FromWorker {
    /// A fresh authenticated packet came from another address: may the peer move there?
    Moved {
        /// Who.
        id: PeerId,
        /// Where to.
        path: Path,
    },
    /// The key is nearly used up, or the admin's limit for it is.
    RenegotiationDue(PeerId),
    /// Nothing was heard of the peer for `ping-restart`.
    Silent(PeerId),
    /// The peer moved too little for `inactive`.
    Inactive(PeerId),
    /// The peer said goodbye inside the data channel.
    Exit(PeerId),
    /// The answer to [`ToWorker::Remove`].
    Removed {
        /// Who.
        id: PeerId,
        /// Which owner of the id.
        generation: u64,
        /// What it moved.
        stats: PeerStats,
    },
    /// A control packet that came in at a worker: over TCP, or because the kernel gave it to the wrong socket.
    Control {
        /// How it came in.
        via: Via,
        /// Where from.
        path: Path,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A TCP connection is gone, and with it whatever session it carried.
    StreamClosed(Via, StreamEnd),
}
