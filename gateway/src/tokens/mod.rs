//! Tokens that a client-connect hook or a client's config file pushed (`push "auth-token VALUE"`), for `token-verify
//! cache`: the gateway itself recognises the token when the client comes back with it in place of the password.
//!
//! A token is known here only by HMAC-SHA256 of its value under a pepper that is drawn when the process starts; the
//! value itself is nowhere. It is bound to the username and the certificate that it was given to, and it outlives the
//! session: the client reconnects with it.
//!
//! The cache is in memory. After a restart every token is [`Verdict::Unknown`](TokenVerdict::Unknown), and clients
//! fall back to their password; where that must not happen, `token-verify hook` keeps the decision with the hook.

mod cache;
mod generated;
mod index;
mod record;
pub mod secrets;

pub use cache::{TokenCache, TokenLimits, TokenStats};
pub use generated::{CLOCK_SKEW, Holder, Judgement, MAX_KEYS, SessionTokens, TokenGenerator};
pub use record::{Binding, Lineage, TokenError, TokenInfo, TokenVerdict, UnixSeconds};
