//! What is known of a token, and the answers about it.

use std::sync::Arc;
use std::time::Duration;

use tessera_proto::Secret;

use super::binding::{Binding, MAX_NAME_BYTES};

/// Longest token: stock clients keep it in 128 bytes with a terminating NUL.
pub(super) const MAX_TOKEN_BYTES: usize = 127;

/// Seconds since 1970, as read from the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// Whole seconds later; a part of a second counts as one, and the end of time is not passed.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        let part = if duration.subsec_nanos() > 0 { 1 } else { 0 };
        Self(self.0.saturating_add(duration.as_secs()).saturating_add(part))
    }
}

/// Names a login and every session that came from it by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage(pub u64);

/// A token's data, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Whom it is for. All tokens of a client share it, and with it the common name of the latest of them.
    pub binding: Arc<Binding>,
    /// The login that it came from.
    pub lineage: Lineage,
    /// When the value was first pushed.
    pub issued: UnixSeconds,
    /// The first second at which it is no longer valid.
    pub expires: UnixSeconds,
}

/// What a client may know of its own token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidToken {
    /// The login that it came from.
    pub lineage: Lineage,
    /// When the value was first pushed.
    pub issued: UnixSeconds,
    /// The first second at which it is no longer valid.
    pub expires: UnixSeconds,
}

/// The answer about a token that a client presents. Only [`Self::Valid`] lets it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It is this client's.
    Valid(ValidToken),
    /// Never pushed, forgotten, or not a token at all (a password, for example).
    Unknown,
    /// It is another user's.
    WrongUser,
    /// It is this user's under another certificate.
    WrongCertificate,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// Why a token was not taken. Each means that the client would hold a token that does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The value is empty or longer than a client can store.
    #[error("an auth-token has 1 to {MAX_TOKEN_BYTES} bytes, not {0}")]
    Length(usize),
    /// The value has a byte that does not survive the way to the client and back: one that is not printable ASCII, a
    /// space, a comma, a quote or a backslash; or it starts with a comment sign.
    #[error("an auth-token cannot have the byte 0x{byte:02x} at offset {at}")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its place.
        at: usize,
    },
    /// The username or the common name is longer than any client's can be.
    #[error("the username or the common name is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// Neither a username nor a certificate: anybody could use it.
    #[error("an auth-token needs a username or a certificate to be bound to")]
    Unbound,
    /// The same value is bound to another user or certificate.
    #[error("the same auth-token value belongs to another client")]
    BoundToAnother,
    /// The same value was revoked and would not have expired yet.
    #[error("the same auth-token value was revoked")]
    Revoked,
    /// It would expire as soon as it is pushed.
    #[error("the lifetime of an auth-token cannot be 0")]
    NoLifetime,
}

/// Whether `token` reaches a client as it is and comes back as it is.
pub(super) fn validate_token(token: &Secret<String>) -> Result<(), TokenError> {
    let bytes = token.expose().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Length(bytes.len()));
    }
    let breaks = |at: usize, byte: u8| match byte {
        b',' | b'"' | b'\'' | b'\\' => true,
        b'#' | b';' => at == 0,
        byte => !byte.is_ascii_graphic(),
    };
    match bytes.iter().enumerate().find(|(at, byte)| breaks(*at, **byte)) {
        // One byte of a value that is refused tells nothing about a token in use.
        Some((at, byte)) => Err(TokenError::Byte { byte: *byte, at }),
        None => Ok(()),
    }
}
