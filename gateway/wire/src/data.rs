//! Data packets with an AEAD cipher.
//!
//! ```text
//!  P_DATA_V2:  op/kid(1) peer-id(3) │ packet-id(4) │ tag(16) │ ciphertext
//!              └─────── associated data ─────────┘
//! ```
//!
//! The tag stands before the ciphertext, so that a frame is sealed and opened in place without moving a byte.

use crate::{KeyId, Opcode, OpcodeByte, PacketId, PeerId, Reader, Truncated};

/// Length of `op/kid` and `peer-id`.
pub const HEADER_LEN: usize = 4;
/// Length of the associated data: header and packet-id.
pub const AD_LEN: usize = HEADER_LEN + 4;
/// Length of the AEAD tag.
pub const TAG_LEN: usize = 16;
/// Bytes in front of the ciphertext.
pub const OVERHEAD: usize = AD_LEN + TAG_LEN;

/// The clear part of a P_DATA_V2 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which key sealed the packet.
    pub key_id: KeyId,
    /// Whose packet this claims to be.
    pub peer_id: PeerId,
    /// Its number under that key.
    pub packet_id: PacketId,
}

impl Header {
    /// `None` when this is not a P_DATA_V2 packet with at least one byte of ciphertext.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() <= OVERHEAD {
            return None;
        }
        let mut r = Reader::new(datagram);
        let parsed = Self::read(&mut r).ok()??;
        Some(parsed)
    }

    fn read(r: &mut Reader<'_>) -> Result<Option<Self>, Truncated> {
        let Some(OpcodeByte { opcode: Opcode::DataV2, key_id }) = OpcodeByte::parse(r.u8()?) else {
            return Ok(None);
        };
        Ok(Some(Self { key_id, peer_id: PeerId::from_be_bytes(r.array()?), packet_id: PacketId(r.u32()?) }))
    }

    /// The eight bytes that start the packet and are its associated data.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; AD_LEN] {
        let op = OpcodeByte { opcode: Opcode::DataV2, key_id: self.key_id }.byte();
        let [a, b, c] = self.peer_id.to_be_bytes();
        let [d, e, f, g] = self.packet_id.0.to_be_bytes();
        [op, a, b, c, d, e, f, g]
    }
}

/// The peer-id that a datagram claims, if it is a P_DATA_V2 packet; needs only the first four bytes.
#[inline]
pub fn peer_id_of(datagram: &[u8]) -> Option<PeerId> {
    let mut r = Reader::new(datagram);
    match OpcodeByte::parse(r.u8().ok()?) {
        Some(OpcodeByte { opcode: Opcode::DataV2, .. }) => r.array().ok().map(PeerId::from_be_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trip() {
        let header = Header {
            key_id: KeyId::from_low_bits(5),
            peer_id: PeerId::new(0x0a_0b0c).unwrap(),
            packet_id: PacketId(77),
        };
        let mut packet = [0u8; OVERHEAD + 1];
        packet[..AD_LEN].copy_from_slice(&header.to_bytes());
        assert_eq!(Header::parse(&packet), Some(header));
        assert_eq!(peer_id_of(&packet[..4]), Some(header.peer_id));
        assert_eq!(Header::parse(&packet[..OVERHEAD]), None, "no ciphertext");
        packet[0] = 0x20;
        assert_eq!(Header::parse(&packet), None, "control opcode");
        assert_eq!(peer_id_of(&packet), None);
    }
}
