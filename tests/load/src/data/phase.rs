//! Where a run stands, shared by its threads.
//!
//! ```text
//!  Prepare ─▶ WarmUp ─▶ Settle ─▶ Measure ─▶ Drain ─▶ Stop
//!             load      quiet     load       quiet
//! ```
//!
//! Between two loads the run waits until nothing arrives any more. So whatever is received from `Measure` on was sent in
//! `Measure`, and what is sent and never received is lost.

use crate::clock;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Nothing counts yet, so that caches, queues and routes are warm when it does.
const WARM_UP: Duration = Duration::from_millis(500);
/// Nobody received anything for so long: what was under way has arrived or is lost.
const QUIET: Duration = Duration::from_millis(250);
/// A load that does not end (somebody else's packets) is waited for no longer.
const QUIET_LIMIT: Duration = Duration::from_secs(4);
/// How often the state of things is looked at.
const TICK: Duration = Duration::from_millis(1);

/// Where a run stands; they follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Sockets are made.
    Prepare,
    /// Load that does not count.
    WarmUp,
    /// No load; what is under way arrives.
    Settle,
    /// Load that counts.
    Measure,
    /// No load; what is under way arrives, and counts for losses.
    Drain,
    /// Threads end.
    Stop,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Prepare, Self::WarmUp, Self::Settle, Self::Measure, Self::Drain, Self::Stop];

    /// Packets are sent.
    #[must_use]
    pub const fn is_load(self) -> bool {
        matches!(self, Self::WarmUp | Self::Measure)
    }
}

/// What the threads of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    phase: AtomicU8,
    /// Packets that receivers have taken in; only whether it moves matters.
    arrived: AtomicU64,
    /// When a sender ran out, in nanoseconds; 0 while none has.
    ran_out: AtomicU64,
    /// Peers must not seal anything: a bank of theirs is still to be sent.
    bank_open: AtomicBool,
}

impl Shared {
    /// Where the run stands.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(Ordering::SeqCst))).copied().unwrap_or(Phase::Stop)
    }

    /// Everybody ends.
    pub fn stop(&self) {
        self.enter(Phase::Stop);
    }

    /// A receiver took so many packets in.
    #[inline]
    pub fn arrived(&self, packets: u64) {
        self.arrived.fetch_add(packets, Ordering::Relaxed);
    }

    /// There is nothing more to send: the measured time ends now.
    pub fn ran_out(&self) {
        let now = u64::try_from(clock::mono().as_nanos()).unwrap_or(u64::MAX);
        self.ran_out.store(now, Ordering::SeqCst);
    }

    /// From now on (or no longer) peers must not seal anything by themselves.
    pub fn set_bank_open(&self, open: bool) {
        self.bank_open.store(open, Ordering::SeqCst);
    }

    /// Peers must not seal anything by themselves.
    #[must_use]
    pub fn bank_open(&self) -> bool {
        self.bank_open.load(Ordering::SeqCst)
    }

    /// Leads the run through its phases, up to `Drain`. Gives from when to when `Measure` lasted, on the monotonic clock.
    pub fn conduct(&self, seconds: Duration) -> Range<Duration> {
        self.enter(Phase::WarmUp);
        self.wait(WARM_UP);
        self.enter(Phase::Settle);
        self.quiet();
        let start = clock::mono();
        self.enter(Phase::Measure);
        self.wait(seconds);
        let end = match self.ran_out.load(Ordering::SeqCst) {
            0 => clock::mono(),
            at => Duration::from_nanos(at),
        };
        self.enter(Phase::Drain);
        self.quiet();
        start..end
    }

    /// Waits so long, or until a sender has run out or the run was stopped.
    pub fn wait(&self, time: Duration) {
        let end = clock::mono() + time;
        while clock::mono() < end && self.ran_out.load(Ordering::SeqCst) == 0 && self.phase() != Phase::Stop {
            std::thread::sleep(TICK.min(end.saturating_sub(clock::mono())));
        }
    }

    fn quiet(&self) {
        let limit = clock::mono() + QUIET_LIMIT;
        let (mut seen, mut since) = (self.arrived.load(Ordering::Relaxed), clock::mono());
        while clock::mono() < limit && clock::mono().saturating_sub(since) < QUIET {
            std::thread::sleep(TICK * 10);
            let now = self.arrived.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, clock::mono());
            }
        }
    }

    /// A run that was stopped stays stopped.
    fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }
}

/// One thread's view: it sees each phase once, in order, however late it looks.
#[derive(Debug)]
pub struct Watch<'a> {
    shared: &'a Shared,
    seen: Phase,
}

impl<'a> Watch<'a> {
    /// Sees what comes after `Prepare`.
    #[must_use]
    pub const fn new(shared: &'a Shared) -> Self {
        Self { shared, seen: Phase::Prepare }
    }

    /// The next phase that has begun and was not seen yet.
    #[inline]
    pub fn next(&mut self) -> Option<Phase> {
        if self.shared.phase() <= self.seen {
            return None;
        }
        self.seen = Phase::ALL.get(self.seen as usize + 1).copied()?;
        Some(self.seen)
    }

    /// The last that was seen.
    #[must_use]
    pub const fn seen(&self) -> Phase {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_watcher_sees_every_phase_once() {
        let shared = Shared::default();
        let mut watch = Watch::new(&shared);
        assert_eq!(watch.next(), None);
        shared.enter(Phase::Measure);
        let seen: Vec<_> = std::iter::from_fn(|| watch.next()).collect();
        assert_eq!(seen, [Phase::WarmUp, Phase::Settle, Phase::Measure]);
        shared.stop();
        let seen: Vec<_> = std::iter::from_fn(|| watch.next()).collect();
        assert_eq!(seen, [Phase::Drain, Phase::Stop]);
    }

    #[test]
    fn a_run_that_was_stopped_stays_stopped() {
        let shared = Shared::default();
        shared.stop();
        let measured = shared.conduct(Duration::from_secs(60));
        assert!(measured.end.saturating_sub(measured.start) < Duration::from_secs(5));
        assert_eq!(shared.phase(), Phase::Stop);
    }

    #[test]
    fn the_time_ends_when_a_sender_has_run_out() {
        let shared = Shared::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while shared.phase() < Phase::Measure {
                    std::thread::sleep(TICK);
                }
                std::thread::sleep(Duration::from_millis(200));
                shared.ran_out();
            });
            let measured = shared.conduct(Duration::from_secs(30));
            let measured = measured.end.saturating_sub(measured.start);
            assert!((0.19..5.0).contains(&measured.as_secs_f64()), "{measured:?}");
        });
    }
}
