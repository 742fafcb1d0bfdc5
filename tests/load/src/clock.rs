//! The one place of the load generator that reads clocks.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tessera_proto::{Instant, Now, UnixTime};

/// Both clocks. Read once for every datagram: a turn of the loop does milliseconds of cryptography, and latencies are
/// what this program measures.
#[must_use]
pub fn read() -> Now {
    // Both clocks exist on every Linux.
    let of = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    Now {
        mono: Instant::from_epoch(of(ClockId::CLOCK_MONOTONIC)),
        wall: UnixTime(of(ClockId::CLOCK_REALTIME).as_secs()),
    }
}

/// CPU time that this process has used, user and system.
#[must_use]
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
