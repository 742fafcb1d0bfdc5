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

/// CPU time that the calling thread has used, user and system.
#[must_use]
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The monotonic clock alone.
#[must_use]
pub fn mono() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// When a packet was received, on the monotonic clock, from the kernel's stamp (real time). What passed since then is
/// taken off the time of now, so that it does not count how late a thread got round to reading.
#[must_use]
pub fn arrival(stamp: Duration) -> Duration {
    let real = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    mono().saturating_sub(real.saturating_sub(stamp))
}
