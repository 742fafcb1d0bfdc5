//! Tokens, and what is remembered about logins beyond one session.
//!
//! - *Pushed* tokens (`push "auth-token VALUE"` from `client-connect` or a ccd file) are in the [`TokenCache`], for
//!   `token-verify cache`: the gateway itself recognises the token when the client comes back with it in place of the
//!   password. It is known only by a keyed hash, is bound to the user name and the certificate that it was given to, and
//!   outlives the session.
//! - *Generated* tokens (`auth-gen-token`) are signed, and nothing is kept about them: [`TokenGenerator`].
//! - What kills tokens of either kind, locks users out, or makes a code used up is kept beside them.
//!
//! The [`Vault`] holds all of it and hands every change to the store; there is no other way in.

mod binding;
mod cache;
mod generated;
mod hash;
mod index;
mod keys;
mod list;
mod locks;
mod otp;
mod record;
mod revocations;
pub mod secrets;
mod slots;
mod vault;

pub use binding::{Binding, MAX_NAME_BYTES, Presented};
pub use cache::{TokenCache, TokenLimits, TokenStats};
pub use generated::{CLOCK_SKEW, Holder, Judgement, MAX_KEYS, SessionTokens, TokenGenerator};
pub use hash::{Pepper, TokenHash, TokenId};
pub use keys::{MAX_SIGNING_KEYS, SigningKey, SigningKeys};
pub use list::{ListedToken, MAX_LISTED, TokenFilter};
pub use locks::{LockChange, LockedUser, MAX_LOCKS, UserLocks};
pub use otp::{MAX_OTP_USERS, OtpCounters};
pub use record::{Lineage, TokenError, TokenInfo, TokenVerdict, UnixSeconds};
pub use revocations::{MAX_PERMANENT, MAX_REVOCATIONS, Revocation, Revocations, RevokeError, Scope, Subject};
pub use vault::Vault;
