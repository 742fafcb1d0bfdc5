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
/// Nobody received anything for so long: what has not arrived by now is lost. Long, because a busy machine stops a gateway
/// for hundreds of milliseconds; where nothing is missing, nobody waits for it.
const QUIET: Duration = Duration::from_secs(1);
/// A load that does not end (somebody else's packets) is waited for no longer.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
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
    /// Packets that senders have sent or are about to send, since the start.
    sent: AtomicU64,
    /// Packets that receivers have taken in, since the start.
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

    /// Asks to send one packet at least; false when the load is over. Who may send says by [`Shared::sent`] how many it
    /// were: until then the run does not go on.
    #[inline]
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.sent.fetch_add(1, Ordering::SeqCst);
        let load = self.phase().is_load();
        if !load {
            self.sent(0);
        }
        load
    }

    /// So many packets were sent after all.
    #[inline]
    pub fn sent(&self, packets: u64) {
        // Wraps to take the one away that was asked for.
        self.sent.fetch_add(packets.wrapping_sub(1), Ordering::SeqCst);
    }

    /// A receiver took so many packets in.
    #[inline]
    pub fn arrived(&self, packets: u64) {
        self.arrived.fetch_add(packets, Ordering::SeqCst);
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

    /// Waits until all that was sent has arrived, or nothing arrives any more.
    fn quiet(&self) {
        let start = clock::mono();
        let (mut seen, mut since) = (0, start);
        loop {
            let (arrived, now) = (self.arrived.load(Ordering::SeqCst), clock::mono());
            if arrived != seen {
                (seen, since) = (arrived, now);
            }
            let sent = self.sent.load(Ordering::SeqCst);
            let whole = arrived == sent;
            let over = now.saturating_sub(since) >= QUIET || now.saturating_sub(start) >= QUIET_LIMIT;
            if whole || over || self.phase() == Phase::Stop {
                // What is lost is not waited for the next time.
                self.arrived.store(sent, Ordering::SeqCst);
                return;
            }
            std::thread::sleep(TICK);
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
    pub fn begun(&mut self) -> Option<Phase> {
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
        assert_eq!(watch.begun(), None);
        shared.enter(Phase::Measure);
        let seen: Vec<_> = std::iter::from_fn(|| watch.begun()).collect();
        assert_eq!(seen, [Phase::WarmUp, Phase::Settle, Phase::Measure]);
        shared.stop();
        let seen: Vec<_> = std::iter::from_fn(|| watch.begun()).collect();
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
    fn the_run_goes_on_when_all_has_arrived_and_not_before() {
        let shared = Shared::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !shared.may_send() {}
                shared.sent(10);
                shared.arrived(9);
                while shared.phase() < Phase::Settle {}
                let start = clock::mono();
                std::thread::sleep(Duration::from_millis(300));
                assert_eq!(shared.phase(), Phase::Settle, "one is under way");
                assert!(!shared.may_send(), "no load");
                shared.arrived(1);
                while shared.phase() < Phase::Measure {}
                assert!(clock::mono() - start < QUIET, "nothing is missing any more");
            });
            shared.conduct(Duration::ZERO);
        });
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
