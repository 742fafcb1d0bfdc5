//! The only form in which a token is kept.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq as _;
use tessera_proto::Secret;

use super::record::{TokenError, validate_token};

/// Bytes of the HMAC that are kept: half of it, the least that RFC 2104 section 5 recommends. To be taken for another
/// token, a value must hit one of the kept hashes under a key that nobody outside knows.
const HASH_BYTES: usize = 16;

/// The key of the hashes. It is drawn once and kept with them.
#[derive(Clone)]
pub struct Pepper(hmac::Key);

impl Pepper {
    /// Bytes of a pepper.
    pub const BYTES: usize = 32;

    /// From random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; Self::BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Another key. The label must have a byte that no token has.
    pub(super) fn derive(&self, label: &[u8]) -> [u8; HASH_BYTES] {
        first_half(&hmac::sign(&self.0, label))
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// HMAC-SHA256 of a token, the first half. Compares in constant time.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; HASH_BYTES]);

impl TokenHash {
    /// Bytes of a hash.
    pub const BYTES: usize = HASH_BYTES;

    /// The hash of a token that is to be kept.
    ///
    /// # Errors
    /// When `token` cannot be one.
    pub fn of(pepper: &Pepper, token: &Secret<String>) -> Result<Self, TokenError> {
        validate_token(token)?;
        Ok(Self::of_any(pepper, token))
    }

    /// The hash of whatever a client presents. What cannot be a token is no token's hash.
    pub(super) fn of_any(pepper: &Pepper, presented: &Secret<String>) -> Self {
        Self(first_half(&hmac::sign(&pepper.0, presented.expose().as_bytes())))
    }

    /// As it was kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// To be kept.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// The name that people may know it by.
    #[must_use]
    pub fn id(&self) -> TokenId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        TokenId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        u128::from_ne_bytes(self.0).ct_eq(&u128::from_ne_bytes(other.0)).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

fn first_half(tag: &hmac::Tag) -> [u8; HASH_BYTES] {
    let mut half = [0; HASH_BYTES];
    for (to, from) in half.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    half
}

/// The public name of a token: the first 16 hex digits of its hash. It names the token to an operator and is of no use
/// as a token, nor does it help to find one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub(super) u64);

impl TokenId {
    /// `None` when `text` is not exactly 16 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_hex_digits() {
        let id = TokenHash::from_bytes([0x0f; 16]).id();
        assert_eq!(id.to_string(), "0f0f0f0f0f0f0f0f");
        assert_eq!(TokenId::parse("0f0f0f0f0f0f0f0f"), Some(id));
        assert_eq!(TokenId::parse("0F0F0F0F0F0F0F0F"), Some(id));
        for bad in [
            "",
            "0f0f0f0f0f0f0f0",
            "0f0f0f0f0f0f0f0f0",
            "+f0f0f0f0f0f0f0f",
            "0f0f0f0f 0f0f0f0",
            "é0f0f0f0f0f0f0f",
        ] {
            assert_eq!(TokenId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_the_known_answer() {
        // RFC 4231, test case 2, with the key padded to 32 bytes, which HMAC does not tell apart.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let pepper = Pepper::new(&key);
        let hash = TokenHash::of(&pepper, &Secret::new("what-do-ya-want-for-nothing?".to_owned())).unwrap();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"what-do-ya-want-for-nothing?");
        assert_eq!(hash.as_bytes(), &tag.as_ref()[..16]);
        assert_eq!(format!("{hash:?} {pepper:?}"), "[hash] [redacted]");
    }
}
