//! `tls-crypt-v2`: each client has its own tls-crypt key (Kc) and carries it to the server, wrapped under a key that
//! only the server has.
//!
//! ```text
//!  WKc = T(32) AES-256-CTR(Ke, iv = T[0..16], Kc(256) metadata) len(2, of the whole WKc)
//!  T   = HMAC-SHA256(Ka, len Kc metadata)
//! ```

use super::tls_crypt::{SivKey, TAG_LEN};
use super::{StaticKey, WrapError};
use crate::{Secret, pem};
use zeroize::Zeroizing;

const SERVER_LABEL: &str = "OpenVPN tls-crypt-v2 server key";
const CLIENT_LABEL: &str = "OpenVPN tls-crypt-v2 client key";

/// Length of the server key file's content.
const SERVER_KEY_LEN: usize = 128;
/// Largest WKc that is accepted, as OpenVPN has it.
const MAX_WKC: usize = 1024;
/// Smallest WKc: tag, key and length.
const MIN_WKC: usize = TAG_LEN + StaticKey::LEN + 2;
/// Most metadata (type byte included) that fits.
pub const MAX_METADATA: usize = MAX_WKC - MIN_WKC;

/// What the admin sealed into a client's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// Nothing.
    None,
    /// Type 0: the admin's own bytes.
    User(Vec<u8>),
    /// Type 1: when the key was made, in seconds since 1970.
    Timestamp(i64),
    /// A type that nobody has defined.
    Unknown(u8, Vec<u8>),
}

impl Metadata {
    /// Number that `tls-crypt-v2-verify` scripts get as `metadata_type`.
    pub const fn type_number(&self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::User(_) => Some(0),
            Self::Timestamp(_) => Some(1),
            Self::Unknown(n, _) => Some(*n),
        }
    }

    /// The bytes behind the type, as `tls-crypt-v2-verify` scripts get them in a file.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::User(bytes) | Self::Unknown(_, bytes) => bytes.clone(),
            Self::Timestamp(t) => t.to_be_bytes().to_vec(),
        }
    }

    fn parse(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            None => Self::None,
            Some((0, rest)) => Self::User(rest.to_vec()),
            Some((1, rest)) => rest
                .try_into()
                .map_or_else(|_| Self::Unknown(1, rest.to_vec()), |t| Self::Timestamp(i64::from_be_bytes(t))),
            Some((n, rest)) => Self::Unknown(*n, rest.to_vec()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out: Vec<u8> = self.type_number().into_iter().collect();
        out.extend_from_slice(&self.bytes());
        out
    }
}

/// A wrapped client key, opened.
#[derive(Debug)]
pub struct ClientKey {
    /// The client's own tls-crypt key.
    pub key: StaticKey,
    /// What was sealed beside it.
    pub metadata: Metadata,
}

/// The key that wraps and unwraps client keys.
pub struct ServerKey {
    siv: SivKey,
    raw: Secret<[u8; SERVER_KEY_LEN]>,
}

impl core::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ServerKey([redacted])")
    }
}

/// Why a text is not a tls-crypt-v2 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum V2KeyError {
    /// There is a client key where the server's belongs.
    #[error("this is a tls-crypt-v2 client key; the server needs its own (tls-crypt-v2-server) key")]
    ClientKeyGiven,
    /// No block of the right kind.
    #[error("no \"-----BEGIN {0}-----\" block of base64")]
    NoBlock(&'static str),
    /// The content has the wrong size.
    #[error("the key is {0} bytes long, which is not right")]
    Length(usize),
    /// The metadata does not fit.
    #[error("the metadata is longer than {MAX_METADATA} bytes")]
    MetadataTooLong,
}

impl ServerKey {
    /// From the raw 128 bytes.
    pub fn new(raw: [u8; SERVER_KEY_LEN]) -> Result<Self, V2KeyError> {
        let length = V2KeyError::Length(SERVER_KEY_LEN);
        let cipher = raw.get(..32).ok_or(length)?;
        let mac = raw.get(64..96).ok_or(length)?;
        Ok(Self { siv: SivKey::new(cipher, mac).ok_or(length)?, raw: Secret::new(raw) })
    }

    /// Reads the file that `openvpn --genkey tls-crypt-v2-server` writes.
    pub fn parse(text: &str) -> Result<Self, V2KeyError> {
        if pem::block(text, CLIENT_LABEL).is_some() {
            return Err(V2KeyError::ClientKeyGiven);
        }
        let bytes = pem::decode(text, SERVER_LABEL).ok_or(V2KeyError::NoBlock(SERVER_LABEL))?;
        let raw = bytes.as_slice().try_into().map_err(|_| V2KeyError::Length(bytes.len()))?;
        Self::new(raw)
    }

    /// The text form, as `openvpn --genkey tls-crypt-v2-server` writes it.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(pem::encode(self.raw.expose(), SERVER_LABEL))
    }

    /// Wraps a client key.
    pub fn wrap(&self, key: &StaticKey, metadata: &Metadata) -> Result<Vec<u8>, V2KeyError> {
        let metadata = metadata.encode();
        if metadata.len() > MAX_METADATA {
            return Err(V2KeyError::MetadataTooLong);
        }
        let len = ((MIN_WKC + metadata.len()) as u16).to_be_bytes();
        let mut text = Zeroizing::new(key.bytes().to_vec());
        text.extend_from_slice(&metadata);
        let tag = self.siv.seal(&[&len], &mut text);
        let mut wkc = tag.to_vec();
        wkc.extend_from_slice(&text);
        wkc.extend_from_slice(&len);
        Ok(wkc)
    }

    /// Splits a datagram that carries a WKc into the packet in front of it and the opened key.
    pub fn split<'a>(&self, datagram: &'a [u8]) -> Result<(&'a [u8], ClientKey), WrapError> {
        let (packet, wkc) = split_wkc(datagram)?;
        Ok((packet, self.unwrap(wkc)?))
    }

    fn unwrap(&self, wkc: &[u8]) -> Result<ClientKey, WrapError> {
        let (tag, rest) = wkc.split_first_chunk::<TAG_LEN>().ok_or(WrapError::BadWkc)?;
        let (text, len) = rest.split_last_chunk::<2>().ok_or(WrapError::BadWkc)?;
        let mut text = Zeroizing::new(text.to_vec());
        self.siv.open(&[len], tag, &mut text)?;
        let (key, metadata) = text.split_first_chunk::<{ StaticKey::LEN }>().ok_or(WrapError::BadWkc)?;
        Ok(ClientKey { key: StaticKey::new(*key), metadata: Metadata::parse(metadata) })
    }
}

/// Splits a datagram into the packet and the WKc behind it by the length in its last two bytes. Nothing is authenticated.
pub fn split_wkc(datagram: &[u8]) -> Result<(&[u8], &[u8]), WrapError> {
    let (_, len) = datagram.split_last_chunk::<2>().ok_or(WrapError::BadWkc)?;
    let len = usize::from(u16::from_be_bytes(*len));
    if !(MIN_WKC..=MAX_WKC).contains(&len) {
        return Err(WrapError::BadWkc);
    }
    let at = datagram.len().checked_sub(len).ok_or(WrapError::BadWkc)?;
    datagram.split_at_checked(at).ok_or(WrapError::BadWkc)
}

/// What a client's key file holds.
#[derive(Debug)]
pub struct ClientKeyFile {
    /// The client's own tls-crypt key.
    pub key: StaticKey,
    /// The same key, wrapped for the server.
    pub wkc: Vec<u8>,
}

impl ClientKeyFile {
    /// Reads the file that `openvpn --genkey tls-crypt-v2-client` writes.
    pub fn parse(text: &str) -> Result<Self, V2KeyError> {
        let bytes = pem::decode(text, CLIENT_LABEL).ok_or(V2KeyError::NoBlock(CLIENT_LABEL))?;
        let (key, wkc) =
            bytes.split_first_chunk::<{ StaticKey::LEN }>().ok_or(V2KeyError::Length(bytes.len()))?;
        if !(MIN_WKC..=MAX_WKC).contains(&wkc.len()) {
            return Err(V2KeyError::Length(bytes.len()));
        }
        Ok(Self { key: StaticKey::new(*key), wkc: wkc.to_vec() })
    }

    /// The text form, as `openvpn --genkey tls-crypt-v2-client` writes it.
    pub fn to_text(&self) -> Secret<String> {
        let mut bytes = Zeroizing::new(self.key.bytes().to_vec());
        bytes.extend_from_slice(&self.wkc);
        Secret::new(pem::encode(&bytes, CLIENT_LABEL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerKey {
        let mut raw = [0; SERVER_KEY_LEN];
        for (i, byte) in raw.iter_mut().enumerate() {
            *byte = i as u8;
        }
        ServerKey::new(raw).unwrap()
    }

    #[test]
    fn wraps_and_unwraps_every_kind_of_metadata() {
        let server = server();
        let key = StaticKey::new([0x5a; 256]);
        let all = [
            Metadata::None,
            Metadata::User(b"alice".to_vec()),
            Metadata::User(vec![7; MAX_METADATA - 1]),
            Metadata::Timestamp(1_700_000_000),
            Metadata::Unknown(9, vec![1]),
        ];
        for metadata in all {
            let wkc = server.wrap(&key, &metadata).unwrap();
            let mut datagram = b"packet".to_vec();
            datagram.extend_from_slice(&wkc);
            let (packet, opened) = server.split(&datagram).unwrap();
            assert_eq!(packet, b"packet");
            assert_eq!(opened.key.bytes(), key.bytes());
            assert_eq!(opened.metadata, metadata);
        }
        assert_eq!(
            server.wrap(&key, &Metadata::User(vec![0; MAX_METADATA])),
            Err(V2KeyError::MetadataTooLong)
        );
    }

    #[test]
    fn every_wrong_length_and_every_flipped_byte_is_refused() {
        let server = server();
        let wkc = server.wrap(&StaticKey::new([1; 256]), &Metadata::Timestamp(5)).unwrap();
        for len in
            [0u16, 1, 2, 33, 34, 289, 290, 1025, 0x7fff, 0xffff, wkc.len() as u16 - 1, wkc.len() as u16 + 1]
        {
            let mut datagram = vec![0x50; 14];
            datagram.extend_from_slice(&wkc);
            let at = datagram.len() - 2;
            datagram[at..].copy_from_slice(&len.to_be_bytes());
            assert!(server.split(&datagram).is_err(), "length {len}");
        }
        for at in 0..wkc.len() {
            let mut bad = wkc.clone();
            bad[at] ^= 1;
            assert!(server.split(&bad).is_err(), "byte {at}");
        }
        for len in 0..wkc.len() {
            assert!(server.split(&wkc[wkc.len() - len..]).is_err());
        }
    }

    #[test]
    fn key_files_round_trip_and_are_told_apart() {
        let server = server();
        let text = server.to_text();
        let again = ServerKey::parse(text.expose()).unwrap();
        assert_eq!(again.raw.expose(), server.raw.expose());
        let key = StaticKey::new([3; 256]);
        let file = ClientKeyFile { wkc: server.wrap(&key, &Metadata::None).unwrap(), key };
        let text = file.to_text();
        let parsed = ClientKeyFile::parse(text.expose()).unwrap();
        assert_eq!(parsed.wkc, file.wkc);
        assert_eq!(ServerKey::parse(text.expose()).unwrap_err(), V2KeyError::ClientKeyGiven);
        assert_eq!(ServerKey::parse("x").unwrap_err(), V2KeyError::NoBlock(SERVER_LABEL));
    }
}
