//! The numbers that name things on the wire.

/// Eight random bytes that each side chooses per TLS session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; Self::LEN]);

impl SessionId {
    /// Length in bytes.
    pub const LEN: usize = 8;
}

impl core::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl core::fmt::Display for SessionId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// Three bits that name the key (and the TLS negotiation) a packet belongs to. 0 is only ever the first key of a
/// session; renegotiations run 1..=7 and then from 1 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u8);

impl KeyId {
    /// The first key of a session.
    pub const FIRST: Self = Self(0);
    /// How many key-ids there are.
    pub const COUNT: usize = 8;

    /// The low three bits of `byte`.
    #[inline]
    pub const fn from_low_bits(byte: u8) -> Self {
        Self(byte & 0x07)
    }

    /// 0..=7.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The key-id of the next renegotiation.
    #[inline]
    pub const fn next(self) -> Self {
        if self.0 >= 7 { Self(1) } else { Self(self.0.wrapping_add(1)) }
    }
}

impl core::fmt::Display for KeyId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// 24 bits that the server chooses and pushes; they name the peer in each P_DATA_V2 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// What a client sends before it was given a peer-id.
    pub const UNDEFINED: Self = Self(0x00ff_ffff);

    /// `None` when `id` does not fit 24 bits or is the undefined value.
    #[inline]
    pub const fn new(id: u32) -> Option<Self> {
        if id < Self::UNDEFINED.0 { Some(Self(id)) } else { None }
    }

    /// The three bytes as they stand in a packet.
    #[inline]
    pub const fn from_be_bytes([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three bytes as they stand in a packet.
    #[inline]
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl core::fmt::Display for PeerId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Place of a control message in the reliable stream of one key; starts at 0 and has no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u32);

impl MessageId {
    /// The reset that opens a negotiation.
    pub const RESET: Self = Self(0);

    /// The id after this one, or `None` after the last.
    #[inline]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }
}

/// Number of a data packet under one key and direction, or of a wrapped control packet; 0 is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_run_from_one_again_after_seven() {
        let mut id = KeyId::FIRST;
        let mut seen = [0u8; 9];
        for slot in &mut seen {
            *slot = id.get();
            id = id.next();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 1]);
    }

    #[test]
    fn peer_id_is_24_bits_and_never_undefined() {
        assert_eq!(PeerId::new(0x00ff_ffff), None);
        assert_eq!(PeerId::new(0x0100_0000), None);
        let id = PeerId::new(0x0001_0203).unwrap();
        assert_eq!(id.to_be_bytes(), [1, 2, 3]);
        assert_eq!(PeerId::from_be_bytes([1, 2, 3]), id);
    }
}
