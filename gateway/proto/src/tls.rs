//! A TLS connection driven by bytes: the reliable stream brings them and takes them away.

use crate::Secret;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Most bytes that a peer may send before its handshake is finished: a certificate chain of 16 KiB and everything
/// around it fits twice; a stranger must not make us buffer more.
const MAX_HANDSHAKE_BYTES: usize = 32 * 1024;
/// Content type, version, length.
const RECORD_HEADER: usize = 5;
/// Most plaintext that waits in either direction inside the TLS library.
const MAX_BUFFERED: usize = 64 * 1024;

/// One TLS connection.
pub(crate) struct Tls {
    conn: Connection,
    received: usize,
    /// The header of a record that has not arrived whole, and what is missing of the record behind it.
    header: Vec<u8>,
    record_left: usize,
    records: Vec<Zeroizing<Vec<u8>>>,
    outgoing: Vec<u8>,
}

/// Why a TLS connection is over.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The TLS library says so; an alert may be waiting to be sent.
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    /// The peer sent more handshake bytes than any honest one needs.
    #[error("TLS handshake larger than {MAX_HANDSHAKE_BYTES} bytes")]
    HandshakeTooLarge,
    /// The peer closed the connection.
    #[error("the peer closed the TLS connection")]
    PeerClosed,
}

impl core::fmt::Debug for Tls {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tls").field("handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

impl Tls {
    /// The server's end.
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::new(ServerConnection::new(config)?.into()))
    }

    /// The client's end.
    pub(crate) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        Ok(Self::new(ClientConnection::new(config, name)?.into()))
    }

    fn new(mut conn: Connection) -> Self {
        conn.set_buffer_limit(Some(MAX_BUFFERED));
        Self {
            conn,
            received: 0,
            header: Vec::new(),
            record_left: 0,
            records: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Takes bytes of the peer in, in order. Records are told apart here, because a message is one record: what is read
    /// from the TLS library is a stream.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        if self.conn.is_handshaking() {
            self.received = self.received.saturating_add(bytes.len());
            if self.received > MAX_HANDSHAKE_BYTES {
                return Err(TlsError::HandshakeTooLarge);
            }
        }
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at_checked(self.next_part(bytes)).unwrap_or((bytes, &[]));
            bytes = rest;
            self.feed_part(part)?;
            if self.record_left == 0 && self.header.is_empty() {
                let plaintext = self.read_plaintext();
                if !plaintext.is_empty() {
                    self.records.push(plaintext);
                }
            }
        }
        Ok(())
    }

    /// How many of `bytes` belong to the record at hand (or to its header), which this follows along.
    fn next_part(&mut self, bytes: &[u8]) -> usize {
        if self.record_left > 0 {
            let len = self.record_left.min(bytes.len());
            self.record_left = self.record_left.saturating_sub(len);
            return len;
        }
        let len = RECORD_HEADER.saturating_sub(self.header.len()).min(bytes.len());
        self.header.extend_from_slice(bytes.get(..len).unwrap_or_default());
        if let &[_, _, _, high, low] = self.header.as_slice() {
            self.record_left = usize::from(u16::from_be_bytes([high, low]));
            self.header.clear();
        }
        len
    }

    fn feed_part(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
        while !bytes.is_empty() {
            // Reading from a slice cannot fail; 0 means that the library's buffer is full and must be processed.
            let taken = self.conn.read_tls(&mut bytes).unwrap_or(0);
            let state = self.conn.process_new_packets()?;
            if taken == 0 {
                let closed = state.peer_has_closed();
                return if closed { Err(TlsError::PeerClosed) } else { Err(TlsError::HandshakeTooLarge) };
            }
        }
        Ok(())
    }

    fn read_plaintext(&mut self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        // `WouldBlock` ends the plaintext at hand; there is no other error on this reader.
        let _ = self.conn.reader().read_to_end(&mut out);
        if !out.is_empty() {
            // It always fails, and changes nothing but bytes that are no longer in use.
            let _ = self.conn.read_tls(&mut Wipe);
        }
        out
    }

    /// What was decrypted since the last call, one entry a record; wiped when dropped.
    pub(crate) fn take_records(&mut self) -> Vec<Zeroizing<Vec<u8>>> {
        core::mem::take(&mut self.records)
    }

    /// Encrypts one message into one record.
    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        // Writing is limited by MAX_BUFFERED only while handshaking, and nothing is sent then.
        let _ = self.conn.writer().write_all(plaintext);
    }

    /// Up to `most` bytes for the peer; `None` when there are none.
    pub(crate) fn take_outgoing(&mut self, most: usize) -> Option<Vec<u8>> {
        while self.conn.wants_write() {
            if self.conn.write_tls(&mut self.outgoing).unwrap_or(0) == 0 {
                break;
            }
        }
        if self.outgoing.is_empty() || most == 0 {
            return None;
        }
        let rest = self.outgoing.split_off(most.min(self.outgoing.len()));
        Some(core::mem::replace(&mut self.outgoing, rest))
    }

    /// True until the handshake is finished.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// The certificates that the peer presented, its own first; empty when it has none.
    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.conn.peer_certificates().map(<[_]>::to_vec).unwrap_or_default()
    }

    /// 256 bytes of keying material under `label` (RFC 5705, no context).
    pub(crate) fn export(&self, label: &[u8]) -> Result<Secret<[u8; 256]>, TlsError> {
        let out = self.conn.export_keying_material([0u8; 256], label, None)?;
        Ok(Secret::new(out))
    }

    /// Version and suite for the log.
    pub(crate) fn summary(&self) -> TlsSummary {
        TlsSummary {
            version: self.conn.protocol_version().and_then(|v| v.as_str()).unwrap_or("?"),
            suite: self.conn.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("?"),
        }
    }
}

/// A reader that brings nothing and wipes the room it is given. The TLS library decrypts records where it has received them, and
/// keeps that buffer as long as the connection: what lies behind the bytes that still wait in it is old plaintext, passwords
/// among it.
struct Wipe;

impl Read for Wipe {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        room.zeroize();
        // "Nothing" would mean that the peer has gone.
        Err(std::io::ErrorKind::WouldBlock.into())
    }
}

/// What a handshake agreed on, by the names of the TLS registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsSummary {
    /// Such as `TLSv1_3`.
    pub version: &'static str,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub suite: &'static str,
}
