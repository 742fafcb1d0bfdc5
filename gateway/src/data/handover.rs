//! Packets that reached the wrong worker: one bounded ring for each ordered pair of workers.
//!
//! The kernel steers data packets by peer-id and TUN packets by flow, so this is the exception: right after a flow began,
//! when steering is not available, and between clients of different workers.

use rtrb::{Consumer, Producer, RingBuffer};
use tessera_wire::PeerId;

use super::waker::Waker;
use crate::net::Path;
use crate::net::batch::SLOT_LEN;

/// Parcels under way between two workers: one batch. More would only add delay.
const RING: usize = 64;

/// What is handed over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A datagram of a peer, as it came in at a listener.
    Sealed {
        /// The listener.
        listener: usize,
        /// Where from.
        path: Path,
    },
    /// An inner packet for a peer.
    Plain(PeerId),
}

/// A packet under way to its owner; a copy, so that no buffer is shared.
pub(super) struct Parcel {
    pub(super) kind: Kind,
    len: usize,
    bytes: [u8; SLOT_LEN],
}

impl Parcel {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// One worker's ends of all rings.
pub(super) struct Handover {
    to: Vec<Option<Producer<Parcel>>>,
    from: Vec<Consumer<Parcel>>,
    wakers: Vec<Waker>,
    touched: u64,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover").field("workers", &self.to.len()).finish_non_exhaustive()
    }
}

impl Handover {
    /// The rings between all workers, one end piece for each.
    pub(super) fn mesh(wakers: &[Waker]) -> Vec<Self> {
        let workers = wakers.len();
        let mut ends: Vec<Self> = (0..workers)
            .map(|_| Self {
                to: (0..workers).map(|_| None).collect(),
                from: Vec::new(),
                wakers: wakers.to_vec(),
                touched: 0,
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|to| *to != from) {
                let (producer, consumer) = RingBuffer::new(RING);
                ends[from].to[to] = Some(producer);
                ends[to].from.push(consumer);
            }
        }
        ends
    }

    /// Copies a packet into the ring to `worker`; false when it is full or there is no such worker.
    pub(super) fn send(&mut self, worker: usize, kind: Kind, packet: &[u8]) -> bool {
        let Some(Some(ring)) = self.to.get_mut(worker) else {
            return false;
        };
        let mut parcel = Parcel { kind, len: packet.len(), bytes: [0; SLOT_LEN] };
        let Some(place) = parcel.bytes.get_mut(..packet.len()) else {
            return false;
        };
        place.copy_from_slice(packet);
        let sent = ring.push(parcel).is_ok();
        // Workers beyond 64 share a bit: a needless wake-up now and then.
        self.touched |= u64::from(sent) << (worker % 64);
        sent
    }

    /// Wakes the workers that were given something since the last call.
    pub(super) fn wake(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for (worker, waker) in self.wakers.iter().enumerate() {
            if touched & (1 << (worker % 64)) != 0 {
                waker.wake();
            }
        }
    }

    /// The next parcel for this worker.
    pub(super) fn receive(&mut self) -> Option<Parcel> {
        self.from.iter_mut().find_map(|ring| ring.pop().ok())
    }
}
