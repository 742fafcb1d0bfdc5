//! `tls-crypt`: each control packet encrypted and authenticated (SIV construction).
//!
//! ```text
//!  wire:  op(1) sid(8) pid(4) time(4) tag(32) ciphertext
//!  tag = HMAC-SHA256(Ka, op sid pid time plaintext)      ciphertext = AES-256-CTR(Ke, iv = tag[0..16], plaintext)
//! ```

use super::{Opened, PacketStamp, StaticKey, WrapError, static_key::KeyDirection};
use crate::Secret;
use aes::Aes256;
use ctr::cipher::{KeyIvInit, StreamCipher};
use ring::hmac;
use subtle::ConstantTimeEq as _;
use tessera_wire::control::{HEADER_LEN, Header};

/// Length of the tag.
pub(super) const TAG_LEN: usize = 32;

type Aes256Ctr = ctr::Ctr128BE<Aes256>;

/// AES-256-CTR with an HMAC-SHA256 tag as the IV; also wraps tls-crypt-v2 client keys.
pub(super) struct SivKey {
    encrypt: Secret<[u8; 32]>,
    mac: hmac::Key,
}

impl SivKey {
    /// From the cipher and the hmac key; `None` when either is not 32 bytes.
    pub(super) fn new(cipher: &[u8], mac: &[u8]) -> Option<Self> {
        (mac.len() == 32).then_some(())?;
        Some(Self {
            encrypt: Secret::new(cipher.try_into().ok()?),
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
        })
    }

    /// Encrypts `plain` in place and returns the tag over `ad` and the plaintext.
    pub(super) fn seal(&self, ad: &[&[u8]], plain: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.tag(ad, plain);
        self.apply_keystream(&tag, plain);
        tag
    }

    /// Decrypts `text` in place; on a wrong tag the buffer holds garbage and must not be used.
    pub(super) fn open(&self, ad: &[&[u8]], tag: &[u8; TAG_LEN], text: &mut [u8]) -> Result<(), WrapError> {
        self.apply_keystream(tag, text);
        if bool::from(self.tag(ad, text).ct_eq(tag)) { Ok(()) } else { Err(WrapError::BadMac) }
    }

    fn tag(&self, ad: &[&[u8]], plain: &[u8]) -> [u8; TAG_LEN] {
        let mut ctx = hmac::Context::with_key(&self.mac);
        for part in ad {
            ctx.update(part);
        }
        ctx.update(plain);
        let mut out = [0; TAG_LEN];
        for (to, from) in out.iter_mut().zip(ctx.sign().as_ref()) {
            *to = *from;
        }
        out
    }

    fn apply_keystream(&self, tag: &[u8; TAG_LEN], text: &mut [u8]) {
        let mut iv = [0; 16];
        for (to, from) in iv.iter_mut().zip(tag) {
            *to = *from;
        }
        Aes256Ctr::new(self.encrypt.expose().into(), &iv.into()).apply_keystream(text);
    }
}

/// The keys of both directions.
pub struct TlsCryptKey {
    send: SivKey,
    recv: SivKey,
}

impl core::fmt::Debug for TlsCryptKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TlsCryptKey([redacted])")
    }
}

impl TlsCryptKey {
    /// Bytes added to a packet.
    pub const OVERHEAD: usize = PacketStamp::LEN + TAG_LEN;

    /// The halves of `key` that a side with `direction` uses; a server is [`KeyDirection::Normal`].
    pub fn new(key: &StaticKey, direction: KeyDirection) -> Option<Self> {
        let (send, recv) = direction.split(key);
        Some(Self {
            send: SivKey::new(send.cipher(32), send.hmac(32))?,
            recv: SivKey::new(recv.cipher(32), recv.hmac(32))?,
        })
    }

    pub(super) fn seal(&self, header: &[u8; HEADER_LEN], stamp: PacketStamp, tail: &[u8], out: &mut Vec<u8>) {
        let stamp = stamp.to_bytes();
        let mut text = tail.to_vec();
        let tag = self.send.seal(&[header, &stamp], &mut text);
        out.extend_from_slice(header);
        out.extend_from_slice(&stamp);
        out.extend_from_slice(&tag);
        out.extend_from_slice(&text);
    }

    pub(super) fn open(&self, header: Header, rest: &[u8]) -> Result<Opened<'static>, WrapError> {
        let (stamp, rest) = rest.split_first_chunk::<{ PacketStamp::LEN }>().ok_or(WrapError::TooShort)?;
        let (tag, text) = rest.split_first_chunk::<TAG_LEN>().ok_or(WrapError::TooShort)?;
        let mut text = text.to_vec();
        self.recv.open(&[&header.to_bytes(), stamp], tag, &mut text)?;
        Ok(Opened { header, stamp: Some(PacketStamp::from_bytes(*stamp)), tail: text.into() })
    }
}
