//! What is known of a token, and the answers about it.

use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tessera_proto::Secret;
use zeroize::Zeroizing;

/// Longest token: stock clients keep it in 128 bytes with a terminating NUL.
const MAX_TOKEN_BYTES: usize = 127;

/// Longest username or common name. Either is at most 127 bytes when it comes from a client; the rest is for names
/// that a hook sets.
const MAX_NAME_BYTES: usize = 255;

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

/// Whom a token is for. Names are compared byte by byte, before any mapping of characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// As the client sends it with the token. Empty where certificates alone tell users apart.
    pub username: String,
    /// SHA-256 of the client's certificate; `None` for a client without one.
    pub certificate: Option<[u8; 32]>,
    /// For lists and logs; it is not compared, as it follows from the certificate or the username.
    pub common_name: String,
}

impl Binding {
    /// What a token that is bound to `self` says about a client that is `presented`.
    pub(super) fn mismatch(&self, presented: &Self) -> Option<TokenVerdict> {
        if !bool::from(self.username.as_bytes().ct_eq(presented.username.as_bytes())) {
            return Some(TokenVerdict::WrongUser);
        }
        let same = match (&self.certificate, &presented.certificate) {
            (Some(bound), Some(shown)) => bound.ct_eq(shown).into(),
            (None, None) => true,
            _ => false,
        };
        (!same).then_some(TokenVerdict::WrongCertificate)
    }

    pub(super) const fn validate(&self) -> Result<(), TokenError> {
        if self.username.len() > MAX_NAME_BYTES || self.common_name.len() > MAX_NAME_BYTES {
            return Err(TokenError::NameTooLong);
        }
        if self.username.is_empty() && self.certificate.is_none() {
            return Err(TokenError::Unbound);
        }
        Ok(())
    }
}

/// A token's data, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Whom it is for.
    pub binding: Binding,
    /// The login that it came from.
    pub lineage: Lineage,
    /// When the value was first pushed.
    pub issued: UnixSeconds,
    /// The first second at which it is no longer valid.
    pub expires: UnixSeconds,
}

/// The answer about a token that a client presents. Only [`Self::Valid`] lets it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It is this client's.
    Valid(TokenInfo),
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

/// HMAC-SHA256 of a token: the only form in which a token is kept. Compares in constant time.
#[derive(Clone, Copy, PartialOrd, Ord)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    /// `None` when `token` cannot be one.
    pub(super) fn of(pepper: &ring::hmac::Key, token: &Secret<String>) -> Result<Self, TokenError> {
        validate_token(token)?;
        let tag = ring::hmac::sign(pepper, token.expose().as_bytes());
        let mut hash = Zeroizing::new([0; 32]);
        hash.copy_from_slice(tag.as_ref());
        Ok(Self(*hash))
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl std::hash::Hash for TokenHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hash]")
    }
}
