//! What a datagram claims to be, by its first bytes and its length: all that can be judged without a key.

use tessera_wire::{Opcode, OpcodeByte, PeerId, control, data};

use crate::Reason;

/// Bytes that name the kind of a datagram, and the peer of a data packet.
pub const HEAD_LEN: usize = data::HEADER_LEN;

/// Every datagram of the protocol is at least as long as the clear header of a control packet. (A data packet is
/// longer.)
pub const MIN_LEN: u32 = control::HEADER_LEN as u32;

/// What a datagram that may be meant for us claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// P_DATA_V2 from this peer, with at least one byte of ciphertext.
    Data(PeerId),
    /// A control packet with a whole session id.
    Control,
}

impl Claim {
    /// The claim of a datagram of `len` bytes that starts with `head`.
    ///
    /// # Errors
    /// Why no client of ours sends such a datagram.
    #[inline]
    pub fn parse(head: &[u8; HEAD_LEN], len: u32) -> Result<Self, Reason> {
        if len < MIN_LEN {
            return Err(Reason::Short);
        }
        match data::peer_id_of(head) {
            Some(_) if len <= data::OVERHEAD as u32 => Err(Reason::Short),
            Some(peer_id) => Ok(Self::Data(peer_id)),
            None => match OpcodeByte::parse(head[0]) {
                None => Err(Reason::UnknownOpcode),
                Some(OpcodeByte { opcode: Opcode::DataV1, .. }) => Err(Reason::DataV1),
                Some(_) => Ok(Self::Control),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_agree_with_the_whole_parsers() {
        let mut datagram = [0u8; 40];
        for first in 0..=u8::MAX {
            for len in 0..datagram.len() {
                datagram[0] = first;
                datagram[1..4].copy_from_slice(&[first, 2, 3]);
                let whole = &datagram[..len];
                let head = *datagram.first_chunk().unwrap();
                let found = Claim::parse(&head, len as u32);
                let expected = data::Header::parse(whole)
                    .map(|h| Claim::Data(h.peer_id))
                    .or_else(|| control::Header::parse(whole).ok().map(|_| Claim::Control));
                assert_eq!(found.ok(), expected, "{first:#x}, {len} bytes");
                if let Err(reason) = found {
                    assert!(reason.is_drop());
                }
            }
        }
    }

    #[test]
    fn the_reason_is_the_first_that_holds() {
        assert_eq!(Claim::parse(&[9 << 3, 0, 0, 1], 25), Ok(Claim::Data(PeerId::new(1).unwrap())));
        assert_eq!(Claim::parse(&[9 << 3, 0, 0, 1], 24), Err(Reason::Short));
        assert_eq!(Claim::parse(&[7 << 3, 0, 0, 1], 8), Err(Reason::Short));
        assert_eq!(Claim::parse(&[0xff, 0, 0, 1], 8), Err(Reason::Short));
        assert_eq!(Claim::parse(&[0xff, 0, 0, 1], 9), Err(Reason::UnknownOpcode));
        assert_eq!(Claim::parse(&[6 << 3, 0, 0, 1], 9), Err(Reason::DataV1));
    }
}
