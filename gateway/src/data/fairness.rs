//! Keeps a peer that sends more than a worker can take from taking the others' share.
//!
//! As long as a worker keeps up, nobody is limited; nor when all peers that are active want the same. When the queue in the
//! kernel fills while some peers want little, the others are limited, tighter from turn to turn until the queue is emptied
//! again: what a peer sends beyond the limit is dropped before any crypto, for a small part of what a packet costs. So
//! the packets of those who want little are neither lost in that queue nor late.

/// A peer with fewer packets than this in a turn wants little. No limit is below it: many peers that are active at once are no
/// flood.
const LITTLE: u32 = 32;

/// What a peer has had in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    turn: u32,
    packets: u32,
}

/// One direction of a worker.
#[derive(Debug)]
pub(super) struct Fairness {
    turn: u32,
    /// Peers that had a packet in this turn.
    active: u32,
    /// Those of them that do not want little.
    heavy: u32,
    /// Most packets that a peer had in this turn.
    most: u32,
    /// Most packets of a peer in a turn; `None` without need.
    limit: Option<u32>,
}

impl Fairness {
    pub(super) const fn new() -> Self {
        Self { turn: 0, active: 0, heavy: 0, most: 0, limit: None }
    }

    /// Begins a turn; `pressed` when the queue is about to overflow.
    pub(super) fn begin(&mut self, pressed: bool) {
        let unequal = self.heavy > 0 && self.active > self.heavy;
        self.limit = match self.limit {
            limit if pressed && unequal => {
                let now = limit.unwrap_or(self.most).min(self.most);
                Some((now - now / 4).max(LITTLE))
            }
            // Loosened slowly, and dropped when nobody comes near it any more.
            Some(limit) if self.most >= limit / 2 => Some(limit.saturating_add(limit / 16 + 1)),
            _ => None,
        };
        self.turn = self.turn.wrapping_add(1);
        (self.active, self.heavy, self.most) = (0, 0, 0);
    }

    /// Whether `packets` more of a peer are within the limit.
    #[inline]
    pub(super) fn admit(&mut self, share: &mut Share, packets: u32) -> bool {
        if share.turn != self.turn {
            *share = Share { turn: self.turn, packets: 0 };
            self.active += 1;
        }
        let before = share.packets;
        let after = before.saturating_add(packets);
        // The first of a turn always passes, so that a super-packet larger than the limit does, too.
        if before > 0 && self.limit.is_some_and(|limit| after > limit) {
            return false;
        }
        self.heavy += u32::from(before < LITTLE && after >= LITTLE);
        self.most = self.most.max(after);
        share.packets = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One turn: how many packets of each peer pass.
    fn turn<const N: usize>(
        fair: &mut Fairness,
        peers: &mut [Share; N],
        pressed: bool,
        sent: [u32; N],
    ) -> [u32; N] {
        fair.begin(pressed);
        let mut passed = [0; N];
        for (peer, count) in sent.into_iter().enumerate() {
            passed[peer] = (0..count).filter(|_| fair.admit(&mut peers[peer], 1)).count() as u32;
        }
        passed
    }

    #[test]
    fn only_a_flood_beside_modest_peers_is_cut() {
        let (mut fair, mut peers) = (Fairness::new(), [Share::default(); 2]);
        assert_eq!(turn(&mut fair, &mut peers, false, [1000, 5]), [1000, 5], "it keeps up");
        assert_eq!(turn(&mut fair, &mut peers, true, [1000, 5]), [750, 5]);
        assert_eq!(turn(&mut fair, &mut peers, true, [1000, 5]), [563, 5]);
        for _ in 0..20 {
            turn(&mut fair, &mut peers, true, [1000, 5]);
        }
        assert_eq!(turn(&mut fair, &mut peers, true, [1000, 5]), [LITTLE, 5], "the tightest");
        assert_eq!(
            turn(&mut fair, &mut peers, false, [1000, 5]),
            [LITTLE + LITTLE / 16 + 1, 5],
            "looser again"
        );
        turn(&mut fair, &mut peers, false, [10, 5]);
        assert_eq!(turn(&mut fair, &mut peers, false, [1000, 5]), [1000, 5], "the flood was over");
    }

    #[test]
    fn equals_are_not_limited() {
        let (mut fair, mut peers) = (Fairness::new(), [Share::default(); 3]);
        for _ in 0..5 {
            assert_eq!(turn(&mut fair, &mut peers, true, [400, 300, 200]), [400, 300, 200]);
        }
        let mut alone = [Share::default(); 1];
        assert_eq!(turn(&mut fair, &mut alone, true, [900]), [900]);
        assert_eq!(turn(&mut fair, &mut alone, true, [900]), [900]);
    }

    #[test]
    fn a_super_packet_passes_whole() {
        let (mut fair, mut a, mut b) = (Fairness::new(), Share::default(), Share::default());
        fair.begin(false);
        assert!(fair.admit(&mut a, 44) && fair.admit(&mut b, 1));
        for _ in 0..9 {
            fair.begin(true);
            assert!(fair.admit(&mut a, 44), "more than the limit, and the first");
            assert!(fair.admit(&mut b, 1));
        }
        assert!(!fair.admit(&mut a, 1));
    }
}
