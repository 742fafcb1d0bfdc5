//! The gate before any state: what a datagram of an unknown peer leads to.
//!
//! ```text
//!  reset (7, 10) ──MAC fine──▶ one stateless answer that carries the cookie
//!  control (4, 5, 11) ──MAC fine, cookie fine──▶ admitted: now there is a session
//!  anything else ──▶ dropped and counted
//! ```

use super::cookie::CookieKey;
use crate::session::Protection;
use crate::time::Now;
use crate::wrap::{
    ClientKey, Datagram, KeyDirection, Metadata, Opened, PacketStamp, RESEND_WKC, ServerKey, TlsCryptKey,
    WrapError, WrapKey, reset_reply_tail,
};
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;
use tessera_wire::control::Header;
use tessera_wire::{KeyId, MessageId, Opcode, OpcodeByte, SessionId};

/// The whole datagram of a WKc-carrying packet is bounded by the largest WKc and control packet.
const MAX_DATAGRAM: usize = 4096;

/// Control-channel protection of a listener.
#[derive(Debug, Clone)]
pub struct Protections {
    /// For resets without a WKc; `None` when tls-crypt-v2 is the only way in.
    pub shared: Option<Protection>,
    /// tls-crypt-v2.
    pub per_client: Option<PerClient>,
}

/// tls-crypt-v2.
#[derive(Debug, Clone)]
pub struct PerClient {
    /// Unwraps client keys.
    pub server_key: Arc<ServerKey>,
    /// Create state at once for clients that cannot resend their WKc.
    pub allow_noncookie: bool,
    /// Refuse keys older than this, or of unknown age (`tls-crypt-v2-max-age`).
    pub max_age: Option<Duration>,
}

/// Why a datagram of an unknown peer was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drop {
    /// The cookie is not ours, not for this address, or too old.
    BadCookie,
    /// The MAC or the wrapped key is wrong, or it is no control packet at all.
    BadPacket,
    /// The client key is older than allowed.
    KeyTooOld,
    /// Too many answers for this address.
    RateLimited,
    /// No session that this packet could belong to.
    UnknownSession,
    /// An opcode that opens nothing.
    UnexpectedOpcode,
    /// No protection mode fits this kind of reset.
    WrongProtection,
    /// As many half-open sessions of this kind as there may be.
    TooManyHalfOpen,
    /// TLS could not be set up.
    TlsUnusable,
    /// An existing session refused it.
    Session,
}

/// A verdict of the gate.
#[derive(Debug)]
pub(super) enum Admission {
    Drop(Drop),
    /// Send this back, once, and forget it.
    Reply(Vec<u8>),
    /// The peer is really there.
    Admit(Box<Admitted>),
}

/// What a session is opened with.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) client: SessionId,
    /// Our id, if the cookie fixed it.
    pub(super) cookie: Option<SessionId>,
    pub(super) protection: Protection,
    pub(super) metadata: Option<Metadata>,
    /// The packet without its WKc.
    pub(super) packet: Vec<u8>,
}

/// Judges datagrams without keeping anything.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) cookies: CookieKey,
    pub(super) protections: Protections,
}

impl Gate {
    pub(super) fn judge(&self, datagram: &[u8], from: SocketAddr, now: Now) -> Admission {
        match self.try_judge(datagram, from, now) {
            Ok(admission) => admission,
            Err(drop) => Admission::Drop(drop),
        }
    }

    fn try_judge(&self, datagram: &[u8], from: SocketAddr, now: Now) -> Result<Admission, Drop> {
        let (header, _) = Header::parse(datagram).map_err(|_| Drop::BadPacket)?;
        if header.op.key_id != KeyId::FIRST || datagram.len() > MAX_DATAGRAM {
            return Err(Drop::UnexpectedOpcode);
        }
        match header.op.opcode {
            Opcode::HardResetClientV2 => {
                let shared = self.protections.shared.as_ref().ok_or(Drop::WrongProtection)?;
                self.answer_reset(&shared.key, datagram, from, now, &[])
            }
            Opcode::HardResetClientV3 => self.judge_v3_reset(datagram, from, now),
            Opcode::Control | Opcode::Ack => {
                let shared = self.protections.shared.as_ref().ok_or(Drop::UnknownSession)?;
                let opened = shared.key.open(Datagram(datagram)).map_err(|_| Drop::BadPacket)?;
                let cookie = self.check_cookie(&opened, from, now)?;
                Ok(admit(header, Some(cookie), shared.clone(), None, datagram))
            }
            Opcode::ControlWkc => {
                let (packet, protection, metadata) = self.open_client_key(datagram, now)?;
                let opened = protection.key.open(Datagram(packet)).map_err(|_| Drop::BadPacket)?;
                let cookie = self.check_cookie(&opened, from, now)?;
                Ok(admit(header, Some(cookie), protection, Some(metadata), packet))
            }
            Opcode::SoftReset | Opcode::HardResetServerV2 | Opcode::DataV1 | Opcode::DataV2 => {
                Err(Drop::UnexpectedOpcode)
            }
        }
    }

    fn judge_v3_reset(&self, datagram: &[u8], from: SocketAddr, now: Now) -> Result<Admission, Drop> {
        let (packet, protection, metadata) = self.open_client_key(datagram, now)?;
        let opened = protection.key.open(Datagram(packet)).map_err(|_| Drop::BadPacket)?;
        if opened.stamp.is_some_and(PacketStamp::announces_early_negotiation) {
            return self.answer_reset(&protection.key, packet, from, now, &RESEND_WKC);
        }
        let allowed = self.protections.per_client.as_ref().is_some_and(|v2| v2.allow_noncookie);
        if !allowed {
            return Err(Drop::WrongProtection);
        }
        check_reset(&opened)?;
        Ok(admit(opened.header, None, protection, Some(metadata), packet))
    }

    /// Opens the WKc behind a datagram and gives the packet before it with the client's own keys.
    fn open_client_key<'a>(
        &self,
        datagram: &'a [u8],
        now: Now,
    ) -> Result<(&'a [u8], Protection, Metadata), Drop> {
        let v2 = self.protections.per_client.as_ref().ok_or(Drop::WrongProtection)?;
        let (packet, ClientKey { key, metadata }) =
            v2.server_key.split(datagram).map_err(|_: WrapError| Drop::BadPacket)?;
        if let Some(max_age) = v2.max_age {
            let Metadata::Timestamp(made) = metadata else {
                return Err(Drop::KeyTooOld);
            };
            let age = now.wall.0.saturating_sub(u64::try_from(made).unwrap_or(0));
            if age > max_age.as_secs() {
                return Err(Drop::KeyTooOld);
            }
        }
        let crypt = TlsCryptKey::new(&key, KeyDirection::Normal).ok_or(Drop::BadPacket)?;
        let protection = Protection { key: Arc::new(WrapKey::TlsCrypt(crypt)), source: Some(key) };
        Ok((packet, protection, metadata))
    }

    fn answer_reset(
        &self,
        key: &WrapKey,
        packet: &[u8],
        from: SocketAddr,
        now: Now,
        payload: &[u8],
    ) -> Result<Admission, Drop> {
        let opened = key.open(Datagram(packet)).map_err(|_| Drop::BadPacket)?;
        check_reset(&opened)?;
        let client = opened.header.session_id;
        let header = Header {
            op: OpcodeByte { opcode: Opcode::HardResetServerV2, key_id: KeyId::FIRST },
            session_id: self.cookies.issue(now.mono, from, client),
        };
        let stamp = PacketStamp { id: 1, time: now.wall.net_time() };
        let reply = key.seal(&header, stamp, &reset_reply_tail(client, payload)).ok_or(Drop::BadPacket)?;
        Ok(Admission::Reply(reply))
    }

    /// The third packet: it must acknowledge our reset, addressed to the session id that we gave this very client.
    fn check_cookie(&self, opened: &Opened<'_>, from: SocketAddr, now: Now) -> Result<SessionId, Drop> {
        let tail = opened.tail().map_err(|_| Drop::BadPacket)?;
        let cookie = tail.remote_session_id.ok_or(Drop::UnknownSession)?;
        let early = |id: &MessageId| id.0 <= 1;
        if !tail.acks.as_slice().iter().all(early) || !tail.message_id.as_ref().is_none_or(early) {
            return Err(Drop::UnknownSession);
        }
        if self.cookies.verify(now.mono, from, opened.header.session_id, cookie) {
            Ok(cookie)
        } else {
            Err(Drop::BadCookie)
        }
    }
}

/// A reset is message 0 and acknowledges nothing: there is nothing to acknowledge yet.
fn check_reset(opened: &Opened<'_>) -> Result<(), Drop> {
    let tail = opened.tail().map_err(|_| Drop::BadPacket)?;
    if tail.message_id == Some(MessageId::RESET) && tail.acks.is_empty() {
        Ok(())
    } else {
        Err(Drop::BadPacket)
    }
}

fn admit(
    header: Header,
    cookie: Option<SessionId>,
    protection: Protection,
    metadata: Option<Metadata>,
    packet: &[u8],
) -> Admission {
    let packet = packet.to_vec();
    Admission::Admit(Box::new(Admitted { client: header.session_id, cookie, protection, metadata, packet }))
}
