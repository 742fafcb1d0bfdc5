//! How a peer-id names its data worker.
//!
//! ```text
//!  23                     w-1      0
//!  +----------------------+--------+
//!  | slot                 | worker |      N = 2^w workers, peer-id & (N-1) is the worker
//!  +----------------------+--------+
//! ```

use tessera_wire::PeerId;

/// Where slot and worker stand in a 24-bit peer-id. It is one byte, so that a BPF map can carry it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PeerIdLayout {
    /// 0..=8.
    worker_bits: u8,
}

impl PeerIdLayout {
    /// A peer-id is this many bits wide.
    const ID_BITS: u32 = 24;

    /// More workers than any host has queues for; it leaves 65,536 slots to each of them.
    pub const MAX_WORKERS: u32 = 256;

    /// The layout for `workers` workers; `None` unless that is a power of two from 1 to [`Self::MAX_WORKERS`].
    #[must_use]
    pub const fn new(workers: u32) -> Option<Self> {
        if !workers.is_power_of_two() || workers > Self::MAX_WORKERS {
            return None;
        }
        Some(Self { worker_bits: workers.trailing_zeros() as u8 })
    }

    /// Number of workers.
    #[inline]
    #[must_use]
    pub const fn workers(self) -> u32 {
        1 << self.worker_bits
    }

    /// What to mask a peer-id with to get its worker.
    #[inline]
    #[must_use]
    pub const fn worker_mask(self) -> u32 {
        self.workers() - 1
    }

    /// How many slots each worker can have. The last slot of the last worker would be the undefined peer-id and is
    /// no peer's, so each worker's slots end one before the full count and are equally many.
    #[inline]
    #[must_use]
    pub const fn slots(self) -> u32 {
        (1 << (Self::ID_BITS - self.worker_bits as u32)) - 1
    }

    /// The peer-id of `slot` at `worker`; `None` when either is out of range.
    #[inline]
    #[must_use]
    pub const fn compose(self, slot: u32, worker: u32) -> Option<PeerId> {
        if slot >= self.slots() || worker >= self.workers() {
            return None;
        }
        PeerId::new((slot << self.worker_bits) | worker)
    }

    /// The worker that owns `id`, `0..workers()`. Total: the undefined peer-id goes to the last worker, which knows
    /// no such peer.
    #[inline]
    #[must_use]
    pub const fn worker_of(self, id: PeerId) -> u32 {
        id.get() & self.worker_mask()
    }

    /// The slot of `id` at its worker. It can be `slots()` or more only for an id that [`Self::compose`] never made.
    #[inline]
    #[must_use]
    pub const fn slot_of(self, id: PeerId) -> u32 {
        id.get() >> self.worker_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_a_power_of_two_up_to_256() {
        for workers in 0..=1024 {
            let expected = matches!(workers, 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256);
            assert_eq!(PeerIdLayout::new(workers).is_some(), expected, "{workers}");
        }
    }

    #[test]
    fn slot_and_worker_come_back() {
        for bits in 0..=8 {
            let layout = PeerIdLayout::new(1 << bits).unwrap();
            assert_eq!(layout.workers(), 1 << bits);
            for slot in [0, 1, 2, 1000, layout.slots() / 2, layout.slots() - 1] {
                for worker in 0..layout.workers() {
                    let id = layout.compose(slot, worker).unwrap();
                    assert_ne!(id, PeerId::UNDEFINED);
                    assert_eq!(layout.worker_of(id), worker);
                    assert_eq!(layout.slot_of(id), slot);
                }
            }
            assert_eq!(layout.compose(layout.slots(), 0), None);
            assert_eq!(layout.compose(0, layout.workers()), None);
            assert_eq!(layout.compose(u32::MAX, u32::MAX), None);
        }
    }

    #[test]
    fn no_slot_is_the_undefined_peer_id() {
        for bits in 0..=8 {
            let layout = PeerIdLayout::new(1 << bits).unwrap();
            assert!(layout.slot_of(PeerId::UNDEFINED) >= layout.slots());
        }
    }
}
