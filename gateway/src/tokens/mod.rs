//! What the gateway knows of tokens and logins: a [`Vault`] has it all and keeps it in the store, if there is one.
//!
//! **Pushed tokens** ([`TokenCache`]) come from a client-connect hook or a client's config file (`push "auth-token VALUE"`),
//! for `token-verify cache`: the gateway itself recognises the token when the client comes back with it in place of the
//! password. A token is known here only by HMAC-SHA256 of its value under a pepper that is drawn once; the value itself is
//! nowhere. It is bound to the username and the certificate that it was given to, and it outlives the session: the client
//! reconnects with it. Without a store every token is [`TokenVerdict::Unknown`] after a restart, and clients fall back to
//! their password.
//!
//! **Generated tokens** ([`TokenGenerator`]) are signed, and nothing is kept about them.
//!
//! **Revocations** ([`Revocations`]) and **locks** ([`UserLocks`]) also hold for tokens that are kept nowhere. **One-time
//! passwords** ([`OtpCounters`]) are used once. **Keys** ([`SigningKeys`]) sign generated tokens.
//!
//! **What it takes.** A million tokens took 295 bytes of resident memory each when each was another client's (certificate,
//! and a user name of 23 bytes that is the common name as well), and 146 bytes each with four to a client; the accounted
//! estimate, which the limit is about, was 304 and 150. A check goes to two cache lines of that memory, so what it costs is
//! mostly the way to them. On a shared virtual machine with two cores (AMD EPYC) and a million clients a core did 1.05 to
//! 1.3 million checks a second with huge pages, with one thread or two, and 0.75 to 1.0 million without. Commands:
//!
//! ```text
//! cargo bench -p tesserad --bench token_cache
//! GLIBC_TUNABLES=glibc.malloc.hugetlb=1 cargo bench -p tesserad --bench token_cache    # huge pages
//! ```

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
mod slab;
mod slots;
mod table;
mod vault;

pub use binding::{Binding, MAX_NAME_BYTES, Presented};
pub use cache::{TokenCache, TokenLimits, TokenStats};
pub use generated::{CLOCK_SKEW, Holder, Judgement, MAX_KEYS, SessionTokens, TokenGenerator};
pub use hash::{Pepper, TokenHash, TokenId};
pub use keys::{MAX_SIGNING_KEYS, SigningKey, SigningKeys};
pub use list::{ListedToken, MAX_LISTED, TokenFilter};
pub use locks::{LockChange, LockedUser, MAX_LOCKS, UserLocks};
pub use otp::{MAX_OTP_USERS, OtpCounters};
pub use record::{Lineage, TokenError, TokenInfo, TokenVerdict, UnixSeconds, ValidToken};
pub use revocations::{MAX_PERMANENT, MAX_REVOCATIONS, Revocation, Revocations, RevokeError, Scope, Subject};
pub use vault::Vault;
