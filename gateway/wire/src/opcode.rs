//! The first byte of every datagram.

use crate::KeyId;

/// The kinds of packet that a peer of this decade sends. Opcodes 1 and 2 (key method 1) and everything above 11
/// are not OpenVPN packets that anybody may send us; they stay unparsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Either side starts a renegotiation under a new key-id.
    SoftReset = 3,
    /// TLS records.
    Control = 4,
    /// Acknowledgements without a message.
    Ack = 5,
    /// Data without a peer-id (one header byte); spoken only by clients older than 2.4.
    DataV1 = 6,
    /// A client starts a session.
    HardResetClientV2 = 7,
    /// The server's answer to a hard reset.
    HardResetServerV2 = 8,
    /// Data with a peer-id.
    DataV2 = 9,
    /// Like `HardResetClientV2`, with a wrapped client key (WKc) behind it.
    HardResetClientV3 = 10,
    /// Like `Control`, with a WKc behind it; answers the server's request to resend it.
    ControlWkc = 11,
}

impl Opcode {
    /// The opcode with this number.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            3 => Self::SoftReset,
            4 => Self::Control,
            5 => Self::Ack,
            6 => Self::DataV1,
            7 => Self::HardResetClientV2,
            8 => Self::HardResetServerV2,
            9 => Self::DataV2,
            10 => Self::HardResetClientV3,
            11 => Self::ControlWkc,
            _ => return None,
        })
    }

    /// The number in the high five bits.
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// True for the two data opcodes.
    #[inline]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::DataV1 | Self::DataV2)
    }

    /// True when a wrapped client key stands behind the packet, in clear.
    #[inline]
    pub const fn carries_wkc(self) -> bool {
        matches!(self, Self::HardResetClientV3 | Self::ControlWkc)
    }
}

/// The first byte, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpcodeByte {
    /// What kind of packet this is.
    pub opcode: Opcode,
    /// Which key it belongs to.
    pub key_id: KeyId,
}

impl OpcodeByte {
    /// `None` for an opcode that is not spoken here.
    #[inline]
    pub const fn parse(byte: u8) -> Option<Self> {
        match Opcode::from_number(byte >> 3) {
            Some(opcode) => Some(Self { opcode, key_id: KeyId::from_low_bits(byte) }),
            None => None,
        }
    }

    /// The byte on the wire.
    #[inline]
    pub const fn byte(self) -> u8 {
        self.opcode.number() << 3 | self.key_id.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_parses_to_itself_or_to_nothing() {
        let mut known = 0;
        for byte in 0..=255u8 {
            match OpcodeByte::parse(byte) {
                Some(parsed) => {
                    assert_eq!(parsed.byte(), byte);
                    known += 1;
                }
                None => assert!(!(3..=11).contains(&(byte >> 3))),
            }
        }
        assert_eq!(known, 9 * KeyId::COUNT);
    }
}
