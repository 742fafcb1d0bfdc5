//! One data key: both directions, their counters and limits.
//!
//! ```text
//!  nonce(12) = packet-id(4) implicit-iv(8)      associated data = header(4) packet-id(4)
//! ```

use crate::keys::{DirectionKey, KeyMaterial, Role};
use crate::replay::{Replay, Window};
use crate::suite::Cipher;
use crate::time::Instant;
use core::time::Duration;
use ring::aead::{self, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use tessera_wire::data::{AD_LEN, Header, OVERHEAD, TAG_LEN};
use tessera_wire::{KeyId, PacketId, PeerId};

/// From this packet id on a renegotiation is due, so that ids never wrap.
const NEAR_WRAP: u32 = 0xff00_0000;
/// AES-GCM: blocks sealed plus packets sealed under one key stay below 2^36.
const GCM_LIMIT: u64 = (1 << 36) - 1;
/// A renegotiation is due at 7/8 of it.
const GCM_NEAR_LIMIT: u64 = GCM_LIMIT / 8 * 7;
/// Forgeries that one key stands.
const FORGERY_LIMIT: u64 = 1 << 36;
/// Bytes of an AES block.
const BLOCK: u64 = 16;

/// Why a packet was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// Packet ids or the cipher's usage limit are used up: only a renegotiation helps.
    Exhausted,
    /// The frame has no room for the header.
    Frame,
    /// No key is installed.
    NoKey,
}

/// Why a packet was not opened. Peer noise: counted, never an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The tag is wrong.
    BadTag,
    /// The framing says compressed; nothing here decompresses.
    Compressed,
    /// More forgeries than the cipher stands: the key is dead.
    ForgeryLimit,
    /// Not a P_DATA_V2 packet.
    Malformed,
    /// Seen before, or too old.
    Replay(Replay),
    /// No key with that key-id is installed.
    UnknownKey,
}

/// Sealing and opening keys of one negotiation.
pub struct DataKey {
    id: KeyId,
    gcm: bool,
    seal: LessSafeKey,
    seal_iv: [u8; 8],
    next_id: u32,
    sealed_units: u64,
    sealed_bytes: u64,
    open: LessSafeKey,
    open_iv: [u8; 8],
    window: Window,
    forgeries: u64,
    opened_bytes: u64,
}

impl core::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DataKey")
            .field("id", &self.id)
            .field("next_id", &self.next_id)
            .finish_non_exhaustive()
    }
}

impl DataKey {
    /// Splits `material` for `role`. `None` only when a key has the wrong length for its cipher.
    pub fn new(
        id: KeyId,
        material: &KeyMaterial,
        role: Role,
        cipher: Cipher,
        window: (u32, Duration),
    ) -> Option<Self> {
        let seal = material.sealing(role, cipher)?;
        let open = material.opening(role, cipher)?;
        Some(Self {
            id,
            gcm: cipher != Cipher::ChaCha20Poly1305,
            seal: aead_key(cipher, &seal)?,
            seal_iv: seal.implicit_iv,
            next_id: 1,
            sealed_units: 0,
            sealed_bytes: 0,
            open: aead_key(cipher, &open)?,
            open_iv: open.implicit_iv,
            window: Window::new(window.0, window.1),
            forgeries: 0,
            opened_bytes: 0,
        })
    }

    /// The key-id that its packets carry.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Packets sealed so far.
    pub const fn sealed_packets(&self) -> u32 {
        self.next_id.saturating_sub(1)
    }

    /// Plaintext bytes sealed and opened so far.
    pub const fn bytes(&self) -> u64 {
        self.sealed_bytes.saturating_add(self.opened_bytes)
    }

    /// True when packet ids of either direction or the cipher's limit are nearly used up.
    pub const fn is_worn(&self) -> bool {
        self.next_id >= NEAR_WRAP
            || self.window.highest() >= NEAR_WRAP
            || (self.gcm && self.sealed_units >= GCM_NEAR_LIMIT)
    }

    /// Continues at `next_id`: for tests of what happens near the wrap.
    #[doc(hidden)]
    pub const fn skip_to(&mut self, next_id: u32) {
        self.next_id = next_id;
    }

    /// Seals in place: header, packet-id and tag go into the first 24 bytes, the rest is encrypted.
    #[inline]
    pub(super) fn seal(&mut self, peer_id: PeerId, frame: &mut [u8]) -> Result<(), SealError> {
        // The last id is never used: a counter that could wrap would repeat a nonce.
        if self.next_id == u32::MAX || (self.gcm && self.sealed_units >= GCM_LIMIT) {
            return Err(SealError::Exhausted);
        }
        let (front, plain) = frame.split_first_chunk_mut::<OVERHEAD>().ok_or(SealError::Frame)?;
        let header = Header { key_id: self.id, peer_id, packet_id: PacketId(self.next_id) };
        let ad = header.to_bytes();
        let nonce = nonce(self.next_id, &self.seal_iv);
        let tag = self
            .seal
            .seal_in_place_separate_tag(nonce, Aad::from(ad), plain)
            .map_err(|_| SealError::Frame)?;
        self.next_id = self.next_id.saturating_add(1);
        self.sealed_units =
            self.sealed_units.saturating_add((plain.len() as u64).div_ceil(BLOCK)).saturating_add(1);
        self.sealed_bytes = self.sealed_bytes.saturating_add(plain.len() as u64);
        let (front_ad, front_tag) = front.split_at_mut(AD_LEN);
        front_ad.copy_from_slice(&ad);
        front_tag.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens in place; also says whether the packet is the newest of this key.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<(&'a mut [u8], bool), OpenError> {
        if self.forgeries >= FORGERY_LIMIT {
            return Err(OpenError::ForgeryLimit);
        }
        let id = header.packet_id.0;
        self.window.check(id, now).map_err(OpenError::Replay)?;
        let (front, text) = datagram.split_first_chunk_mut::<OVERHEAD>().ok_or(OpenError::Malformed)?;
        let (ad, tag) = front.split_first_chunk::<AD_LEN>().ok_or(OpenError::Malformed)?;
        let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| OpenError::Malformed)?;
        let plain = self
            .open
            .open_in_place_separate_tag(nonce(id, &self.open_iv), Aad::from(*ad), Tag::from(tag), text, 0..)
            .map_err(|_| {
                self.forgeries = self.forgeries.saturating_add(1);
                OpenError::BadTag
            })?;
        let newest = self.window.commit(id, now).map_err(OpenError::Replay)?;
        self.opened_bytes = self.opened_bytes.saturating_add(plain.len() as u64);
        Ok((plain, newest))
    }
}

fn aead_key(cipher: Cipher, key: &DirectionKey) -> Option<LessSafeKey> {
    let algorithm = match cipher {
        Cipher::Aes128Gcm => &aead::AES_128_GCM,
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    UnboundKey::new(algorithm, key.cipher_key.expose()).ok().map(LessSafeKey::new)
}

#[inline]
fn nonce(packet_id: u32, iv: &[u8; 8]) -> Nonce {
    let [a, b, c, d] = packet_id.to_be_bytes();
    let [e, f, g, h, i, j, k, l] = *iv;
    Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
}
