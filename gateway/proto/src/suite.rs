//! The ciphers and digests that are spoken, by the names they have in configs and on the wire.

use core::fmt;

/// Data-channel AEAD ciphers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// CHACHA20-POLY1305.
    ChaCha20Poly1305,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The cipher with this name, in any case; `None` for one that is not spoken.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name().eq_ignore_ascii_case(name))
    }

    /// The name in configs, in `IV_CIPHERS` and in the pushed `cipher` option.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        }
    }

    /// Length of the key in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// HMAC digests for `tls-auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Digest {
    /// SHA-1: OpenVPN's default for `auth`.
    #[default]
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The digest with this name, in any case, with or without a dash (`SHA256`, `SHA2-256`, `sha-1`).
    pub fn from_name(name: &str) -> Option<Self> {
        let plain: String = name.chars().filter(|c| *c != '-').collect::<String>().to_ascii_uppercase();
        Some(match plain.as_str() {
            "SHA1" => Self::Sha1,
            "SHA256" | "SHA2256" => Self::Sha256,
            "SHA384" | "SHA2384" => Self::Sha384,
            "SHA512" | "SHA2512" => Self::Sha512,
            _ => return None,
        })
    }

    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Length of the MAC (and of the key that is used) in bytes.
    pub const fn mac_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_name(&cipher.name().to_lowercase()), Some(cipher));
        }
        for digest in Digest::ALL {
            assert_eq!(Digest::from_name(digest.name()), Some(digest));
        }
        assert_eq!(Digest::from_name("sha2-512"), Some(Digest::Sha512));
        assert_eq!(Cipher::from_name("AES-256-CBC"), None);
    }
}
