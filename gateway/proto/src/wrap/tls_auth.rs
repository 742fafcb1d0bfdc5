//! `tls-auth`: an HMAC over each control packet.
//!
//! ```text
//!  wire:  op(1) sid(8) HMAC(n) pid(4) time(4) tail
//!  MAC covers:         pid(4) time(4) op(1) sid(8) tail
//! ```

use super::{Opened, PacketStamp, StaticKey, WrapError, static_key::KeyDirection};
use crate::Digest;
use ring::hmac;
use tessera_wire::control::{HEADER_LEN, Header};

/// The MAC keys of both directions.
pub struct TlsAuthKey {
    digest: Digest,
    send: hmac::Key,
    recv: hmac::Key,
}

impl core::fmt::Debug for TlsAuthKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TlsAuthKey([redacted])")
    }
}

impl TlsAuthKey {
    /// The hmac halves of `key` that a side with `direction` uses.
    pub fn new(key: &StaticKey, direction: KeyDirection, digest: Digest) -> Self {
        let algorithm = algorithm(digest);
        let (send, recv) = direction.split(key);
        Self {
            digest,
            send: hmac::Key::new(algorithm, send.hmac(digest.mac_len())),
            recv: hmac::Key::new(algorithm, recv.hmac(digest.mac_len())),
        }
    }

    /// Bytes added to a packet.
    pub const fn overhead(&self) -> usize {
        self.digest.mac_len() + PacketStamp::LEN
    }

    pub(super) fn seal(&self, header: &[u8; HEADER_LEN], stamp: PacketStamp, tail: &[u8], out: &mut Vec<u8>) {
        let stamp = stamp.to_bytes();
        let mac = sign(&self.send, &stamp, header, tail);
        out.extend_from_slice(header);
        out.extend_from_slice(mac.as_ref());
        out.extend_from_slice(&stamp);
        out.extend_from_slice(tail);
    }

    pub(super) fn open<'a>(&self, header: Header, rest: &'a [u8]) -> Result<Opened<'a>, WrapError> {
        let (mac, rest) = rest.split_at_checked(self.digest.mac_len()).ok_or(WrapError::TooShort)?;
        let (stamp, tail) = rest.split_first_chunk::<{ PacketStamp::LEN }>().ok_or(WrapError::TooShort)?;
        let mut signed = hmac::Context::with_key(&self.recv);
        signed.update(stamp);
        signed.update(&header.to_bytes());
        signed.update(tail);
        // ring compares in constant time only through `verify`, which wants one message; compare the tags ourselves.
        use subtle::ConstantTimeEq as _;
        if bool::from(signed.sign().as_ref().ct_eq(mac)) {
            Ok(Opened { header, stamp: Some(PacketStamp::from_bytes(*stamp)), tail: tail.into() })
        } else {
            Err(WrapError::BadMac)
        }
    }
}

fn sign(key: &hmac::Key, stamp: &[u8], header: &[u8], tail: &[u8]) -> hmac::Tag {
    let mut ctx = hmac::Context::with_key(key);
    ctx.update(stamp);
    ctx.update(header);
    ctx.update(tail);
    ctx.sign()
}

const fn algorithm(digest: Digest) -> hmac::Algorithm {
    match digest {
        Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::Sha256 => hmac::HMAC_SHA256,
        Digest::Sha384 => hmac::HMAC_SHA384,
        Digest::Sha512 => hmac::HMAC_SHA512,
    }
}
