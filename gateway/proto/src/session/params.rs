//! What an admin decides about sessions, resolved.

use crate::suite::Cipher;
use core::time::Duration;

/// Numbers that both roles need.
#[derive(Debug, Clone)]
pub struct SessionParams {
    /// A negotiation must be through after this (`hand-window`).
    pub handshake_window: Duration,
    /// An old key opens packets this long after its successor's negotiation began (`tran-window`).
    pub transition_window: Duration,
    /// First wait before a control packet is sent again (`tls-timeout`).
    pub tls_timeout: Duration,
    /// Time from key to key; `None` never renegotiates by itself (`reneg-sec 0`).
    pub renegotiate_after: Option<Renegotiate>,
    /// Largest control datagram in bytes (`max-packet-size`).
    pub max_packet: usize,
    /// Replay window of data packets: ids, and how late one may be (`replay-window`).
    pub replay_window: (u32, Duration),
    /// Ciphers in the order of preference (`data-ciphers`).
    pub ciphers: Vec<Cipher>,
    /// What a peer that does not negotiate gets (`data-ciphers-fallback`).
    pub fallback_cipher: Option<Cipher>,
    /// MTU of the TUN device.
    pub tun_mtu: u16,
    /// The control channel is under tls-auth: peers compare that in the options string.
    pub tls_auth: bool,
    /// Refuse clients without the TLS exporter (`force-tls-key-material-export`).
    pub require_exporter: bool,
}

/// `reneg-sec max [min]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renegotiate {
    /// Latest.
    pub max: Duration,
    /// Earliest; a session draws its time between the two so that many do not renegotiate at once.
    pub min: Duration,
}

impl Renegotiate {
    /// OpenVPN's default spread for servers: 90 to 100 percent.
    pub fn spread(max: Duration) -> Self {
        Self { max, min: max.mul_f32(0.9) }
    }
}

impl Default for SessionParams {
    /// OpenVPN's defaults.
    fn default() -> Self {
        Self {
            handshake_window: Duration::from_secs(60),
            transition_window: Duration::from_secs(3600),
            tls_timeout: Duration::from_secs(2),
            renegotiate_after: Some(Renegotiate::spread(Duration::from_secs(3600))),
            max_packet: 1250,
            replay_window: (64, Duration::from_secs(15)),
            ciphers: Cipher::ALL.to_vec(),
            fallback_cipher: None,
            tun_mtu: 1500,
            tls_auth: false,
            require_exporter: false,
        }
    }
}

impl SessionParams {
    /// Longest time that a login may be pending.
    pub(super) fn longest_login(&self) -> Duration {
        let half = self.renegotiate_after.map_or(Duration::ZERO, |r| r.max / 2);
        self.handshake_window.max(half)
    }

    /// How long the old key goes on sealing after the new one was installed: the peer may not be through yet, and a
    /// login may still be refused.
    pub(super) fn promotion_delay(&self) -> Duration {
        let half = self.renegotiate_after.map_or(Duration::MAX, |r| r.max / 2);
        self.handshake_window.min(half).min(self.transition_window / 2)
    }
}
