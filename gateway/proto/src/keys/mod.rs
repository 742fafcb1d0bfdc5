//! From a finished TLS handshake to data keys: key method 2, then the TLS exporter or the TLS 1.0 PRF.

pub mod method2;
mod prf;

use crate::Secret;
use crate::suite::Cipher;
use tessera_wire::SessionId;
use zeroize::Zeroizing;

pub use method2::{ClientMessage, KeySource, Method2Error, ServerMessage};

/// Exporter label of data keys.
pub const EXPORT_DATA_KEYS: &[u8] = b"EXPORTER-OpenVPN-datakeys";
/// Exporter label of the key that wraps control packets of renegotiations.
pub const EXPORT_DYNAMIC_TLS_CRYPT: &[u8] = b"EXPORTER-OpenVPN-dynamic-tls-crypt";

/// Bytes of the implicit IV, the tail of every nonce.
pub const IMPLICIT_IV_LEN: usize = 8;

/// Both directions' keys, as both derivations deliver them.
///
/// ```text
///  client → server: cipher(64) hmac(64) │ server → client: cipher(64) hmac(64)
/// ```
#[derive(Debug)]
pub struct KeyMaterial(Secret<[u8; Self::LEN]>);

/// What one side needs to seal or open one direction.
#[derive(Debug)]
pub struct DirectionKey {
    /// As many bytes as the cipher wants.
    pub cipher_key: Secret<Vec<u8>>,
    /// Last eight bytes of every nonce.
    pub implicit_iv: [u8; IMPLICIT_IV_LEN],
}

/// Which end of the session we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Accepts sessions.
    Server,
    /// Opens them.
    Client,
}

impl KeyMaterial {
    /// Length in bytes.
    pub const LEN: usize = 256;

    /// From the TLS exporter.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(Secret::new(bytes))
    }

    /// From the random numbers of both key-method-2 messages, for peers without the exporter.
    pub fn from_prf(
        client: &KeySource,
        server: &KeySource,
        client_sid: SessionId,
        server_sid: SessionId,
    ) -> Option<Self> {
        let pre_master = client.pre_master.as_ref()?;
        let mut master = Zeroizing::new([0u8; 48]);
        let seed = [client.random1.expose().as_slice(), server.random1.expose()];
        prf::tls1_prf(pre_master.expose(), b"OpenVPN master secret", &seed, master.as_mut_slice());
        let mut out = Zeroizing::new([0u8; Self::LEN]);
        let seed =
            [client.random2.expose().as_slice(), server.random2.expose(), &client_sid.0, &server_sid.0];
        prf::tls1_prf(master.as_slice(), b"OpenVPN key expansion", &seed, out.as_mut_slice());
        Some(Self::new(*out))
    }

    /// The key that `role` seals with.
    pub fn sealing(&self, role: Role, cipher: Cipher) -> Option<DirectionKey> {
        self.direction(if role == Role::Client { 0 } else { 1 }, cipher)
    }

    /// The key that `role` opens with.
    pub fn opening(&self, role: Role, cipher: Cipher) -> Option<DirectionKey> {
        self.direction(if role == Role::Client { 1 } else { 0 }, cipher)
    }

    fn direction(&self, index: usize, cipher: Cipher) -> Option<DirectionKey> {
        let half = self.0.expose().chunks_exact(128).nth(index)?;
        let (cipher_part, hmac_part) = half.split_at_checked(64)?;
        Some(DirectionKey {
            cipher_key: Secret::new(cipher_part.get(..cipher.key_len())?.to_vec()),
            implicit_iv: *hmac_part.first_chunk()?,
        })
    }
}
