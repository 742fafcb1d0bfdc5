//! The one place that reads the clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Both clocks as the protocol core wants them. The monotonic one counts from boot and goes on during suspend, so that
/// every thread shares one epoch and timers notice a night's sleep.
#[must_use]
pub fn read() -> tessera_proto::Now {
    // CLOCK_BOOTTIME exists on every kernel since 2.6.39; without it nothing here could run.
    let boot =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    tessera_proto::Now {
        mono: tessera_proto::Instant::from_epoch(boot),
        wall: tessera_proto::UnixTime(unix_seconds()),
    }
}
