//! A session shard: one thread, one runtime, and the sessions whose ids hash to it.
//!
//! ```text
//!  control sockets ─▶ Endpoint ─▶ events ─▶ logins (a task each) ─▶ hooks, directory, workers
//!        ▲                │                       │
//!        └── transmits ◀──┘◀───── commands ───────┘
//! ```
//!
//! Everything of a shard is on its thread: tasks borrow its state for a moment and never across an await.

mod backends;
mod client;
mod farewell;
mod login;
mod renewal;
mod run;
mod sessions;
mod state;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tessera_api::Session;
use tessera_proto::endpoint::{CookieKey, Handle, Protections, ReplyRate};
use tessera_proto::session::SessionParams;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::data::{DataHandle, FromWorker};
use crate::directory::Directory;
use crate::hooks::{Env, Hook};
use crate::net::io::IoBackend;
use crate::pki::ServerTls;
use crate::tokens::{TokenGenerator, Vault};

pub use backends::Backends;
pub use run::run;
pub use sessions::{Ending, Target};

/// Messages of workers that wait for a shard.
pub const WORKER_QUEUE: usize = 4096;
/// Commands of other shards and of the main thread that wait for a shard.
pub const COMMAND_QUEUE: usize = 1024;

/// What other threads ask of a shard.
#[derive(Debug)]
pub enum Command {
    /// End a session: the same name logged in again elsewhere, or its address was taken over.
    Replace {
        /// Which.
        handle: Handle,
        /// Why, for the log.
        why: &'static str,
    },
    /// List the sessions whose clients have logged in.
    Sessions(oneshot::Sender<Vec<Session>>),
    /// End sessions, and say how many.
    End {
        /// Which.
        target: Target,
        /// How.
        ending: Ending,
        /// Their number.
        done: oneshot::Sender<u64>,
    },
    /// Send every client away so that it comes back with its token, and answer when the last has heard it.
    Stop {
        /// What clients are told.
        reason: String,
        /// Closed when done.
        done: oneshot::Sender<()>,
    },
}

/// Everything that a shard is started with.
pub struct ShardSetup {
    /// Its number.
    pub index: usize,
    /// How its sockets are driven.
    pub backend: IoBackend,
    /// Its socket for each listener.
    pub sockets: Vec<UdpSocket>,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// Numbers of sessions.
    pub params: Arc<SessionParams>,
    /// Control-channel protection.
    pub protections: Protections,
    /// The process's cookie key.
    pub cookies: CookieKey,
    /// Answers to unproven addresses.
    pub reply_rate: ReplyRate,
    /// Certificates; each shard has its own view of the revocation list.
    pub tls: ServerTls,
    /// What all shards share.
    pub directory: Arc<Directory>,
    /// Tokens, revocations, used codes.
    pub vault: Arc<Vault>,
    /// Makes tokens (`auth-gen-token`).
    pub generator: Option<Arc<TokenGenerator>>,
    /// Plugins, accounts and PAM.
    pub backends: Backends,
    /// Runs programs.
    pub hooks: Hook,
    /// Environment that every hook gets.
    pub base_env: Env,
    /// The workers.
    pub data: DataHandle,
    /// What workers say.
    pub from_workers: mpsc::Receiver<FromWorker>,
    /// What others ask.
    pub commands: mpsc::Receiver<Command>,
    /// All shards, to ask them things.
    pub shards: Vec<mpsc::Sender<Command>>,
}

impl std::fmt::Debug for ShardSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardSetup").field("index", &self.index).finish_non_exhaustive()
    }
}

/// How long a stopping shard waits for its clients to acknowledge the goodbye.
pub const GOODBYE: Duration = Duration::from_secs(2);
