//! Control packets: everything that is not data.
//!
//! ```text
//!  op/kid(1) session-id(8) │ protection (none, tls-auth or tls-crypt) │ tail
//!  tail = n_ack(1) [ack message-id(4) × n_ack] [remote session-id(8) if n_ack > 0] [message-id(4) unless P_ACK_V1] payload
//! ```
//!
//! The tail is parsed only after the protection was taken off, so it has its own type.

use crate::{MessageId, Opcode, OpcodeByte, Reader, SessionId, Truncated, Writer};

/// Length of `op/kid` and `session-id`, in clear in every control packet.
pub const HEADER_LEN: usize = 1 + SessionId::LEN;

/// The most acknowledgements that a packet may carry.
pub const MAX_ACKS: usize = 8;

/// The part of a control packet in clear under every protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Opcode and key-id.
    pub op: OpcodeByte,
    /// The sender's session id.
    pub session_id: SessionId,
}

/// Why bytes are not a control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The datagram ends inside a field.
    Truncated,
    /// The opcode is unknown, or is a data opcode.
    NotControl,
    /// More than [`MAX_ACKS`] acknowledgements.
    TooManyAcks,
    /// A P_ACK_V1 that acknowledges nothing.
    EmptyAck,
}

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Header {
    /// Splits a datagram into its clear header and what the protection covers.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut r = Reader::new(datagram);
        let op = OpcodeByte::parse(r.u8()?).ok_or(Malformed::NotControl)?;
        if op.opcode.is_data() {
            return Err(Malformed::NotControl);
        }
        let session_id = SessionId(r.array()?);
        Ok((Self { op, session_id }, r.rest()))
    }

    /// The nine bytes on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b, c, d, e, f, g, h] = self.session_id.0;
        [self.op.byte(), a, b, c, d, e, f, g, h]
    }
}

/// Message ids that the peer has received, with the session id they were sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acks {
    ids: [MessageId; MAX_ACKS],
    len: u8,
}

impl Acks {
    /// No acknowledgement.
    pub const NONE: Self = Self { ids: [MessageId(0); MAX_ACKS], len: 0 };

    /// Adds one; false when there is no room for it.
    pub fn push(&mut self, id: MessageId) -> bool {
        let Some(slot) = self.ids.get_mut(usize::from(self.len)) else {
            return false;
        };
        *slot = id;
        self.len = self.len.saturating_add(1);
        true
    }

    /// The acknowledged ids, in the order of the packet.
    pub fn as_slice(&self) -> &[MessageId] {
        self.ids.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// True when nothing is acknowledged.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What the protection covers, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail<'a> {
    /// Acknowledged messages.
    pub acks: Acks,
    /// The session id that the acknowledgements are addressed to; present iff there are any.
    pub remote_session_id: Option<SessionId>,
    /// Place in the reliable stream; absent in P_ACK_V1.
    pub message_id: Option<MessageId>,
    /// TLS bytes, or the early-negotiation TLVs of a hard reset.
    pub payload: &'a [u8],
}

impl<'a> Tail<'a> {
    /// Parses the unprotected bytes behind the header of a packet with `opcode`.
    pub fn parse(opcode: Opcode, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let n = r.u8()?;
        if usize::from(n) > MAX_ACKS {
            return Err(Malformed::TooManyAcks);
        }
        let mut acks = Acks::NONE;
        for _ in 0..n {
            acks.push(MessageId(r.u32()?));
        }
        let remote_session_id = if n > 0 { Some(SessionId(r.array()?)) } else { None };
        let message_id = match opcode {
            Opcode::Ack if n == 0 => return Err(Malformed::EmptyAck),
            Opcode::Ack => None,
            _ => Some(MessageId(r.u32()?)),
        };
        Ok(Self { acks, remote_session_id, message_id, payload: r.rest() })
    }

    /// Writes the tail and says how long it is.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, Truncated> {
        let mut w = Writer::new(out);
        w.u8(self.acks.len)?;
        for id in self.acks.as_slice() {
            w.u32(id.0)?;
        }
        if !self.acks.is_empty() {
            w.bytes(&self.remote_session_id.ok_or(Truncated)?.0)?;
        }
        if let Some(id) = self.message_id {
            w.u32(id.0)?;
        }
        w.bytes(self.payload)?;
        Ok(w.len())
    }

    /// How many bytes [`Tail::write`] needs beside the payload, for `acks` acknowledgements and a message id.
    pub const fn overhead(acks: usize) -> usize {
        let sid = if acks > 0 { SessionId::LEN } else { 0 };
        1usize.saturating_add(acks.saturating_mul(4)).saturating_add(sid).saturating_add(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyId;

    /// A plain P_CONTROL_HARD_RESET_CLIENT_V2 as OpenVPN 2.6 sends it: 14 bytes.
    const RESET: [u8; 14] = [0x38, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0];

    #[test]
    fn parses_a_client_reset() {
        let (header, rest) = Header::parse(&RESET).unwrap();
        assert_eq!(header.op, OpcodeByte { opcode: Opcode::HardResetClientV2, key_id: KeyId::FIRST });
        assert_eq!(header.session_id, SessionId([1, 2, 3, 4, 5, 6, 7, 8]));
        let tail = Tail::parse(header.op.opcode, rest).unwrap();
        assert_eq!(tail.message_id, Some(MessageId::RESET));
        assert!(tail.acks.is_empty() && tail.payload.is_empty());
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..RESET.len() {
            let parsed =
                Header::parse(&RESET[..len]).and_then(|(h, rest)| Tail::parse(h.op.opcode, rest).map(|_| ()));
            assert_eq!(parsed, Err(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn write_and_parse_agree_for_every_ack_count() {
        for n in 0..=MAX_ACKS {
            let mut acks = Acks::NONE;
            for id in 0..n {
                assert!(acks.push(MessageId(id as u32 + 7)));
            }
            let remote = (n > 0).then_some(SessionId([9; 8]));
            let tail =
                Tail { acks, remote_session_id: remote, message_id: Some(MessageId(3)), payload: b"tls" };
            let mut buf = [0u8; 64];
            let len = tail.write(&mut buf).unwrap();
            assert_eq!(len, Tail::overhead(n) + 3);
            assert_eq!(Tail::parse(Opcode::Control, &buf[..len]), Ok(tail));
        }
    }

    #[test]
    fn refuses_nine_acks_empty_acks_and_data() {
        assert_eq!(Tail::parse(Opcode::Control, &[9; 80]), Err(Malformed::TooManyAcks));
        assert_eq!(Tail::parse(Opcode::Ack, &[0, 0, 0, 0, 0]), Err(Malformed::EmptyAck));
        assert_eq!(Header::parse(&[0x48; 20]), Err(Malformed::NotControl));
        assert_eq!(Header::parse(&[0x08; 20]), Err(Malformed::NotControl));
    }
}
