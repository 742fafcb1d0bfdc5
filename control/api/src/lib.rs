//! What the gateway tells control tools, as types: their JSON is the documented contract.
//!
//! The admin socket speaks lines of JSON. A client sends one object per line:
//!
//! ```json
//! {"api_version":1,"method":"session.kill","params":{"target":{"common_name":"alice"},"how":"halt"}}
//! ```
//!
//! `api_version` may be left out, and so may `params` where nothing is required. Unknown methods, fields and values are
//! errors. The gateway answers each request, in order, with one or more lines. Long lists come in several; every line but
//! the last has `"more":true`:
//!
//! ```json
//! {"api_version":1,"now":{"time":"2026-08-20T10:00:00Z","unix":1787220000},"changes":{"sessions":1,"tokens":0,"users":0}}
//! {"api_version":1,"now":{"time":"2026-08-20T10:00:01Z","unix":1787220001},"error":{"code":"not_found","message":"…"}}
//! ```
//!
//! New fields may appear in answers at any time; clients pass over what they do not know.

pub mod config;
mod error;
mod fingerprint;
mod moment;
mod reply;
mod request;
mod sensitive;
mod session;
mod status;
mod token;
mod user;

pub use error::{ApiError, ErrorCode};
pub use fingerprint::{BadFingerprint, Fingerprint};
pub use moment::{BadMoment, Moment};
pub use reply::{Changes, ENTRIES_PER_LINE, Reply, ReplyLines, Response};
pub use request::{Empty, MAX_REQUEST, Request};
pub use sensitive::Sensitive;
pub use session::{
    KillHow, KillTarget, Session, SessionFilter, SessionKill, SessionList, SessionShow, SessionState,
    TokenKind, TokenOfSession,
};
pub use status::{HookKindStats, HookStats, PluginState, PluginStats, Status, StoreStats, TokenCacheStats};
pub use token::{RevokeTarget, Rotation, TOKEN_PAGE, Token, TokenList, TokenRevoke, TokenState};
pub use user::{
    Credentials, OtpKind, OtpProvisioning, OtpSetting, User, UserAdd, UserName, UserOtp, UserPassword,
};

/// Version of the contract. It changes when a field goes or changes its meaning; new fields do not change it.
pub const API_VERSION: u32 = 1;
