//! Keeps a peer that sends more than a worker can take from taking the others' share.
//!
//! As long as a worker keeps up, nobody is limited. When a turn ends with more waiting, each peer gets an even share of the
//! next one, and what it sends beyond that is dropped before any crypto: for a small part of what a packet costs, so that the
//! queue in the kernel drains and the others' packets are not lost there.

/// Least packets of a peer in one turn: many peers that are active at once are no flood.
const LEAST_SHARE: u32 = 32;

/// What a peer has had in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    turn: u32,
    packets: u32,
}

/// One direction of a worker.
#[derive(Debug)]
pub(super) struct Fairness {
    /// Packets of one turn.
    budget: u32,
    turn: u32,
    /// Peers that had a packet in this turn.
    active: u32,
    /// Most packets of a peer in this turn.
    limit: u32,
}

impl Fairness {
    /// For turns of `budget` packets.
    pub(super) const fn new(budget: u32) -> Self {
        Self { budget, turn: 0, active: 0, limit: u32::MAX }
    }

    /// Begins a turn; `pressed` when the one before left something behind.
    pub(super) fn begin(&mut self, pressed: bool) {
        // A single peer may have all there is.
        self.limit =
            if pressed && self.active > 1 { (self.budget / self.active).max(LEAST_SHARE) } else { u32::MAX };
        self.turn = self.turn.wrapping_add(1);
        self.active = 0;
    }

    /// Whether `packets` more of a peer are within its share.
    #[inline]
    pub(super) fn admit(&mut self, share: &mut Share, packets: u32) -> bool {
        if share.turn != self.turn {
            *share = Share { turn: self.turn, packets: 0 };
            self.active += 1;
        }
        // The first of a turn always passes, so that a super-packet larger than the share does, too.
        let fits = share.packets == 0 || share.packets.saturating_add(packets) <= self.limit;
        share.packets = share.packets.saturating_add(if fits { packets } else { 0 });
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flood_beside_others_is_cut() {
        let mut fair = Fairness::new(512);
        let (mut flood, mut quiet) = (Share::default(), Share::default());
        let mut turn = |pressed, quiet_packets: u32| {
            fair.begin(pressed);
            let passed = (0..1000).filter(|_| fair.admit(&mut flood, 1)).count();
            (passed, (0..quiet_packets).filter(|_| fair.admit(&mut quiet, 1)).count())
        };
        assert_eq!(turn(false, 5), (1000, 5), "it keeps up");
        assert_eq!(turn(true, 5), (256, 5), "half of a turn");
        assert_eq!(turn(true, 0), (256, 0));
        assert_eq!(turn(true, 5), (1000, 5), "it was alone in the turn before");
        assert_eq!(turn(false, 300), (1000, 300));
    }

    #[test]
    fn a_super_packet_passes_whole() {
        let mut fair = Fairness::new(64);
        let (mut a, mut b) = (Share::default(), Share::default());
        fair.begin(false);
        assert!(fair.admit(&mut a, 44) && fair.admit(&mut b, 44));
        fair.begin(true);
        assert!(fair.admit(&mut a, 44), "more than the share of 32, and the first");
        assert!(!fair.admit(&mut a, 1));
        assert!(fair.admit(&mut b, 1));
    }
}
