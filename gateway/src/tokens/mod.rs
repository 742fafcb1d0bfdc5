//! Tokens that a client-connect hook or a client's config file pushed (`push "auth-token VALUE"`), for `token-verify
//! cache`: the gateway itself recognises the token when the client comes back with it in place of the password.
//!
//! A token is known here only by HMAC-SHA256 of its value under a pepper that is drawn when the process starts; the
//! value itself is nowhere. It is bound to the username and the certificate that it was given to, and it outlives the
//! session: the client reconnects with it.
//!
//! The cache is in memory. After a restart every token is [`Verdict::Unknown`](TokenVerdict::Unknown), and clients
//! fall back to their password; where that must not happen, `token-verify hook` keeps the decision with the hook.

mod binding;
mod cache;
mod hash;
mod index;
mod keys;
mod list;
mod locks;
mod otp;
mod record;
mod revocations;
mod slots;
mod vault;

pub use binding::{Binding, MAX_NAME_BYTES, Presented};
pub use cache::{TokenCache, TokenLimits, TokenStats};
pub use hash::{Pepper, TokenHash, TokenId};
pub use keys::{MAX_SIGNING_KEYS, SigningKey, SigningKeys};
pub use list::{ListedToken, MAX_LISTED, TokenFilter};
pub use locks::{LockChange, LockedUser, MAX_LOCKS, UserLocks};
pub use otp::{MAX_OTP_USERS, OtpCounters};
pub use record::{Lineage, TokenError, TokenInfo, TokenVerdict, UnixSeconds};
pub use revocations::{MAX_PERMANENT, MAX_REVOCATIONS, Revocation, Revocations, RevokeError, Scope, Subject};
pub use vault::Vault;
