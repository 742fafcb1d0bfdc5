//! How a worker waits between turns: it naps while packets come densely, so that a batch gathers; else it lets the next packet
//! wake it.
//!
//! Being woken costs the sender and us more than a packet does, and so does a turn of its own for each packet. At 40,000
//! packets a second (what a stock client sends) naps of 150 µs cost about 0.6 of the processor time of naps of 50 µs.

use std::time::Duration;

use tessera_proto::Instant;

/// Packets that are worth a turn: by then its fixed cost is a small part of theirs.
const BATCH: u64 = 16;
/// Least nap: a shorter one ends later than asked for anyhow.
const LEAST: Duration = Duration::from_micros(50);
/// Longest nap, and the most that a packet waits because of one: network cards hold interrupts back for as long.
const MOST: Duration = Duration::from_micros(150);
/// With fewer packets than this in the longest nap there is no batch to wait for.
const DENSE: u64 = 2;
/// How far back the rate looks.
const WINDOW: Duration = Duration::from_millis(1);

/// The rate of the packets of late.
#[derive(Debug)]
pub(super) struct Pace {
    packets: u64,
    time: Duration,
    last: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { packets: 0, time: Duration::ZERO, last: now }
    }

    /// Takes account of the turn that began at `now`; how long to nap before the next one, if at all.
    pub(super) fn after(&mut self, packets: usize, now: Instant) -> Option<Duration> {
        self.packets += packets as u64;
        self.time += now.saturating_since(self.last);
        self.last = now;
        // Older turns count less and less, and after a pause not at all.
        if self.time >= 16 * WINDOW {
            (self.packets, self.time) = (packets as u64, WINDOW);
        }
        while self.time >= WINDOW {
            self.packets /= 2;
            self.time /= 2;
        }
        let per_packet = self.time.checked_div(u32::try_from(self.packets).unwrap_or(u32::MAX))?;
        (per_packet * DENSE as u32 <= MOST).then(|| (per_packet * BATCH as u32).clamp(LEAST, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns with `packets` each, `apart` from one another: the naps that they lead to.
    fn naps(
        pace: &mut Pace,
        from: Instant,
        turns: u32,
        packets: usize,
        apart: Duration,
    ) -> Vec<Option<Duration>> {
        (1..=turns).map(|turn| pace.after(packets, from + apart * turn)).collect()
    }

    #[test]
    fn sparse_packets_are_waited_for_and_dense_ones_gather() {
        let start = Instant::default();
        let mut pace = Pace::new(start);
        let sparse = naps(&mut pace, start, 100, 1, Duration::from_millis(1));
        assert!(sparse.iter().all(Option::is_none), "{sparse:?}");
        let from = start + Duration::from_secs(1);
        let dense = naps(&mut pace, from, 100, 4, Duration::from_micros(160));
        assert!(dense[20..].iter().all(|nap| *nap == Some(MOST)), "{dense:?}");
        let from = from + Duration::from_secs(1);
        let denser = naps(&mut pace, from, 100, 40, Duration::from_micros(60));
        assert!(denser[40..].iter().all(|nap| *nap == Some(LEAST)), "{denser:?}");
        let between = naps(&mut pace, from + Duration::from_secs(1), 100, 16, Duration::from_micros(100));
        let late = between.last().unwrap().unwrap();
        assert!((90..=110).contains(&late.as_micros()), "{between:?}");
        assert_eq!(pace.after(1, from + Duration::from_secs(10)), None, "after a pause");
    }

    #[test]
    fn turns_without_packets_end_the_naps() {
        let start = Instant::default();
        let mut pace = Pace::new(start);
        assert_eq!(pace.after(0, start), None);
        naps(&mut pace, start, 50, 8, Duration::from_micros(100));
        let idle = naps(&mut pace, start + Duration::from_millis(5), 50, 0, Duration::from_micros(150));
        assert_eq!(idle.last(), Some(&None));
    }
}
