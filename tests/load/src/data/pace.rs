//! When the next train may leave.

use std::time::Duration;

/// How far a sender may fall behind and still make up for it; what is later is given up, so that a stall is not followed
/// by a flood.
const MOST_DEBT: Duration = Duration::from_millis(50);

/// Keeps a rate, in packets a second; trains leave as a whole.
#[derive(Debug)]
pub struct Pacer {
    per_packet: Option<f64>,
    /// Seconds on the caller's clock when the next train is due.
    next: f64,
}

impl Pacer {
    /// `None` never waits. The first train is due at `now`.
    #[must_use]
    pub fn new(rate: Option<f64>, now: Duration) -> Self {
        Self { per_packet: rate.map(|rate| 1.0 / rate), next: now.as_secs_f64() }
    }

    /// How long to wait before the next train.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        match self.per_packet {
            None => Duration::ZERO,
            Some(_) => Duration::try_from_secs_f64(self.next - now.as_secs_f64()).unwrap_or(Duration::ZERO),
        }
    }

    /// A train of `packets` has left.
    pub fn sent(&mut self, packets: u16, now: Duration) {
        if let Some(per_packet) = self.per_packet {
            let oldest = now.saturating_sub(MOST_DEBT).as_secs_f64();
            self.next = (self.next + per_packet * f64::from(packets)).max(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    #[test]
    fn keeps_its_rate_over_a_second() {
        let mut pacer = Pacer::new(Some(10_000.0), T0);
        let (mut now, mut sent) = (T0, 0);
        while now < T0 + Duration::from_secs(1) {
            let wait = pacer.wait(now);
            // Sleeps end late, always.
            now += wait + Duration::from_micros(150);
            pacer.sent(40, now);
            sent += 40;
        }
        assert!((9_900..=10_100).contains(&sent), "{sent}");
    }

    #[test]
    fn a_stall_is_made_up_for_in_part() {
        let mut pacer = Pacer::new(Some(1000.0), T0);
        let late = T0 + Duration::from_secs(10);
        pacer.sent(1, late);
        let mut burst = 0;
        while pacer.wait(late).is_zero() {
            pacer.sent(1, late);
            burst += 1;
        }
        assert!((50..=52).contains(&burst), "{burst} packets in a row");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut pacer = Pacer::new(None, T0);
        pacer.sent(64, T0);
        assert_eq!(pacer.wait(T0), Duration::ZERO);
    }
}
