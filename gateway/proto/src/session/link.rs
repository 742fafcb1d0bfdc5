//! What all negotiations of a session share: the two session ids and the protection of their packets.

use crate::reliable::MAX_PIGGYBACK;
use crate::time::{Instant, UnixTime};
use crate::wrap::{Datagram, StaticKey, WrapError, WrapKey, Wrapper};
use std::sync::Arc;
use tessera_wire::control::{Acks, Header, Tail};
use tessera_wire::{KeyId, MessageId, Opcode, OpcodeByte, SessionId};

/// How control packets of one session are protected.
#[derive(Debug, Clone)]
pub struct Protection {
    /// Keys of the first negotiation (and of all, without dynamic tls-crypt).
    pub key: Arc<WrapKey>,
    /// The static key behind them, which the key for renegotiations is mixed with.
    pub source: Option<StaticKey>,
}

/// An authenticated packet that is no replay.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) op: OpcodeByte,
    pub(super) from: SessionId,
    pub(super) acks: Acks,
    pub(super) message_id: Option<MessageId>,
    pub(super) payload: Vec<u8>,
}

/// Session ids and wrapping of one session.
#[derive(Debug)]
pub(super) struct Link {
    local: SessionId,
    remote: Option<SessionId>,
    wrap: Wrapper,
    /// Wraps key-ids above 0 once dynamic tls-crypt was agreed on.
    renegotiation: Option<Wrapper>,
    source: Option<StaticKey>,
    /// A tls-crypt-v2 client's wrapped key: behind its reset, and behind its first TLS message if the server asks.
    wkc: Option<Vec<u8>>,
    resend_wkc: bool,
    max_packet: usize,
}

impl Link {
    pub(super) fn new(
        local: SessionId,
        remote: Option<SessionId>,
        wrap: Wrapper,
        source: Option<StaticKey>,
        max_packet: usize,
    ) -> Self {
        Self { local, remote, wrap, renegotiation: None, source, wkc: None, resend_wkc: false, max_packet }
    }

    pub(super) const fn local(&self) -> SessionId {
        self.local
    }

    pub(super) const fn remote(&self) -> Option<SessionId> {
        self.remote
    }

    /// Learns the peer's session id; it never changes after.
    pub(super) fn learn_remote(&mut self, remote: SessionId) {
        self.remote.get_or_insert(remote);
    }

    /// The static key that dynamic tls-crypt is mixed with.
    pub(super) const fn source(&self) -> Option<&StaticKey> {
        self.source.as_ref()
    }

    /// True once renegotiations have their own wrapping.
    pub(super) const fn has_renegotiation_wrap(&self) -> bool {
        self.renegotiation.is_some()
    }

    /// Wraps packets of key-ids above 0 under `key` from now on.
    pub(super) fn wrap_renegotiations(&mut self, key: Arc<WrapKey>, wall: UnixTime) {
        self.renegotiation = Some(Wrapper::new(key, 1, wall));
    }

    /// Carries the wrapped client key behind the reset.
    pub(super) fn carry_wkc(&mut self, wkc: Vec<u8>) {
        self.wkc = Some(wkc);
    }

    /// Carries it behind the first TLS message, too: the server kept no state of the reset.
    pub(super) const fn resend_wkc(&mut self) {
        self.resend_wkc = true;
    }

    fn wrapper(&mut self, key_id: KeyId) -> &mut Wrapper {
        match &mut self.renegotiation {
            Some(wrapper) if key_id != KeyId::FIRST => wrapper,
            _ => &mut self.wrap,
        }
    }

    /// Verifies a packet of this session. Replays, strangers' session ids and acknowledgements that are not addressed
    /// to us are refused.
    pub(super) fn open(&mut self, datagram: Datagram<'_>, now: Instant) -> Result<Packet, WrapError> {
        let (header, _) = Header::parse(datagram.0)?;
        let (local, remote) = (self.local, self.remote);
        let wrapper = self.wrapper(header.op.key_id);
        let key = Arc::clone(wrapper.key());
        let opened = key.open(datagram)?;
        if remote.is_some_and(|remote| remote != header.session_id) {
            return Err(WrapError::WrongSession);
        }
        let tail = opened.tail()?;
        if tail.remote_session_id.is_some_and(|to| to != local) {
            return Err(WrapError::WrongSession);
        }
        wrapper.accept(&opened, now)?;
        let (op, from) = (header.op, header.session_id);
        Ok(Packet { op, from, acks: tail.acks, message_id: tail.message_id, payload: tail.payload.to_vec() })
    }

    /// Builds a packet. `None` only when packet ids are used up.
    pub(super) fn seal(&mut self, opcode: Opcode, key_id: KeyId, tail: &Tail<'_>) -> Option<Vec<u8>> {
        let header = Header { op: OpcodeByte { opcode, key_id }, session_id: self.local };
        let mut packet = self.wrapper(key_id).seal(&header, tail)?;
        if opcode.carries_wkc() {
            packet.extend_from_slice(self.wkc.as_deref()?);
        }
        Some(packet)
    }

    /// Where acknowledgements are addressed to, if there are any.
    pub(super) fn ack_address(&self, acks: &Acks) -> Option<SessionId> {
        self.remote.filter(|_| !acks.is_empty())
    }

    /// The opcode of message `id`, and how many TLS bytes fit its packet.
    pub(super) fn opcode_and_room(&mut self, key_id: KeyId, id: Option<MessageId>) -> (Opcode, usize) {
        let max = self.max_packet;
        let first_message = key_id == KeyId::FIRST && id == Some(MessageId(1));
        let wkc = self.wkc.as_ref().filter(|_| self.resend_wkc && first_message).map(Vec::len);
        let room = self.wrapper(key_id).payload_room(max, MAX_PIGGYBACK);
        match wkc {
            Some(len) => (Opcode::ControlWkc, room.saturating_sub(len)),
            None => (Opcode::Control, room),
        }
    }
}
