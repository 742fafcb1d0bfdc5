//! A worker's way out to its peers: sockets with their send queues, and TCP connections.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use tessera_proto::Instant;

use super::message::Via;
use super::peer::Peer;
use super::streams::Streams;
use crate::net::SendQueue;
use crate::net::send::SEGMENTS;
use crate::net::tun::MAX_READ;

/// Longest packet to a TCP peer: any inner packet, sealed.
const FRAME: usize = MAX_READ + SEGMENTS;

/// A worker's socket at one UDP listener, and what waits to be sent from it.
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    pub(super) queue: SendQueue,
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Too much waits for the socket; it was dropped before a packet-id was spent.
    Full,
    /// Too much waits for the connection of the peer, or it is gone; likewise.
    Stalled,
    /// There is no key, or it is used up.
    NoKey,
}

/// See the module.
pub(super) struct Egress {
    /// One for each UDP listener.
    pub(super) links: Vec<Link>,
    pub(super) streams: Streams,
    /// Where packets for connections are sealed.
    frame: Box<[u8]>,
}

impl Link {
    /// Sends what is queued; how many datagrams the kernel could not take now.
    pub(super) fn flush(&mut self, now: Instant) -> usize {
        match self.queue.flush(self.socket.as_fd(), now) {
            Ok(left) => left,
            Err(_) => {
                self.queue.clear();
                0
            }
        }
    }

    /// Room for a datagram of `len` bytes, made by sending what is queued if need be.
    #[inline]
    fn place(&mut self, len: usize, now: Instant) -> Option<&mut [u8]> {
        if self.queue.place(len).is_none() {
            self.flush(now);
        }
        self.queue.place(len)
    }
}

impl Egress {
    pub(super) fn new(sockets: Vec<UdpSocket>, gso: bool, streams: Streams) -> Self {
        let links = sockets.into_iter().map(|socket| Link { socket, queue: SendQueue::new(gso) }).collect();
        Self { links, streams, frame: vec![0; FRAME].into() }
    }

    /// Seals a packet of `len` bytes, which `write` puts in place, and queues it for its peer. A datagram gets the TOS; on a
    /// connection, which has one for all, it has no meaning.
    #[inline]
    pub(super) fn send(
        &mut self,
        peer: &mut Peer,
        len: usize,
        tos: u8,
        now: Instant,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), Unsent> {
        let headroom = peer.channel.headroom();
        let total = headroom + len;
        match peer.spec.via {
            Via::Udp(listener) => {
                let link = self.links.get_mut(listener).ok_or(Unsent::Full)?;
                let frame = link.place(total, now).ok_or(Unsent::Full)?;
                write(&mut frame[headroom..]);
                peer.channel.seal(frame).map_err(|_| Unsent::NoKey)?;
                link.queue.commit(total, &peer.spec.path, tos);
            }
            Via::Stream { id, .. } => {
                if !self.streams.make_room(id, now) {
                    return Err(Unsent::Stalled);
                }
                let frame = self.frame.get_mut(..total).ok_or(Unsent::Full)?;
                write(&mut frame[headroom..]);
                peer.channel.seal(frame).map_err(|_| Unsent::NoKey)?;
                self.streams.queue_data(id, frame);
            }
        }
        peer.stats.sent += total as u64;
        peer.last_sent = now;
        Ok(())
    }
}
