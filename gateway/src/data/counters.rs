//! Counters of the packet path: one writer each, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with a single writer: adding is a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything a worker counts. Aligned so that no two workers share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Inner packets from clients.
    pub uplink_packets: Counter,
    /// Their bytes.
    pub uplink_bytes: Counter,
    /// Inner packets to clients.
    pub downlink_packets: Counter,
    /// Their bytes.
    pub downlink_bytes: Counter,
    /// Datagrams for peer-ids that nobody has.
    pub unknown_peer: Counter,
    /// Datagrams under a key that is not installed.
    pub unknown_key: Counter,
    /// Datagrams with a wrong tag.
    pub bad_tag: Counter,
    /// Datagrams that were seen before or came too late.
    pub replayed: Counter,
    /// Datagrams that are no data packets, and plaintexts that are no IP packets.
    pub malformed: Counter,
    /// Inner packets whose source address is not the peer's.
    pub spoofed: Counter,
    /// Inner packets to clients that no route leads to.
    pub no_route: Counter,
    /// Packets for a peer that has no key (yet), or whose key is used up.
    pub no_key: Counter,
    /// Inner packets that the TUN device did not take.
    pub tun_refused: Counter,
    /// Packets that belong to another worker and were handed over.
    pub handed_over: Counter,
    /// Those that were lost because the other worker did not keep up.
    pub handover_full: Counter,
    /// Control packets that were passed on to a shard.
    pub control_passed: Counter,
    /// Messages to a shard that did not fit its queue.
    pub shard_full: Counter,
    /// Packets to clients that the socket did not take in time.
    pub send_dropped: Counter,
}
