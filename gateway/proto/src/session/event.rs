//! What a server session tells its owner, and what the owner answers.

use crate::Secret;
use crate::data::{DataKey, Framing};
use crate::message::AuthFailure;
use crate::peer_info::PeerInfo;
use crate::suite::Cipher;
use crate::tls::{TlsError, TlsSummary};
use crate::wrap::Metadata;
use rustls::pki_types::CertificateDer;
use std::net::{Ipv4Addr, Ipv6Addr};
use tessera_wire::{KeyId, PeerId};

/// Names one login or re-login of one session; a verdict for another attempt is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub(super) u64);

/// A peer that finished its TLS handshake and says who it is.
#[derive(Debug)]
pub struct AuthRequest {
    /// To be given back with the verdict.
    pub attempt: Attempt,
    /// The negotiation it belongs to.
    pub key_id: KeyId,
    /// Not the first login of this session.
    pub renegotiation: bool,
    /// Empty when there is none.
    pub username: String,
    /// Password or token; empty when there is none.
    pub password: Secret<String>,
    /// What the client says about itself.
    pub peer_info: PeerInfo,
    /// The certificates that it presented, verified by the TLS configuration.
    pub certificates: Vec<CertificateDer<'static>>,
    /// TLS version and suite.
    pub tls: TlsSummary,
}

/// The owner's answer to an [`AuthRequest`].
#[derive(Debug)]
pub enum Verdict {
    /// Let it in.
    Accept,
    /// Refuse it.
    Refuse(AuthFailure),
}

/// Proof that a session's first login was accepted: the only way to configure it and to get keys. It cannot be made
/// or copied elsewhere, and is used up.
#[derive(Debug)]
pub struct Authenticated {
    pub(super) attempt: Attempt,
}

/// What the owner gives an authenticated session.
#[derive(Debug, Default)]
pub struct PushConfig {
    /// Options in order, the admin's and the client's own.
    pub options: Vec<String>,
    /// VPN address and netmask.
    pub ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// VPN address, prefix length, and the server's address.
    pub ifconfig_ipv6: Option<(Ipv6Addr, u8, Ipv6Addr)>,
    /// Number of the peer in data packets.
    pub peer_id: Option<PeerId>,
    /// Replaces the client's password from now on.
    pub auth_token: Option<Secret<String>>,
    /// Replaces the client's user name from now on (in clear; pushed as base64).
    pub auth_token_user: Option<String>,
    /// Ciphers for this client, when not those of everybody.
    pub ciphers: Option<Vec<Cipher>>,
}

/// How data keys are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derivation {
    /// TLS exporter.
    Exporter,
    /// TLS 1.0 PRF.
    Prf,
}

/// What was agreed with an established client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Of the data channel.
    pub cipher: Cipher,
    /// Of its keys.
    pub derivation: Derivation,
    /// Of its plaintext.
    pub framing: Framing,
    /// Renegotiations have their own control-channel key.
    pub dynamic_tls_crypt: bool,
}

/// How to end a session.
#[derive(Debug, Clone)]
pub enum Close {
    /// The login is refused.
    AuthFailed(AuthFailure),
    /// The client may come back, and keeps its token.
    Restart(String),
    /// The client must not come back by itself.
    Halt(String),
    /// Nothing is said.
    Silent(&'static str),
}

/// Why a session ended.
#[derive(Debug)]
pub enum CloseReason {
    /// The login was refused.
    AuthFailed(AuthFailure),
    /// `hand-window` passed.
    HandshakeTimeout,
    /// The login was not decided in time.
    LoginTimeout,
    /// The owner ordered it.
    Ordered(String),
    /// The client said goodbye.
    PeerExit,
    /// The client broke the protocol.
    PeerMisbehaved(&'static str),
    /// TLS failed.
    Tls(TlsError),
}

impl core::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::AuthFailed(failure) => failure.fmt(f),
            Self::HandshakeTimeout => f.write_str("TLS key negotiation did not finish in time"),
            Self::LoginTimeout => f.write_str("login was not decided in time"),
            Self::Ordered(text) => f.write_str(text),
            Self::PeerExit => f.write_str("client exited"),
            Self::PeerMisbehaved(text) => f.write_str(text),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}

/// Something that the owner of a server session must act on.
#[derive(Debug)]
pub enum Event {
    /// A tls-crypt-v2 client key was opened; [`super::ServerSession::client_key_verdict`] lets the session go on.
    ClientKey(Metadata),
    /// Decide by [`super::ServerSession::auth_verdict`].
    AuthRequest(Box<AuthRequest>),
    /// Give this key to the data channel.
    InstallKey(Box<DataKey>),
    /// Seal with this key from now on.
    PromoteKey(KeyId),
    /// Forget this key.
    RetireKey(KeyId),
    /// The answer to a question that [`super::ServerSession::login_pending`] has asked, in base64.
    CrResponse(Secret<String>),
    /// The client said something that nobody here knows.
    UnknownMessage(String),
    /// The session is over: stop its data at once.
    Closed(CloseReason),
}
