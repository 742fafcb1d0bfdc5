//! What hooks did so far: plain counters that an exporter reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::process::Outcome;

/// Upper ends of the histogram's buckets, in seconds: a hook on this machine, one that asks the network, one that hangs.
pub const DURATION_BUCKETS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// The kinds of hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookKind {
    /// `auth-user-pass-verify`.
    AuthUserPassVerify,
    /// `client-connect`.
    ClientConnect,
    /// `client-crresponse`.
    ClientCrresponse,
    /// `client-disconnect`.
    ClientDisconnect,
    /// `learn-address`.
    LearnAddress,
    /// `tls-crypt-v2-verify`.
    TlsCryptV2Verify,
    /// `tls-verify`.
    TlsVerify,
}

impl HookKind {
    /// All of them, in the order of their directives.
    pub const ALL: [Self; 7] = [
        Self::AuthUserPassVerify,
        Self::ClientConnect,
        Self::ClientCrresponse,
        Self::ClientDisconnect,
        Self::LearnAddress,
        Self::TlsCryptV2Verify,
        Self::TlsVerify,
    ];

    /// The directive, which is also the name in logs.
    #[must_use]
    pub const fn directive(self) -> &'static str {
        match self {
            Self::AuthUserPassVerify => "auth-user-pass-verify",
            Self::ClientConnect => "client-connect",
            Self::ClientCrresponse => "client-crresponse",
            Self::ClientDisconnect => "client-disconnect",
            Self::LearnAddress => "learn-address",
            Self::TlsCryptV2Verify => "tls-crypt-v2-verify",
            Self::TlsVerify => "tls-verify",
        }
    }
}

/// Where a hook is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Queued,
    Running,
    Deferred,
}

/// What happened to the hooks of one kind so far, and where they are now.
#[derive(Debug, Default)]
pub struct KindStats {
    runs: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    rejected: AtomicU64,
    stages: [AtomicU64; 3],
    micros: AtomicU64,
    /// By bucket, each run in one; the last takes what is above all of them.
    durations: [AtomicU64; DURATION_BUCKETS.len() + 1],
}

impl KindStats {
    /// Programs that ended, in whatever way, or could not be started.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Those that said no, or nothing: at once, or by a deferred answer.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Those that ran out of time, or whose deferred answer did.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Ordering::Relaxed)
    }

    /// Jobs that were turned away because the queue, or the table of deferred answers, was full.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Jobs that wait for their turn now.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.stage(Stage::Queued)
    }

    /// Programs that run now.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.stage(Stage::Running)
    }

    /// Programs that have ended and whose answer is awaited now.
    #[must_use]
    pub fn deferred(&self) -> u64 {
        self.stage(Stage::Deferred)
    }

    /// How long all programs ran together. The time in the queue and that of a deferral are not in it.
    #[must_use]
    pub fn total_duration(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// How many programs ran no longer than each of [`DURATION_BUCKETS`]: cumulative. All together are [`Self::runs`].
    #[must_use]
    pub fn durations(&self) -> [(f64, u64); DURATION_BUCKETS.len()] {
        let mut sum = 0;
        std::array::from_fn(|i| {
            sum += self.durations[i].load(Ordering::Relaxed);
            (DURATION_BUCKETS[i], sum)
        })
    }

    /// A run has ended.
    pub(crate) fn ended(&self, failed: bool, timeout: bool, took: Duration) {
        let bucket = DURATION_BUCKETS.partition_point(|end| *end < took.as_secs_f64());
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.durations[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.timeouts.fetch_add(u64::from(timeout), Ordering::Relaxed);
    }

    /// What did not count as a failure when the program ended was one.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn stage(&self, stage: Stage) -> u64 {
        self.stages[stage as usize].load(Ordering::Relaxed)
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct HookStats {
    kinds: [KindStats; HookKind::ALL.len()],
    plugins: KindStats,
}

impl HookStats {
    /// All kinds, by their directives.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &KindStats)> {
        HookKind::ALL.into_iter().map(HookKind::directive).zip(&self.kinds)
    }

    /// One kind.
    #[must_use]
    pub const fn kind(&self, kind: HookKind) -> &KindStats {
        &self.kinds[kind as usize]
    }

    /// Deferrals that were made for plugins and are not over.
    #[must_use]
    pub fn plugins_deferred(&self) -> u64 {
        self.plugins.deferred()
    }

    fn of(&self, kind: Option<HookKind>) -> &KindStats {
        kind.map_or(&self.plugins, |kind| self.kind(kind))
    }

    pub(super) fn rejected(&self, kind: Option<HookKind>) {
        self.of(kind).rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// A program has ended. `failed`: it did not say yes, and does not say more later.
    pub(super) fn ended(&self, kind: HookKind, outcome: Outcome, failed: bool, took: Duration) {
        self.kind(kind).ended(failed, outcome == Outcome::Timeout, took);
    }

    /// Counts a hook at a stage until what is returned is dropped. `None` is a plugin.
    pub(super) fn enter(self: &Arc<Self>, kind: Option<HookKind>, stage: Stage) -> Stay {
        self.of(kind).stages[stage as usize].fetch_add(1, Ordering::Relaxed);
        Stay { stats: Arc::clone(self), kind, stage }
    }
}

/// A hook is at a stage for as long as this lives.
#[derive(Debug)]
pub(super) struct Stay {
    stats: Arc<HookStats>,
    kind: Option<HookKind>,
    stage: Stage,
}

impl Stay {
    /// The deferred answer was no, or none in time.
    pub(super) fn failed(&self, timeout: bool) {
        let stats = self.stats.of(self.kind);
        stats.failures.fetch_add(1, Ordering::Relaxed);
        stats.timeouts.fetch_add(u64::from(timeout), Ordering::Relaxed);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.stats.of(self.kind).stages[self.stage as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_in_one_bucket_and_the_buckets_add_up() {
        let stats = HookStats::default();
        for millis in [0, 10, 11, 600, 5000, 31_000] {
            stats.ended(HookKind::TlsVerify, Outcome::Exit(0), false, Duration::from_millis(millis));
        }
        let kind = stats.kind(HookKind::TlsVerify);
        let counts = kind.durations().map(|(_, count)| count);
        assert_eq!(counts, [2, 3, 3, 3, 4, 5, 5, 5]);
        assert_eq!((kind.runs(), kind.failures(), kind.timeouts()), (6, 0, 0));
        assert_eq!(kind.total_duration(), Duration::from_millis(36_621));
        stats.ended(HookKind::TlsVerify, Outcome::Timeout, true, Duration::ZERO);
        assert_eq!((kind.failures(), kind.timeouts()), (1, 1));
    }

    #[test]
    fn the_order_of_the_kinds_is_that_of_the_table() {
        for (i, kind) in HookKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }

    #[test]
    fn a_stay_counts_while_it_lasts() {
        let stats = Arc::new(HookStats::default());
        let stay = stats.enter(None, Stage::Deferred);
        assert_eq!(stats.plugins_deferred(), 1);
        drop(stay);
        assert_eq!(stats.plugins_deferred(), 0);
    }
}
