//! The sliding window that accepts each packet id once.
//!
//! ```text
//!        refused            │  seen or not: one bit each  │ new: slides the window
//!  ─────────────────────────┼─────────────────────────────┼──────────────────────▶ id
//!                   highest - size                     highest
//! ```

use crate::time::Instant;
use core::time::Duration;

/// Bits per word of the bitmap.
const WORD: u32 = u64::BITS;

/// Largest window that `replay-window` accepts.
pub const MAX_WINDOW: u32 = 65_536;

/// Accepts each id once, down to `size` below the highest, and for `expiry` after the highest was seen.
///
/// Call [`Window::check`] before spending work on a packet and [`Window::commit`] only after it was authenticated:
/// nothing that an attacker can forge moves the window.
#[derive(Debug, Clone)]
pub struct Window {
    bitmap: Box<[u64]>,
    size: u32,
    expiry: Duration,
    highest: u32,
    /// Ids up to here are refused because something newer arrived longer than `expiry` ago.
    floor: u32,
    advanced_at: Instant,
}

/// Why an id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Id 0 never names a packet.
    Zero,
    /// Accepted once already.
    Duplicate,
    /// Below the window, or too late.
    TooOld,
}

impl Window {
    /// A window of `size` ids (1 when 0 is asked for: strictly ascending) that forgets late ids after `expiry`.
    pub fn new(size: u32, expiry: Duration) -> Self {
        let size = size.clamp(1, MAX_WINDOW);
        // One word more than the size, so that the word being cleared is never inside the window.
        let words = (size.div_ceil(WORD).saturating_add(1)).next_power_of_two();
        Self {
            bitmap: vec![0; words as usize].into_boxed_slice(),
            size,
            expiry,
            highest: 0,
            floor: 0,
            advanced_at: Instant::default(),
        }
    }

    /// The highest id committed; 0 before the first.
    pub const fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether `id` would be accepted at `now`. Changes nothing.
    pub fn check(&self, id: u32, now: Instant) -> Result<(), Replay> {
        if id == 0 {
            return Err(Replay::Zero);
        }
        if id > self.highest {
            return Ok(());
        }
        let late = now.saturating_since(self.advanced_at) > self.expiry;
        if id <= self.floor || late || self.highest.saturating_sub(id) >= self.size {
            return Err(Replay::TooOld);
        }
        if self.bit(id) { Err(Replay::Duplicate) } else { Ok(()) }
    }

    /// Marks an authenticated `id` as seen; true when it is the highest so far. Refuses what [`Window::check`] refuses.
    pub fn commit(&mut self, id: u32, now: Instant) -> Result<bool, Replay> {
        self.check(id, now)?;
        let newest = id > self.highest;
        if newest {
            if now.saturating_since(self.advanced_at) > self.expiry {
                self.floor = self.highest;
            }
            self.clear_between(self.highest, id);
            self.highest = id;
            self.advanced_at = now;
        }
        let (word, mask) = self.place(id);
        if let Some(word) = self.bitmap.get_mut(word) {
            *word |= mask;
        }
        Ok(newest)
    }

    fn place(&self, id: u32) -> (usize, u64) {
        let word = (id / WORD) as usize & self.bitmap.len().saturating_sub(1);
        (word, 1 << (id % WORD))
    }

    fn bit(&self, id: u32) -> bool {
        let (word, mask) = self.place(id);
        self.bitmap.get(word).is_some_and(|w| w & mask != 0)
    }

    /// Zeroes the words that the window slides into when `highest` moves from `old` to `new`.
    fn clear_between(&mut self, old: u32, new: u32) {
        let words = self.bitmap.len();
        let steps = ((new / WORD).saturating_sub(old / WORD) as usize).min(words);
        for step in 1..=steps {
            let word = ((old / WORD) as usize).wrapping_add(step) & words.saturating_sub(1);
            if let Some(word) = self.bitmap.get_mut(word) {
                *word = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const T0: Instant = Instant::from_epoch(Duration::from_secs(1000));
    const EXPIRY: Duration = Duration::from_secs(15);

    #[test]
    fn accepts_once_and_in_any_order_within_the_window() {
        let mut w = Window::new(64, EXPIRY);
        assert_eq!(w.commit(0, T0), Err(Replay::Zero));
        assert_eq!(w.commit(100, T0), Ok(true));
        assert_eq!(w.commit(37, T0), Ok(false));
        assert_eq!(w.commit(37, T0), Err(Replay::Duplicate));
        assert_eq!(w.commit(36, T0), Err(Replay::TooOld));
        assert_eq!(w.commit(100, T0), Err(Replay::Duplicate));
        assert_eq!(w.commit(101, T0), Ok(true));
    }

    #[test]
    fn late_ids_expire() {
        let mut w = Window::new(64, EXPIRY);
        w.commit(10, T0).unwrap();
        assert_eq!(w.check(5, T0 + EXPIRY), Ok(()));
        let late = T0 + EXPIRY + Duration::from_millis(1);
        assert_eq!(w.check(5, late), Err(Replay::TooOld));
        w.commit(11, late).unwrap();
        assert_eq!(w.check(5, late), Err(Replay::TooOld), "what was late stays late");
        assert_eq!(w.check(20, late), Ok(()));
    }

    #[test]
    fn reaches_the_last_id() {
        let mut w = Window::new(64, EXPIRY);
        assert_eq!(w.commit(u32::MAX, T0), Ok(true));
        assert_eq!(w.commit(u32::MAX - 63, T0), Ok(false));
        assert_eq!(w.commit(u32::MAX, T0), Err(Replay::Duplicate));
    }

    proptest! {
        /// Against the obvious model: a set of everything seen.
        #[test]
        fn agrees_with_a_set(size in 1u32..600, ids in prop::collection::vec(1u32..3000, 1..400)) {
            let mut w = Window::new(size, EXPIRY);
            let (mut seen, mut highest) = (BTreeSet::new(), 0u32);
            for id in ids {
                let expected = if id <= highest && highest - id >= size {
                    Err(Replay::TooOld)
                } else if seen.contains(&id) {
                    Err(Replay::Duplicate)
                } else {
                    Ok(id > highest)
                };
                prop_assert_eq!(w.commit(id, T0), expected);
                if expected.is_ok() {
                    seen.insert(id);
                    highest = highest.max(id);
                }
            }
        }
    }
}
