//! When each session wants to be woken: a heap whose outdated entries are skipped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use tessera_proto::Instant;

/// The deadlines of slots `0..`. A slot has one live deadline at most; entries that no longer match are dropped when they
/// come up, so that setting one costs no search.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The earliest entry of each slot that is in the heap and counts.
    queued: Vec<Option<Instant>>,
}

impl Timers {
    /// Wakes `slot` at `at`, or not at all. A later deadline than the queued one is not queued: when that comes up, the
    /// session says anew what it wants.
    pub fn set(&mut self, slot: usize, at: Option<Instant>) {
        if self.queued.len() <= slot {
            self.queued.resize(slot.saturating_add(1), None);
        }
        let Some(queued) = self.queued.get_mut(slot) else { return };
        match (at, *queued) {
            (None, _) => *queued = None,
            (Some(at), Some(before)) if before <= at => {}
            (Some(at), _) => {
                *queued = Some(at);
                self.heap.push(Reverse((at, slot)));
            }
        }
    }

    /// The next slot whose time has come.
    pub fn expire(&mut self, now: Instant) -> Option<usize> {
        while let Some(Reverse((at, slot))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if let Some(queued) = self.queued.get_mut(slot).filter(|queued| **queued == Some(at)) {
                *queued = None;
                return Some(slot);
            }
        }
        None
    }

    /// When to look again. Never later than a deadline; may be earlier.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::from_epoch(Duration::from_millis(ms))
    }

    #[test]
    fn expires_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(1, Some(at(20)));
        timers.set(0, Some(at(10)));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.expire(at(9)), None);
        assert_eq!(timers.expire(at(30)), Some(0));
        assert_eq!(timers.expire(at(30)), Some(1));
        assert_eq!(timers.expire(at(30)), None);
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let mut timers = Timers::default();
        timers.set(0, Some(at(50)));
        timers.set(0, Some(at(10)));
        assert_eq!(timers.expire(at(10)), Some(0));
        assert_eq!(timers.expire(at(100)), None, "the old entry is void");
    }

    #[test]
    fn a_later_deadline_wakes_early_rather_than_late() {
        let mut timers = Timers::default();
        timers.set(0, Some(at(10)));
        timers.set(0, Some(at(50)));
        assert_eq!(timers.expire(at(10)), Some(0));
        timers.set(0, Some(at(50)));
        assert_eq!(timers.expire(at(50)), Some(0));
    }

    #[test]
    fn a_stopped_slot_is_silent_and_can_be_used_again() {
        let mut timers = Timers::default();
        timers.set(0, Some(at(10)));
        timers.set(0, None);
        assert_eq!(timers.expire(at(100)), None);
        timers.set(0, Some(at(200)));
        assert_eq!(timers.expire(at(200)), Some(0));
    }
}
