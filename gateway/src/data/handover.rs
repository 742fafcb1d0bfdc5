//! Packets that reached the wrong worker: bounded rings for each ordered pair of workers.
//!
//! The kernel steers data packets by peer-id and TUN packets by flow or destination, so this is the exception: right after a
//! flow began, when steering is not available, and between clients of different workers.

use rtrb::{Consumer, Producer, RingBuffer};
use tessera_offload::VnetHeader;
use tessera_wire::PeerId;

use super::message::Via;
use super::waker::Waker;
use crate::net::Path;

/// Parcels under way between two workers: what a turn brings. More would only add delay.
const PARCELS: usize = 512;
/// Their bytes: eight super-packets, or as many full packets as there can be parcels. Pages that were never used cost nothing.
const BYTES: usize = 512 * 1024;

/// What is handed over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A datagram of a peer, as it came in.
    Sealed {
        /// How it came in.
        via: Via,
        /// Where from.
        path: Path,
    },
    /// An inner packet for a peer, which may be a super-packet.
    Plain(PeerId, VnetHeader),
}

/// The sending end of a pair of rings: bytes go first, so that whoever sees the entry finds them.
struct To {
    entries: Producer<(Kind, usize)>,
    bytes: Producer<u8>,
}

/// The receiving end.
struct From {
    entries: Consumer<(Kind, usize)>,
    bytes: Consumer<u8>,
}

/// One worker's ends of all rings.
pub(super) struct Handover {
    to: Vec<Option<To>>,
    from: Vec<From>,
    /// The ring that is looked at next: none starves another.
    next: usize,
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
                next: 0,
                wakers: wakers.to_vec(),
                touched: 0,
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|to| *to != from) {
                let (entry_in, entry_out) = RingBuffer::new(PARCELS);
                let (byte_in, byte_out) = RingBuffer::new(BYTES);
                ends[from].to[to] = Some(To { entries: entry_in, bytes: byte_in });
                ends[to].from.push(From { entries: entry_out, bytes: byte_out });
            }
        }
        ends
    }

    /// Copies a packet into the ring to `worker`; false when it is full or there is no such worker.
    pub(super) fn send(&mut self, worker: usize, kind: Kind, packet: &[u8]) -> bool {
        let Some(Some(ring)) = self.to.get_mut(worker) else {
            return false;
        };
        if ring.entries.is_full() || ring.bytes.push_entire_slice(packet).is_err() {
            return false;
        }
        // There is room: only this end adds entries.
        let sent = ring.entries.push((kind, packet.len())).is_ok();
        // Workers beyond 64 share a bit: a needless wake-up now and then.
        self.touched |= 1 << (worker % 64);
        sent
    }

    /// Wakes the workers that were given something since the last call.
    pub(super) fn wake(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        if touched == 0 {
            return;
        }
        for (worker, waker) in self.wakers.iter().enumerate() {
            if touched & (1 << (worker % 64)) != 0 {
                waker.wake();
            }
        }
    }

    /// Moves the next parcel for this worker into `buf` (which holds any packet) and gives its length.
    pub(super) fn receive(&mut self, buf: &mut [u8]) -> Option<(Kind, usize)> {
        for _ in 0..self.from.len() {
            let place = self.next;
            self.next = (place + 1) % self.from.len();
            let ring = self.from.get_mut(place)?;
            if let Ok((kind, len)) = ring.entries.pop() {
                // The bytes were pushed before the entry.
                ring.bytes.pop_entire_slice(buf.get_mut(..len)?).ok()?;
                return Some((kind, len));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_whole_in_order_and_full_rings_refuse() {
        let wakers: Vec<_> = (0..3).map(|_| Waker::new().unwrap()).collect();
        let mut ends = Handover::mesh(&wakers);
        let mut buf = vec![0; 70_000];
        let id = PeerId::new(5).unwrap();
        let plain = |n: u16| Kind::Plain(id, VnetHeader { gso_size: n, ..VnetHeader::PLAIN });
        assert!(!ends[0].send(0, plain(0), &[1]), "nobody hands over to himself");
        assert!(!ends[0].send(9, plain(0), &[1]));
        for n in 0..PARCELS as u16 {
            assert!(ends[0].send(2, plain(n), &vec![n as u8; usize::from(n)]));
        }
        assert!(!ends[0].send(2, plain(0), &[1]), "no entry is free");
        for n in 999..1007 {
            assert!(ends[1].send(2, plain(n), &[7; 65_535]));
        }
        assert!(!ends[1].send(2, plain(1007), &[9; 10]), "no byte is free");
        let (mut from_0, mut from_1) = (0, 999);
        while let Some((Kind::Plain(to, header), len)) = ends[2].receive(&mut buf) {
            assert_eq!(to, id);
            if header.gso_size < 999 {
                assert_eq!((header.gso_size, len), (from_0, usize::from(from_0)));
                assert!(buf[..len].iter().all(|b| *b == from_0 as u8));
                from_0 += 1;
            } else {
                assert_eq!((header.gso_size, len), (from_1, 65_535));
                from_1 += 1;
            }
        }
        assert_eq!((from_0, from_1), (PARCELS as u16, 1007));
    }
}
