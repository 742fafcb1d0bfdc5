//! 256-byte static keys: the material behind tls-auth, tls-crypt and each tls-crypt-v2 client key.
//!
//! ```text
//!  keys[0]: cipher(64) hmac(64) │ keys[1]: cipher(64) hmac(64)
//! ```

use crate::Secret;
use crate::pem;
use core::fmt::Write as _;
use zeroize::Zeroizing;

/// PEM label of a static key file.
const LABEL: &str = "OpenVPN Static key V1";

/// Which half of a bidirectional key a side sends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDirection {
    /// `key-direction 0`, the server's: sends with `keys[0]`, receives with `keys[1]`.
    Normal,
    /// `key-direction 1`, the client's: the other way round.
    Inverse,
    /// No direction: `keys[0]` both ways.
    Bidirectional,
}

impl KeyDirection {
    /// Indices of the sending and of the receiving half.
    const fn halves(self) -> (usize, usize) {
        match self {
            Self::Normal => (0, 1),
            Self::Inverse => (1, 0),
            Self::Bidirectional => (0, 0),
        }
    }

    /// The halves to send and to receive with.
    pub(super) const fn split(self, key: &StaticKey) -> (Half<'_>, Half<'_>) {
        let (send, recv) = self.halves();
        (Half { key, index: send }, Half { key, index: recv })
    }
}

/// A 256-byte key.
#[derive(Clone)]
pub struct StaticKey(Box<Secret<[u8; Self::LEN]>>);

/// One half of a static key.
#[derive(Clone, Copy)]
pub(super) struct Half<'a> {
    key: &'a StaticKey,
    index: usize,
}

impl Half<'_> {
    /// The first `n` (at most 64) bytes of the cipher part.
    pub(super) fn cipher(&self, n: usize) -> &[u8] {
        self.part(0, n)
    }

    /// The first `n` (at most 64) bytes of the hmac part.
    pub(super) fn hmac(&self, n: usize) -> &[u8] {
        self.part(64, n)
    }

    fn part(&self, offset: usize, n: usize) -> &[u8] {
        let start = self.index.saturating_mul(128).saturating_add(offset);
        self.key.bytes().get(start..start.saturating_add(n.min(64))).unwrap_or(&[])
    }
}

/// Why a text is not a static key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StaticKeyError {
    /// The BEGIN or END line is missing.
    #[error("no \"-----BEGIN {LABEL}-----\" block")]
    NoBlock,
    /// Something between the lines is not hexadecimal.
    #[error("the key block holds something that is not hexadecimal")]
    NotHex,
    /// Too few or too many digits.
    #[error("the key is {0} bytes long, not {len}", len = StaticKey::LEN)]
    Length(usize),
}

impl StaticKey {
    /// Length in bytes.
    pub const LEN: usize = 256;

    /// Wraps raw key bytes.
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(Box::new(Secret::new(bytes)))
    }

    /// Reads the PEM-like text that `openvpn --genkey secret` writes. Comments outside the block are skipped.
    pub fn parse(text: &str) -> Result<Self, StaticKeyError> {
        let body = pem::block(text, LABEL).ok_or(StaticKeyError::NoBlock)?;
        let mut bytes = Zeroizing::new([0u8; Self::LEN]);
        let mut digits = 0usize;
        for c in body.chars().filter(|c| !c.is_ascii_whitespace()) {
            let nibble = c.to_digit(16).ok_or(StaticKeyError::NotHex)? as u8;
            if let Some(byte) = bytes.get_mut(digits / 2) {
                *byte = *byte << 4 | nibble;
            }
            digits = digits.saturating_add(1);
        }
        if digits != Self::LEN * 2 {
            return Err(StaticKeyError::Length(digits / 2));
        }
        Ok(Self::new(*bytes))
    }

    /// The text form, as `openvpn --genkey secret` writes it.
    pub fn to_text(&self) -> Secret<String> {
        let mut out = format!("-----BEGIN {LABEL}-----\n");
        for line in self.bytes().chunks(16) {
            for byte in line {
                // Writing to a String cannot fail.
                let _ = write!(out, "{byte:02x}");
            }
            out.push('\n');
        }
        let _ = writeln!(out, "-----END {LABEL}-----");
        Secret::new(out)
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        self.0.expose()
    }

    /// This key combined byte by byte with `other` by exclusive or.
    pub fn xor(&self, other: &Self) -> Self {
        let mut out = Zeroizing::new(*self.bytes());
        for (byte, with) in out.iter_mut().zip(other.bytes()) {
            *byte ^= with;
        }
        Self::new(*out)
    }
}

impl core::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("StaticKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_with_a_comment_in_front() {
        let mut bytes = [0u8; 256];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i as u8;
        }
        let key = StaticKey::new(bytes);
        let text = format!("#\n# 2048 bit OpenVPN static key\n#\n{}", key.to_text().expose());
        assert_eq!(StaticKey::parse(&text).unwrap().bytes(), &bytes);
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(StaticKey::parse(&crlf).unwrap().bytes(), &bytes);
    }

    #[test]
    fn bad_texts_say_why() {
        let text = StaticKey::new([7; 256]).to_text();
        let text = text.expose();
        assert_eq!(StaticKey::parse("").unwrap_err(), StaticKeyError::NoBlock);
        assert_eq!(StaticKey::parse(&text.replace("07", "xx")).unwrap_err(), StaticKeyError::NotHex);
        assert_eq!(StaticKey::parse(&text.replacen("07", "", 1)).unwrap_err(), StaticKeyError::Length(255));
        assert_eq!(StaticKey::parse(&text.replace("-----END", "")).unwrap_err(), StaticKeyError::NoBlock);
    }
}
