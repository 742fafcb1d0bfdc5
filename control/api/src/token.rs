//! Tokens that clients log in with again, without the tokens themselves.

use serde::{Deserialize, Serialize};

use crate::{Fingerprint, Moment, TokenKind};

/// Most tokens in one answer to `token.list`: about 400 KiB.
pub const TOKEN_PAGE: u32 = 1000;

/// `token.list`: a page of the tokens that the gateway knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenList {
    /// Only this user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How many at most: 1 to [`TOKEN_PAGE`].
    #[serde(default = "page")]
    pub limit: u32,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Default for TokenList {
    fn default() -> Self {
        Self { user: None, limit: TOKEN_PAGE, after: None }
    }
}

const fn page() -> u32 {
    TOKEN_PAGE
}

/// `token.revoke`: kills tokens, and ends the sessions that live by them. None to kill is no error, except that an id that is not there
/// is not found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRevoke {
    /// Which.
    pub target: RevokeTarget,
    /// Only those that were made before this, in seconds since 1970; by default all that were made until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// Which tokens are to be killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeTarget {
    /// One, by its public id.
    Id(String),
    /// All of one login: the session id of generated tokens.
    SessionId(String),
    /// All of a user.
    Username(String),
    /// All that are bound to a certificate.
    Certificate(Fingerprint),
    /// All.
    Everything,
}

/// Whether a token works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It does.
    Valid,
    /// Its time is over.
    Expired,
    /// It was killed.
    Revoked,
}

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Names it; tells nothing about its value.
    pub id: String,
    /// Who made it.
    pub kind: TokenKind,
    /// Whether it works.
    pub state: TokenState,
    /// Whom it is bound to; empty where only the certificate counts.
    pub username: String,
    /// Of the client that got it.
    pub common_name: String,
    /// The certificate that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_fingerprint: Option<Fingerprint>,
    /// The same over all renewals of a generated token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// When it was made.
    pub issued: Moment,
    /// The first second at which it does not work any more.
    pub expires: Moment,
}

/// The outcome of `token.rotate_secret`: a new secret makes tokens from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// How many secrets are known now, the new one included. Tokens of each of them work.
    pub secrets: u32,
    /// Where they are kept; nowhere if they live and die with the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}
