//! Bounded waiting, and the one place of the harness that reads the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a waiting loop looks again: short beside any timer of the protocol, long enough to cost nothing.
const POLL: Duration = Duration::from_millis(20);

/// A point in time until which something is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { start: now(), limit }
    }

    /// Time since the deadline was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.start)
    }

    /// True once the limit is reached.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// What is left, zero when passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "tests run on the real clock, and read it only here")]
    Instant::now()
}

/// Seconds since 1970, for tokens and one-time codes.
#[must_use]
pub fn unix_time() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "tests run on the real clock, and read it only here")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Looks until `check` gives a value; panics naming `what` after `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(!deadline.passed(), "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}

/// Lets `time` pass, for "nothing happens meanwhile".
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
