//! The data channel of one peer: what seals and opens P_DATA_V2 packets, in place.
//!
//! One owner at a time holds a [`DataChannel`]; nothing in it is shared, and neither sealing nor opening allocates.

mod key;
mod magic;

pub use key::{DataKey, OpenError, SealError};
pub use magic::{InBand, OCC_EXIT, PING};

use crate::time::Instant;
use tessera_wire::data::{Header, OVERHEAD};
use tessera_wire::{KeyId, PeerId};

/// A stub that marks an uncompressed packet for clients that insist on compression framing (`comp-lzo no`).
const UNCOMPRESSED: u8 = 0xfa;

/// Framing between the AEAD and the IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// The plaintext is the IP packet.
    #[default]
    Plain,
    /// One byte in front of it says that it is not compressed.
    Stub,
}

impl Framing {
    /// Bytes in front of the IP packet.
    pub const fn overhead(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Stub => 1,
        }
    }
}

/// A packet that was opened.
#[derive(Debug)]
pub struct Opened<'a> {
    /// An inner packet, or a message between the two ends.
    pub payload: InBand<'a>,
    /// The highest packet id of its key so far: only such a packet may move the peer to a new address.
    pub newest: bool,
    /// The key is not the one we seal with, but a newer one: the peer has switched.
    pub with_pending_key: bool,
}

/// Keys that live at a time: the one that seals, and those around it while one of the sides has not switched.
const MAX_KEYS: usize = 4;

/// Keys of one peer, the newest first.
#[derive(Debug)]
pub struct DataChannel {
    peer_id: PeerId,
    framing: Framing,
    keys: [Option<DataKey>; MAX_KEYS],
    /// Place of the key that seals; those before it are newer and wait for their promotion.
    sealing: usize,
}

impl DataChannel {
    /// A channel without keys.
    pub const fn new(peer_id: PeerId, framing: Framing) -> Self {
        Self { peer_id, framing, keys: [const { None }; MAX_KEYS], sealing: 0 }
    }

    /// Bytes that must stand free in front of an inner packet that is to be sealed.
    pub const fn headroom(&self) -> usize {
        OVERHEAD + self.framing.overhead()
    }

    /// Takes a new key in. The first seals at once; a later one waits for [`DataChannel::promote`].
    pub fn install(&mut self, key: DataKey) {
        let first = self.current().is_none();
        // The last place goes to the oldest key; when that one seals, the one before it makes room.
        let last = MAX_KEYS - 1;
        if self.sealing == last {
            self.keys.swap(last, last - 1);
            self.sealing = last - 1;
        }
        self.keys.rotate_right(1);
        if let Some(newest) = self.keys.first_mut() {
            *newest = Some(key);
        }
        self.sealing = if first { 0 } else { self.sealing + 1 };
    }

    /// Seals with `key_id` from now on, if that is a newer key; older ones only open. True when that changed anything.
    pub fn promote(&mut self, key_id: KeyId) -> bool {
        match self.position(key_id) {
            Some(place) if place < self.sealing => {
                self.sealing = place;
                true
            }
            _ => false,
        }
    }

    /// Forgets `key_id`, unless it is the key that seals.
    pub fn retire(&mut self, key_id: KeyId) {
        if let Some(place) = self.position(key_id)
            && place != self.sealing
            && let Some(slot) = self.keys.get_mut(place)
        {
            *slot = None;
        }
    }

    /// The key that seals.
    pub fn current(&self) -> Option<&DataKey> {
        self.keys.get(self.sealing)?.as_ref()
    }

    fn current_mut(&mut self) -> Option<&mut DataKey> {
        self.keys.get_mut(self.sealing)?.as_mut()
    }

    /// The newest key with that id.
    #[inline]
    fn position(&self, key_id: KeyId) -> Option<usize> {
        self.keys.iter().position(|key| key.as_ref().is_some_and(|key| key.id() == key_id))
    }

    /// Seals `frame` in place: the inner packet stands behind [`DataChannel::headroom`] free bytes.
    pub fn seal(&mut self, frame: &mut [u8]) -> Result<(), SealError> {
        let peer_id = self.peer_id;
        if self.framing == Framing::Stub
            && let Some(stub) = frame.get_mut(OVERHEAD)
        {
            *stub = UNCOMPRESSED;
        }
        self.current_mut().ok_or(SealError::NoKey)?.seal(peer_id, frame)
    }

    /// Opens `datagram` in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8], now: Instant) -> Result<Opened<'a>, OpenError> {
        let header = Header::parse(datagram).ok_or(OpenError::Malformed)?;
        let place = self.position(header.key_id).ok_or(OpenError::UnknownKey)?;
        let with_pending_key = place < self.sealing;
        let key = self.keys.get_mut(place).and_then(Option::as_mut).ok_or(OpenError::UnknownKey)?;
        let (plain, newest) = key.open(&header, datagram, now)?;
        let payload = match self.framing {
            Framing::Plain => plain,
            Framing::Stub => match plain.split_first_mut() {
                Some((&mut UNCOMPRESSED, rest)) => rest,
                _ => return Err(OpenError::Compressed),
            },
        };
        Ok(Opened { payload: InBand::classify(payload), newest, with_pending_key })
    }
}

#[cfg(test)]
mod tests;
