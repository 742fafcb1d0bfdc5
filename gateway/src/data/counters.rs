//! Counters of the packet path: one writer each, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::net::SendCounters;

/// A counter with a single writer: adding is a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the value. Only the owning worker calls this.
    #[inline]
    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many packets went together: counts by powers of two.
#[derive(Debug, Default)]
pub struct BatchSizes([Counter; Self::CLASSES], Counter);

impl BatchSizes {
    /// Upper bounds of all classes but the last, which has none.
    pub const BOUNDS: [usize; Self::CLASSES - 1] = [1, 2, 4, 8, 16, 32];
    /// Number of classes.
    pub const CLASSES: usize = 7;

    /// Counts a batch of `packets`.
    #[inline]
    pub fn observe(&self, packets: usize) {
        self.0[Self::class_of(packets)].add(1);
        self.1.add(packets as u64);
    }

    /// The class of a batch of `packets`.
    #[inline]
    #[must_use]
    pub fn class_of(packets: usize) -> usize {
        let class = packets.saturating_sub(1).checked_ilog2().map_or(0, |log| log as usize + 1);
        class.min(Self::CLASSES - 1)
    }

    /// Batches in each class.
    #[must_use]
    pub fn read(&self) -> [u64; Self::CLASSES] {
        std::array::from_fn(|class| self.0[class].read())
    }

    /// Packets of all batches.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.1.read()
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
    /// Datagrams of a peer beyond its share while the worker could not take all.
    pub uplink_over_share: Counter,
    /// Inner packets to a peer beyond its share, likewise.
    pub downlink_over_share: Counter,
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
    /// Packets to TCP clients for which too much waited already.
    pub stream_full: Counter,
    /// Datagrams to clients that the kernel refused for good (firewall, no route, too long), a second late.
    pub send_refused: Counter,
    /// Trains that the kernel did not segment and that went out one by one, a second late.
    pub send_unsegmented: Counter,
    /// Datagrams of each message that was received: more than one by GRO.
    pub received_trains: BatchSizes,
    /// Datagrams of each message that was sent: more than one by GSO. A second late.
    pub sent_trains: BatchSizes,
    /// Inner packets of each write to the TUN: more than one in a super-packet.
    pub tun_writes: BatchSizes,
    /// Inner packets of each read from the TUN.
    pub tun_reads: BatchSizes,
}

impl WorkerCounters {
    /// Takes over what the send queues have counted.
    pub(super) fn publish_sent(&self, sent: &SendCounters) {
        self.send_refused
            .set(sent.refused + sent.not_permitted + sent.too_big + sent.unreachable + sent.other);
        self.send_unsegmented.set(sent.unsegmented);
        for (class, count) in self.sent_trains.0.iter().zip(sent.sizes) {
            class.set(count);
        }
        self.sent_trains.1.set(sent.packets);
    }
}
