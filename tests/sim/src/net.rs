//! A network of two ends and many faults.

use crate::Seeded;
use std::collections::BTreeMap;
use std::time::Duration;
use tessera_proto::Instant;

/// An end of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The gateway.
    Server,
    /// The client.
    Client,
}

/// What may happen to a datagram, each in parts per thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// It never arrives.
    pub loss: u64,
    /// It arrives twice.
    pub duplicate: u64,
    /// It is held up by up to a second.
    pub delay: u64,
    /// One of its bits flips.
    pub corrupt: u64,
}

/// Datagrams under way.
#[derive(Debug)]
pub struct Net {
    faults: Faults,
    rng: Seeded,
    queue: BTreeMap<(Instant, u64), (Side, Vec<u8>)>,
    sent: u64,
}

/// Time that every datagram takes.
const ONE_WAY: Duration = Duration::from_millis(20);

impl Net {
    /// An empty network.
    #[must_use]
    pub const fn new(faults: Faults, rng: Seeded) -> Self {
        Self { faults, rng, queue: BTreeMap::new(), sent: 0 }
    }

    /// Changes the weather.
    pub const fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Sends a datagram; what becomes of it follows from the seed.
    pub fn send(&mut self, to: Side, bytes: &[u8], now: Instant) {
        if self.rng.chance(self.faults.loss) {
            return;
        }
        let copies = if self.rng.chance(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            if self.rng.chance(self.faults.corrupt) {
                let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let mut at = now + ONE_WAY;
            if self.rng.chance(self.faults.delay) {
                at += Duration::from_millis(self.rng.below(1000));
            }
            self.sent += 1;
            self.queue.insert((at, self.sent), (to, bytes));
        }
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<(Side, Vec<u8>)> {
        if self.next_arrival()? > now {
            return None;
        }
        self.queue.pop_first().map(|(_, datagram)| datagram)
    }
}
