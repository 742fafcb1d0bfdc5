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

/// Keys of one peer. At most two live at a time, and the newest may wait for its promotion.
#[derive(Debug)]
pub struct DataChannel {
    peer_id: PeerId,
    framing: Framing,
    /// The key that seals.
    current: Option<DataKey>,
    /// The key before it, while late packets may arrive.
    lame: Option<DataKey>,
    /// The key after it, until the peer is known to have it.
    pending: Option<DataKey>,
}

impl DataChannel {
    /// A channel without keys.
    pub const fn new(peer_id: PeerId, framing: Framing) -> Self {
        Self {
            peer_id,
            framing,
            current: None,
            lame: None,
            pending: None,
        }
    }

    /// Bytes that must stand free in front of an inner packet that is to be sealed.
    pub const fn headroom(&self) -> usize {
        OVERHEAD + self.framing.overhead()
    }

    /// Takes a new key in. The first seals at once; a later one waits for [`DataChannel::promote`].
    pub fn install(&mut self, key: DataKey) {
        if self.current.is_none() {
            self.current = Some(key);
        } else {
            if let Some(unused) = self.pending.take() {
                // Two renegotiations in a row: the older of the two was proven by neither side. Keep opening with it.
                self.lame = Some(unused);
            }
            self.pending = Some(key);
        }
    }

    /// Seals with `key_id` from now on; the key before it only opens. True when that changed anything.
    pub fn promote(&mut self, key_id: KeyId) -> bool {
        if self.pending.as_ref().is_none_or(|key| key.id() != key_id) {
            return false;
        }
        self.lame = self.current.take();
        self.current = self.pending.take();
        true
    }

    /// Forgets `key_id`, unless it is the key that seals.
    pub fn retire(&mut self, key_id: KeyId) {
        for slot in [&mut self.lame, &mut self.pending] {
            if slot.as_ref().is_some_and(|key| key.id() == key_id) {
                *slot = None;
            }
        }
    }

    /// The key that seals.
    pub const fn current(&self) -> Option<&DataKey> {
        self.current.as_ref()
    }

    /// Seals `frame` in place: the inner packet stands behind [`DataChannel::headroom`] free bytes.
    pub fn seal(&mut self, frame: &mut [u8]) -> Result<(), SealError> {
        let key = self.current.as_mut().ok_or(SealError::NoKey)?;
        if self.framing == Framing::Stub
            && let Some(stub) = frame.get_mut(OVERHEAD)
        {
            *stub = UNCOMPRESSED;
        }
        key.seal(self.peer_id, frame)
    }

    /// Opens `datagram` in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8], now: Instant) -> Result<Opened<'a>, OpenError> {
        let header = Header::parse(datagram).ok_or(OpenError::Malformed)?;
        let pending = self.pending.as_mut().filter(|key| key.id() == header.key_id);
        let with_pending_key = pending.is_some();
        let key = pending
            .or_else(|| self.current.as_mut().filter(|key| key.id() == header.key_id))
            .or_else(|| self.lame.as_mut().filter(|key| key.id() == header.key_id))
            .ok_or(OpenError::UnknownKey)?;
        let (plain, newest) = key.open(&header, datagram, now)?;
        let payload = match self.framing {
            Framing::Plain => plain,
            Framing::Stub => match plain.split_first_mut() {
                Some((&mut UNCOMPRESSED, rest)) => rest,
                _ => return Err(OpenError::Compressed),
            },
        };
        Ok(Opened {
            payload: InBand::classify(payload),
            newest,
            with_pending_key,
        })
    }
}

#[cfg(test)]
mod tests;
