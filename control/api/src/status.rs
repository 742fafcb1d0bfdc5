//! How the gateway is doing.

use serde::{Deserialize, Serialize};

use crate::Moment;

/// The outcome of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the gateway's program.
    pub version: String,
    /// Of its process.
    pub pid: u32,
    /// When it was started.
    pub started: Moment,
    /// Seconds since then.
    pub uptime: u64,
    /// Clients that are up.
    pub clients: u64,
    /// Sessions, those that are still logging in included.
    pub sessions: u64,
    /// The rung of the data path that is live.
    pub rung: String,
    /// Why it is not a higher one.
    #[serde(default)]
    pub rung_reason: String,
    /// Data workers.
    pub workers: u32,
    /// Session shards.
    pub shards: u32,
    /// Programs that the gateway runs.
    pub hooks: HookStats,
    /// The token cache.
    pub tokens: TokenCacheStats,
    /// What keeps tokens over a restart, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStats>,
    /// Plugins, in the order of the configuration.
    pub plugins: Vec<PluginStats>,
}

/// Hooks since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookStats {
    /// Jobs that wait or run now.
    pub in_queue: u64,
    /// Jobs that were turned away because the queue was full.
    pub rejected: u64,
    /// By kind.
    pub kinds: Vec<HookKindStats>,
}

/// Hooks of one kind since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookKindStats {
    /// The directive that names them.
    pub kind: String,
    /// Those that ended, in whatever way.
    pub runs: u64,
    /// Those that did not say yes.
    pub failures: u64,
    /// Those that ran out of time.
    pub timeouts: u64,
    /// Milliseconds that all of them took.
    pub total_ms: u64,
}

/// The token cache: its size now, and what happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenCacheStats {
    /// Tokens in the cache.
    pub entries: u64,
    /// Most that it may hold.
    pub capacity: u64,
    /// New tokens.
    pub inserted: u64,
    /// Pushed again with the same value.
    pub refreshed: u64,
    /// Not taken.
    pub refused: u64,
    /// Forgotten before their time, for a limit.
    pub evicted: u64,
    /// Forgotten after their time.
    pub expired: u64,
    /// Revoked.
    pub revoked: u64,
    /// Checks of tokens that work.
    pub valid: u64,
    /// Checks of what is not known.
    pub unknown: u64,
    /// Checks with the wrong user or certificate.
    pub wrong_client: u64,
    /// Checks of expired tokens.
    pub found_expired: u64,
    /// Checks of revoked tokens.
    pub found_revoked: u64,
}

/// The store on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStats {
    /// Where it is.
    pub path: String,
    /// What was written last is safe.
    pub healthy: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records that live.
    pub records: u64,
    /// Records that wait to be written.
    pub pending: u64,
    /// Records written since the start.
    pub written: u64,
    /// Writes that failed, each of which is tried again.
    pub failed: u64,
    /// Records that were given up because too many waited.
    pub dropped: u64,
    /// Why the last write failed, while that lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where a plugin's process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// It is being started.
    Starting,
    /// It answers.
    Running,
    /// It ended, and is started again after a while.
    Down,
}

/// A plugin since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStats {
    /// Its file.
    pub file: String,
    /// Where its process stands.
    pub state: PluginState,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Calls that ended, in whatever way.
    pub calls: u64,
    /// Those that did not say yes.
    pub failures: u64,
    /// Those that ran out of time.
    pub timeouts: u64,
}
