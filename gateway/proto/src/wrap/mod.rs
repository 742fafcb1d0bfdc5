//! Protection of the control channel, from the outside in: bytes of a stranger ([`Datagram`]) become an [`Opened`] packet only when
//! their MAC is right (or the server runs without one), and reach a session only when they are no replay.
//!
//! Keys ([`WrapKey`]) are immutable and shared; what a session counts ([`Wrapper`]) is its own.

mod static_key;
mod tls_auth;
mod tls_crypt;
mod tls_crypt_v2;

pub use static_key::{KeyDirection, StaticKey, StaticKeyError};
pub use tls_auth::TlsAuthKey;
pub use tls_crypt::TlsCryptKey;
pub use tls_crypt_v2::{ClientKey, ClientKeyFile, MAX_METADATA, Metadata, ServerKey, V2KeyError, split_wkc};

use crate::replay::Window;
use crate::time::{Instant, UnixTime};
use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;
use tessera_wire::control::{Acks, HEADER_LEN, Header, Malformed, Tail};
use tessera_wire::{KeyId, MessageId, SessionId};

/// Replay window of wrapped control packets; OpenVPN's default for both numbers.
const REPLAY_WINDOW: u32 = 64;
const REPLAY_EXPIRY: Duration = Duration::from_secs(15);

/// A tls-crypt-v2 client that can resend its WKc says so by this value in the high byte of its packet ids.
const EARLY_NEGOTIATION: u32 = 0x0f00_0000;
const EARLY_NEGOTIATION_MASK: u32 = 0xff00_0000;

/// Early-negotiation TLV behind a server's reset: type 1, length 2, flag 1. It asks a tls-crypt-v2 client for its WKc again,
/// because the server keeps none.
pub(crate) const RESEND_WKC: [u8; 6] = [0, 1, 0, 2, 0, 1];

/// A datagram as it came in: nobody knows yet who sent it.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a>(pub &'a [u8]);

impl Datagram<'_> {
    /// The key-id that it claims.
    pub(crate) fn key_id(&self) -> Option<KeyId> {
        Header::parse(self.0).ok().map(|(header, _)| header.op.key_id)
    }
}

/// Packet id and time of a wrapped packet; replay protection of the wrapping, apart from message ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketStamp {
    /// Ascending from 1 under one `time`.
    pub id: u32,
    /// Seconds since 1970 when the sender started counting.
    pub time: u32,
}

impl PacketStamp {
    /// Bytes on the wire.
    pub const LEN: usize = 8;

    const fn to_bytes(self) -> [u8; Self::LEN] {
        ((self.id as u64) << 32 | self.time as u64).to_be_bytes()
    }

    const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { id: (both >> 32) as u32, time: both as u32 }
    }

    /// Whether a tls-crypt-v2 client announces that it can resend its WKc.
    pub const fn announces_early_negotiation(self) -> bool {
        self.id & EARLY_NEGOTIATION_MASK == EARLY_NEGOTIATION
    }
}

/// Why a control packet was not unwrapped. Peer noise: counted, never an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrapError {
    /// The MAC is wrong.
    BadMac,
    /// The wrapped client key is malformed or not ours.
    BadWkc,
    /// The clear parts are not those of a control packet.
    Malformed(Malformed),
    /// No negotiation with that key-id.
    NoSuchKey,
    /// The packet id was seen or is too old.
    Replayed,
    /// Addressed to, or sent by, another session.
    WrongSession,
    /// Shorter than the protection.
    TooShort,
}

impl From<Malformed> for WrapError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// The keys of one protection mode.
pub enum WrapKey {
    /// No protection.
    None,
    /// HMAC only.
    TlsAuth(TlsAuthKey),
    /// Encryption and HMAC; also what a tls-crypt-v2 client key opens to.
    TlsCrypt(TlsCryptKey),
}

impl core::fmt::Debug for WrapKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A packet whose MAC is right; not yet checked for replay.
#[derive(Debug)]
pub struct Opened<'a> {
    /// The clear part.
    pub header: Header,
    /// Absent when there is no protection.
    pub stamp: Option<PacketStamp>,
    /// The part that was protected.
    tail: Cow<'a, [u8]>,
}

impl Opened<'_> {
    /// Parses the protected part.
    pub fn tail(&self) -> Result<Tail<'_>, WrapError> {
        Ok(Tail::parse(self.header.op.opcode, &self.tail)?)
    }
}

impl WrapKey {
    /// Name of the mode for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TlsAuth(_) => "tls-auth",
            Self::TlsCrypt(_) => "tls-crypt",
        }
    }

    /// Bytes added to a packet.
    pub const fn overhead(&self) -> usize {
        match self {
            Self::None => 0,
            Self::TlsAuth(key) => key.overhead(),
            Self::TlsCrypt(_) => TlsCryptKey::OVERHEAD,
        }
    }

    /// Verifies and opens a packet. Keeps no state: replay is checked by [`Wrapper::accept`].
    pub fn open<'a>(&self, datagram: Datagram<'a>) -> Result<Opened<'a>, WrapError> {
        let (header, rest) = Header::parse(datagram.0)?;
        match self {
            Self::None => Ok(Opened { header, stamp: None, tail: rest.into() }),
            Self::TlsAuth(key) => key.open(header, rest),
            Self::TlsCrypt(key) => key.open(header, rest),
        }
    }

    /// Builds a packet with the given stamp. `None` only when the tail is inconsistent (acks without a session id).
    pub fn seal(&self, header: &Header, stamp: PacketStamp, tail: &Tail<'_>) -> Option<Vec<u8>> {
        let mut plain = vec![0; Tail::overhead(tail.acks.len()) + tail.payload.len()];
        let len = tail.write(&mut plain).ok()?;
        plain.truncate(len);
        let header = header.to_bytes();
        let mut out = Vec::with_capacity(HEADER_LEN + self.overhead() + plain.len());
        match self {
            Self::None => {
                out.extend_from_slice(&header);
                out.extend_from_slice(&plain);
            }
            Self::TlsAuth(key) => key.seal(&header, stamp, &plain, &mut out),
            Self::TlsCrypt(key) => key.seal(&header, stamp, &plain, &mut out),
        }
        Some(out)
    }
}

/// One session's use of a [`WrapKey`]: counts what is sent, remembers what was received.
#[derive(Debug)]
pub struct Wrapper {
    key: Arc<WrapKey>,
    next_id: u32,
    time: u32,
    recv_time: u32,
    window: Window,
}

impl Wrapper {
    /// Starts counting at `first_id` (1, unless stateless packets were sent before).
    pub fn new(key: Arc<WrapKey>, first_id: u32, wall: UnixTime) -> Self {
        let window = Window::new(REPLAY_WINDOW, REPLAY_EXPIRY);
        Self { key, next_id: first_id, time: wall.net_time(), recv_time: 0, window }
    }

    /// A tls-crypt-v2 client's counter: its ids announce that it can resend the WKc.
    pub fn with_early_negotiation(key: Arc<WrapKey>, wall: UnixTime) -> Self {
        Self::new(key, EARLY_NEGOTIATION + 1, wall)
    }

    /// Mode and keys.
    pub const fn key(&self) -> &Arc<WrapKey> {
        &self.key
    }

    /// Refuses a stamp that was seen before; otherwise remembers it. Call only after [`WrapKey::open`] succeeded.
    pub fn accept(&mut self, opened: &Opened<'_>, now: Instant) -> Result<(), WrapError> {
        let Some(stamp) = opened.stamp else { return Ok(()) };
        if stamp.time < self.recv_time {
            return Err(WrapError::Replayed);
        }
        if stamp.time > self.recv_time {
            // The sender started anew (its clock moved on): ids count from 1 again.
            self.recv_time = stamp.time;
            self.window = Window::new(REPLAY_WINDOW, REPLAY_EXPIRY);
        }
        self.window.commit(stamp.id, now).map(|_| ()).map_err(|_| WrapError::Replayed)
    }

    /// Builds the next packet. `None` when ids are used up or the tail is inconsistent.
    pub fn seal(&mut self, header: &Header, tail: &Tail<'_>) -> Option<Vec<u8>> {
        let stamp = PacketStamp { id: self.next_id, time: self.time };
        let packet = self.key.seal(header, stamp, tail)?;
        self.next_id = self.next_id.checked_add(1)?;
        Some(packet)
    }

    /// How much payload fits a packet of `max_packet` bytes that also carries `acks` acknowledgements.
    pub fn payload_room(&self, max_packet: usize, acks: usize) -> usize {
        max_packet.saturating_sub(HEADER_LEN + self.key.overhead() + Tail::overhead(acks))
    }
}

/// The tail of the server's answer to a reset: acknowledges it and is itself message 0.
pub fn reset_reply_tail(client: SessionId, payload: &[u8]) -> Tail<'_> {
    let mut acks = Acks::NONE;
    acks.push(MessageId::RESET);
    Tail { acks, remote_session_id: Some(client), message_id: Some(MessageId::RESET), payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use tessera_wire::{Opcode, OpcodeByte};

    const WALL: UnixTime = UnixTime(1_700_000_000);
    const T0: Instant = Instant::from_epoch(Duration::ZERO);

    fn static_key() -> StaticKey {
        let mut bytes = [0u8; 256];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i as u8 ^ 0xa5;
        }
        StaticKey::new(bytes)
    }

    fn pairs() -> Vec<(WrapKey, WrapKey)> {
        let key = static_key();
        let mut pairs = vec![(WrapKey::None, WrapKey::None)];
        for digest in Digest::ALL {
            for (a, b) in [
                (KeyDirection::Normal, KeyDirection::Inverse),
                (KeyDirection::Bidirectional, KeyDirection::Bidirectional),
            ] {
                pairs.push((
                    WrapKey::TlsAuth(TlsAuthKey::new(&key, a, digest)),
                    WrapKey::TlsAuth(TlsAuthKey::new(&key, b, digest)),
                ));
            }
        }
        pairs.push((
            WrapKey::TlsCrypt(TlsCryptKey::new(&key, KeyDirection::Normal).unwrap()),
            WrapKey::TlsCrypt(TlsCryptKey::new(&key, KeyDirection::Inverse).unwrap()),
        ));
        pairs
    }

    fn header() -> Header {
        Header {
            op: OpcodeByte { opcode: Opcode::Control, key_id: KeyId::FIRST },
            session_id: SessionId([1; 8]),
        }
    }

    fn tail(payload: &[u8]) -> Tail<'_> {
        Tail { message_id: Some(MessageId(4)), ..reset_reply_tail(SessionId([2; 8]), payload) }
    }

    #[test]
    fn each_mode_opens_what_the_other_side_sealed_once() {
        for (server, client) in pairs() {
            let name = server.name();
            let wrapped = !matches!(server, WrapKey::None);
            let mut tx = Wrapper::new(Arc::new(server), 1, WALL);
            let mut rx = Wrapper::new(Arc::new(client), 1, WALL);
            let packet = tx.seal(&header(), &tail(b"hello")).unwrap();
            assert_eq!(packet.len(), 1250 - tx.payload_room(1250, 1) + 5);
            let key = Arc::clone(rx.key());
            let opened = key.open(Datagram(&packet)).unwrap();
            rx.accept(&opened, T0).unwrap();
            assert_eq!(opened.tail().unwrap(), tail(b"hello"), "{name}");
            let again = key.open(Datagram(&packet)).unwrap();
            assert_eq!(rx.accept(&again, T0).is_err(), wrapped, "{name}: replay");
        }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        for (server, client) in pairs() {
            if matches!(server, WrapKey::None) {
                continue;
            }
            let packet = Wrapper::new(Arc::new(server), 1, WALL).seal(&header(), &tail(b"hello")).unwrap();
            for bit in 0..packet.len() * 8 {
                let mut bad = packet.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(client.open(Datagram(&bad)).is_err(), "{} bit {bit}", client.name());
            }
            for len in 0..packet.len() {
                assert!(client.open(Datagram(&packet[..len])).is_err());
            }
        }
    }

    #[test]
    fn own_packets_reflected_are_refused_where_directions_differ() {
        let key = static_key();
        let server = WrapKey::TlsCrypt(TlsCryptKey::new(&key, KeyDirection::Normal).unwrap());
        let packet = server.seal(&header(), PacketStamp { id: 1, time: 1 }, &tail(b"")).unwrap();
        assert_eq!(server.open(Datagram(&packet)).unwrap_err(), WrapError::BadMac);
    }

    #[test]
    fn a_newer_time_restarts_the_ids_and_an_older_one_is_a_replay() {
        let (server, client) = pairs().pop().unwrap();
        let (server, mut rx) = (Arc::new(server), Wrapper::new(Arc::new(client), 1, WALL));
        let key = Arc::clone(rx.key());
        let mut accept = |id, time| {
            let packet = server.seal(&header(), PacketStamp { id, time }, &tail(b"")).unwrap();
            rx.accept(&key.open(Datagram(&packet)).unwrap(), T0)
        };
        assert_eq!(accept(5, 100), Ok(()));
        assert_eq!(accept(1, 101), Ok(()));
        assert_eq!(accept(6, 100), Err(WrapError::Replayed));
        assert_eq!(accept(1, 101), Err(WrapError::Replayed));
    }
}
