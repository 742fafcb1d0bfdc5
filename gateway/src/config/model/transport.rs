//! Sockets, packet sizes, timers and bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{optional_seconds, seconds};
use crate::config::diagnostic::Place;

/// What carries packets to and from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A packet is a datagram.
    Udp,
    /// A connection for each client.
    Tcp,
}

/// One socket address to listen on. Replies always leave from the address that the client spoke to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// What carries packets here.
    pub protocol: Protocol,
    /// Address and port; unspecified: all addresses of the family.
    pub address: SocketAddr,
    /// For IPv6 sockets: refuse IPv4-mapped peers (`bind ipv6only`).
    pub ipv6_only: bool,
    /// The address is `[::]` for want of a family: bind `0.0.0.0` if the host has no IPv6.
    pub ipv4_fallback: bool,
    /// Device to bind to (`bind-dev`, a VRF for example).
    pub device: Option<String>,
    /// The directive that asked for it.
    pub place: Place,
}

/// Where connections to a TCP listener go that are no OpenVPN client's (`port-share`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortShare {
    /// Name or address of the other server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Folder for files that say where proxied connections come from; already joined with the working directory.
    pub directory: Option<PathBuf>,
}

/// How the MSS of TCP connections inside the tunnel is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "mode", content = "bytes")]
pub enum MssFix {
    /// Not at all.
    Off,
    /// The UDP payload (encapsulation without IP and UDP headers) stays at or below so many bytes.
    Payload(u16),
    /// The whole outer packet with IP and UDP headers stays at or below so many bytes.
    Mtu(u16),
    /// The inner packet stays at or below so many bytes: MSS = bytes − 40 (IPv6 60).
    Fixed(u16),
}

/// What all sockets share.
#[derive(Debug, Clone, Serialize)]
pub struct Transport {
    /// `SO_SNDBUF` in bytes; `None`: the system's.
    pub sndbuf: Option<u32>,
    /// `SO_RCVBUF` in bytes; `None`: the system's.
    pub rcvbuf: Option<u32>,
    /// `SO_MARK`; `None`: no mark.
    pub mark: Option<u32>,
    /// Largest control-channel datagram in bytes (UDP payload).
    pub max_packet_size: u16,
    /// MSS bound inside the tunnel.
    pub mssfix: MssFix,
    /// Copy the TOS (traffic class) of inner packets to the datagrams that carry them.
    pub passtos: bool,
    /// Data-channel replay window.
    pub replay_window: ReplayWindow,
    /// Data packets that may wait for one TCP client.
    pub tcp_queue_limit: u16,
    /// Whom TCP listeners are shared with.
    pub port_share: Option<PortShare>,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            sndbuf: None,
            rcvbuf: None,
            mark: None,
            max_packet_size: 1250,
            mssfix: MssFix::Mtu(1492),
            passtos: false,
            replay_window: ReplayWindow::default(),
            tcp_queue_limit: 64,
            port_share: None,
        }
    }
}

/// Data-channel replay window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReplayWindow {
    /// How many packet-ids back are still taken.
    pub packets: u32,
    /// How long a late packet is still taken, in seconds.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { packets: 64, time: Duration::from_secs(15) }
    }
}

/// Timers; all in seconds when serialised.
#[derive(Debug, Clone, Serialize)]
pub struct Timers {
    /// Silence after which a ping is sent to a client (`ping`, `keepalive`).
    #[serde(serialize_with = "optional_seconds")]
    pub ping: Option<Duration>,
    /// Silence after which a client is gone (`ping-restart`; with `keepalive a b` it is 2 × b).
    #[serde(serialize_with = "optional_seconds")]
    pub ping_restart: Option<Duration>,
    /// A client that moves fewer than `inactive_bytes` in this time is dropped.
    #[serde(serialize_with = "optional_seconds")]
    pub inactive: Option<Duration>,
    /// See `inactive`.
    pub inactive_bytes: u64,
    /// Longest life of a session.
    #[serde(serialize_with = "optional_seconds")]
    pub session_timeout: Option<Duration>,
    /// Whether `RESTART` is sent to clients when the gateway stops.
    pub explicit_exit_notify: bool,
    /// Oldest age of a data key; `None`: no limit.
    #[serde(serialize_with = "optional_seconds")]
    pub reneg_max: Option<Duration>,
    /// Each session draws its limit from `reneg_min..=reneg_max`.
    #[serde(serialize_with = "optional_seconds")]
    pub reneg_min: Option<Duration>,
    /// Most bytes under one data key; `None`: only the cipher's own limit.
    pub reneg_bytes: Option<u64>,
    /// Most packets under one data key; `None`: only the cipher's own limit.
    pub reneg_packets: Option<u64>,
    /// Longest time for a key exchange.
    #[serde(serialize_with = "seconds")]
    pub hand_window: Duration,
    /// How long the old key stays after a renegotiation.
    #[serde(serialize_with = "seconds")]
    pub tran_window: Duration,
    /// First retransmission of a control packet.
    #[serde(serialize_with = "seconds")]
    pub tls_timeout: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            ping: None,
            ping_restart: None,
            inactive: None,
            inactive_bytes: 0,
            session_timeout: None,
            explicit_exit_notify: false,
            reneg_max: Some(Duration::from_secs(3600)),
            // A jitter of a tenth keeps a whole fleet from renegotiating in the same second.
            reneg_min: Some(Duration::from_secs(3240)),
            reneg_bytes: None,
            reneg_packets: None,
            hand_window: Duration::from_secs(60),
            tran_window: Duration::from_secs(3600),
            tls_timeout: Duration::from_secs(2),
        }
    }
}

/// So many events in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Events.
    pub count: u32,
    /// Window in seconds.
    #[serde(serialize_with = "seconds")]
    pub per: Duration,
}

/// Bounds.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Most clients at a time (also bounds the peer-ids).
    pub max_clients: u32,
    /// Most networks behind one client.
    pub max_routes_per_client: u32,
    /// Several clients may share a common name.
    pub duplicate_cn: bool,
    /// Answers to each unvalidated address (`connect-freq-initial`). For each, not for all together: a flood of spoofed
    /// packets must not shut everybody else out.
    pub connect_freq_initial: Rate,
    /// Most handshakes under way at a time (`max-half-open`).
    pub max_half_open: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 1024,
            max_routes_per_client: 256,
            duplicate_cn: false,
            // An office behind one address comes back whole after a restart; a reflector is worth nothing at 12 bytes more.
            connect_freq_initial: Rate { count: 1000, per: Duration::from_secs(5) },
            max_half_open: 1024,
        }
    }
}
