//! What arrived, by the numbers that packets bear.

use std::collections::BTreeMap;
use tessera_wire::KeyId;

/// One stream at its receiver, by sequence numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    next: u64,
    /// Packets since the last reset.
    pub received: u64,
    /// Of them, those that came after a later one.
    pub reordered: u64,
}

impl Stream {
    /// Counts one.
    #[inline]
    pub const fn see(&mut self, sequence: u64) {
        self.received += 1;
        if sequence < self.next {
            self.reordered += 1;
        } else {
            self.next = sequence + 1;
        }
    }

    /// Begins to count anew; what came before stays known.
    pub const fn reset(&mut self) {
        (self.received, self.reordered) = (0, 0);
    }
}

/// One peer's sealed packets at the client, by packet ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ids {
    key: Option<KeyId>,
    highest: u32,
    /// Highest of this key when counting began.
    base: u32,
    of_key: u64,
    gaps: u64,
    /// Packets since the last reset that came after a later one.
    pub reordered: u64,
    /// Inner packets since the last reset (the rest are keep-alives).
    pub inner: u64,
}

impl Ids {
    /// Counts one; `inner` when it is long enough to be more than a keep-alive.
    #[inline]
    pub fn see(&mut self, key: KeyId, id: u32, inner: bool) {
        if self.key != Some(key) {
            self.gaps = self.lost();
            (self.key, self.highest, self.base, self.of_key) = (Some(key), 0, 0, 0);
        }
        self.of_key += 1;
        self.inner += u64::from(inner);
        if id <= self.highest {
            self.reordered += 1;
        } else {
            self.highest = id;
        }
    }

    /// Packets that the server has numbered since the last reset and that did not come.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let numbered = u64::from(self.highest.saturating_sub(self.base));
        self.gaps + numbered.saturating_sub(self.of_key)
    }

    /// Begins to count anew.
    pub const fn reset(&mut self) {
        (self.base, self.of_key, self.gaps) = (self.highest, 0, 0);
        (self.reordered, self.inner) = (0, 0);
    }
}

/// Sums at a receiver, since the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inner packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Reads that brought at least one.
    pub batches: u64,
}

impl Totals {
    /// Packets that one read brought, on average.
    #[must_use]
    pub fn per_batch(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.packets as f64 / self.batches as f64 }
    }
}

/// What arrived at one end.
#[derive(Debug, Default)]
pub struct Arrived {
    /// In the measured time.
    pub window: Totals,
    /// Of what was sent in the measured time, whenever it came.
    pub all: Totals,
    /// Packets of each peer.
    pub by_peer: Vec<u64>,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Gaps between packet ids.
    pub id_gaps: u64,
    /// Packets that were opened in full.
    pub samples: u64,
    /// Of them, those that were not what they should be.
    pub bad_samples: u64,
    /// Datagrams with another peer's number, or that are no packets at all.
    pub strays: u64,
    /// Datagrams that found a full socket, warm-up aside.
    pub drops: u64,
    /// Sessions that ended by themselves, by reason.
    pub ended: BTreeMap<String, u64>,
    /// CPU seconds of this thread in the measured time.
    pub cpu_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_count_what_came_and_what_came_late() {
        let mut stream = Stream::default();
        for sequence in [0, 1, 4, 2, 5, 3, 6] {
            stream.see(sequence);
        }
        assert_eq!((stream.received, stream.reordered), (7, 2));
        stream.reset();
        stream.see(7);
        stream.see(6);
        assert_eq!((stream.received, stream.reordered), (2, 1), "what came before the reset is known");
    }

    #[test]
    fn gaps_between_packet_ids_are_losses() {
        let (mut ids, key) = (Ids::default(), KeyId::FIRST);
        for id in 1..=10 {
            ids.see(key, id, true);
        }
        assert_eq!(ids.lost(), 0);
        ids.reset();
        for id in [11, 12, 15, 14, 20] {
            ids.see(key, id, id != 12);
        }
        assert_eq!((ids.lost(), ids.reordered, ids.inner), (5, 1, 4));
    }

    #[test]
    fn a_new_key_starts_over_and_forgets_no_loss() {
        let mut ids = Ids::default();
        ids.see(KeyId::FIRST, 3, true);
        assert_eq!(ids.lost(), 2);
        ids.see(KeyId::from_low_bits(1), 1, true);
        assert_eq!(ids.lost(), 2);
        ids.see(KeyId::from_low_bits(1), 3, true);
        assert_eq!((ids.lost(), ids.reordered), (3, 0));
    }

    #[test]
    fn means_need_something() {
        assert!(Totals::default().per_batch() < f64::EPSILON);
        assert!((Totals { packets: 64, bytes: 0, batches: 4 }.per_batch() - 16.0).abs() < 1e-9);
    }
}
