//! SHA-256 of a certificate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Written as `tls_digest_sha256_0` is for hooks: lower-case, with colons. Read with or without colons, in either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not the SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFingerprint;

impl fmt::Display for BadFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a SHA-256 fingerprint: expected 64 hexadecimal digits, with or without colons")
    }
}

impl std::error::Error for BadFingerprint {}

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let colons = text.len() - digits.len();
        let placed = colons == 0
            || (colons == 31 && text.bytes().enumerate().all(|(at, byte)| (at % 3 == 2) == (byte == b':')));
        let mut value = [0; 32];
        if digits.len() != 2 * value.len() || !placed {
            return Err(BadFingerprint);
        }
        for (byte, pair) in value.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble =
                |digit: u8| char::from(digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(BadFingerprint);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(value))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tools_print() {
        let value = Fingerprint(std::array::from_fn(|at| at as u8 * 7));
        let text = value.to_string();
        assert_eq!(text.len(), 95);
        let bare = text.replace(':', "");
        for form in [text.clone(), text.to_uppercase(), bare.clone(), bare.to_uppercase()] {
            assert_eq!(form.parse(), Ok(value), "{form}");
        }
        for bad in ["", "ab", &bare[1..], &text[1..], &format!("{bare}0"), &bare.replace('0', "g")] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(BadFingerprint), "{bad}");
        }
    }
}
