//! The one place that reads the clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time for timers, read once per turn of a loop.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    Instant::now()
}

/// Seconds since 1970, for certificates, tokens and logs only. A clock before 1970 reads as 0.
#[must_use]
pub fn unix_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
