//! What bounds the TCP connections of a worker.

use std::time::Duration;

use crate::config::Config;

/// Longest packet that is read from a stream unless the tunnel needs more: what a session shard takes as a datagram,
/// with its length exactly a page.
const MAX_FRAME: u16 = 4094;
/// What a data packet has beyond the tunnel's MTU; headers, tags and old framings need less.
const DATA_OVERHEAD: u16 = 128;
/// Bytes that may wait for one client, however short its packets: 64 packets of usual size, and room for control packets.
const QUEUE_BYTES: usize = 256 * 1024;
/// Control packets that may wait for one client. A session has a window of few kilobytes under way, so this is a client that
/// has not read through many retransmissions.
const CONTROL_BYTES: usize = 64 * 1024;
/// A client's first packet is there at once; whoever takes longer holds a place that others need.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// With usual pings, a client that could read nothing for so long has given up itself.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How long the last words of a closed session may take: as long as OpenVPN waits after a refusal.
const LINGER: Duration = Duration::from_secs(5);

/// How a worker treats its TCP connections. All bounds are for one worker: the kernel spreads connections evenly, but one
/// worker must be able to take all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Longest packet read from a client, in bytes without its length.
    pub max_frame: u16,
    /// Data packets that may wait for one client (`tcp-queue-limit`).
    pub queue_packets: usize,
    /// Bytes of packets that may wait for one client before data is turned away.
    pub queue_bytes: usize,
    /// Bytes of control packets that may wait for one client before it counts as stalled.
    pub control_bytes: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time that are no session yet.
    pub unestablished: usize,
    /// The same from one address (IPv6: from one /64). An office that comes back whole is behind one.
    pub unestablished_per_address: usize,
    /// Time until the first whole packet of a connection.
    pub first_frame: Duration,
    /// Time until a connection is a session (`hand-window`).
    pub hand_window: Duration,
    /// A connection that takes nothing for so long while something waits for it is closed.
    pub stalled_after: Duration,
    /// Time for what waits when a connection is closed.
    pub linger: Duration,
    /// Send small packets at once (`TCP_NODELAY`): waiting for more would only add delay inside a tunnel.
    pub nodelay: bool,
    /// Hand out connections that do not begin like a client's (`port-share`).
    pub port_share: bool,
}

impl StreamOptions {
    /// What a configuration asks for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let sessions = config.limits.max_clients as usize;
        let unestablished = config.limits.max_half_open as usize;
        Self {
            max_frame: config.device.mtu.saturating_add(DATA_OVERHEAD).max(MAX_FRAME),
            queue_packets: usize::from(config.transport.tcp_queue_limit),
            queue_bytes: QUEUE_BYTES,
            control_bytes: CONTROL_BYTES,
            connections: sessions.saturating_add(unestablished),
            unestablished,
            unestablished_per_address: (unestablished / 4).max(1),
            first_frame: FIRST_FRAME.min(config.timers.hand_window),
            hand_window: config.timers.hand_window,
            stalled_after: STALLED_AFTER,
            linger: LINGER,
            nodelay: true,
            port_share: config.transport.port_share.is_some(),
        }
    }
}
