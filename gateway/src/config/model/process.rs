//! The process around the gateway, and Tessera's own directives.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{optional_seconds, seconds};
use crate::data::Rung;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// Standard error (the journal under systemd).
    #[default]
    Stderr,
    /// A file that is emptied at start.
    File(PathBuf),
    /// A file that is appended to.
    Append(PathBuf),
}

/// A status file, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The file.
    pub file: PathBuf,
    /// How often it is written.
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
    /// Format 1, 2 or 3.
    pub version: u8,
}

/// User, directories, logs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Process {
    /// Configuration file that was named, for the hooks' `config` variable.
    pub config_file: Option<PathBuf>,
    /// User to become after the start.
    pub user: Option<String>,
    /// Group to become after the start.
    pub group: Option<String>,
    /// Working directory (`cd`); paths in the configuration are already joined with it.
    pub cd: Option<PathBuf>,
    /// Change of scheduling priority (`nice`).
    pub nice: Option<i8>,
    /// Where the process id is written.
    pub writepid: Option<PathBuf>,
    /// Where the log goes.
    pub log: Log,
    /// Verbosity 0…11; 1 is the default, 3 is usual, 4 and more is for hunting faults.
    pub verb: u8,
    /// Leave out the time in log lines (`suppress-timestamps`).
    pub suppress_timestamps: bool,
    /// Status file, as configured.
    pub status: Option<Status>,
}

/// How many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Threads {
    /// As many as the machine has cores for.
    #[default]
    Auto,
    /// So many.
    Count(u16),
}

/// Who checks a token that comes in place of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenVerify {
    /// `auth-user-pass-verify`, as with OpenVPN.
    #[default]
    Hook,
    /// The gateway, from its token cache.
    Cache,
}

/// `control-socket PATH [GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlSocket {
    /// Where it is.
    pub path: PathBuf,
    /// Whose members may use it, besides root and the gateway's own user.
    pub group: Option<String>,
}

/// How sockets are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IoChoice {
    /// io_uring where the host allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or the start fails.
    Uring,
    /// epoll.
    Epoll,
}

/// Which CPUs data workers are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerCpus {
    /// One each, where there are as many as workers.
    #[default]
    Auto,
    /// None: the kernel moves them.
    Off,
    /// These, in worker order, from the beginning again when there are more workers.
    List(Vec<u16>),
}

/// Tessera's own directives.
#[derive(Debug, Clone, Serialize)]
pub struct Tessera {
    /// Data workers.
    pub workers: Threads,
    /// Their CPUs.
    pub worker_cpus: WorkerCpus,
    /// The rung of the data path that is to be used; `None`: the highest that works here.
    pub datapath: Option<Rung>,
    /// Session shards.
    pub session_shards: Threads,
    /// How sockets are driven.
    pub io: IoChoice,
    /// Who checks tokens.
    pub token_verify: TokenVerify,
    /// Directory of what must outlive the process (tokens, revocations, used codes); `None`: memory only.
    pub store: Option<PathBuf>,
    /// Where `tessera` reaches the gateway; `None`: nowhere.
    pub control_socket: Option<ControlSocket>,
    /// How long the cache takes a pushed token; `None`: no limit.
    #[serde(serialize_with = "optional_seconds")]
    pub token_lifetime: Option<Duration>,
    /// How long a hook may run.
    #[serde(serialize_with = "seconds")]
    pub hook_timeout: Duration,
    /// Most hooks that run at a time.
    pub hook_concurrency: u16,
}

impl Default for Tessera {
    fn default() -> Self {
        Self {
            workers: Threads::Auto,
            worker_cpus: WorkerCpus::Auto,
            datapath: None,
            session_shards: Threads::Auto,
            io: IoChoice::Auto,
            token_verify: TokenVerify::Hook,
            store: None,
            control_socket: None,
            // A working day and its night: a stolen token dies by itself, and nobody logs in twice a day.
            token_lifetime: Some(Duration::from_secs(86_400)),
            // A hook that asks a person's phone takes seconds; hand-window (60 s) must still hold two of them.
            hook_timeout: Duration::from_secs(30),
            // A hook is a process: enough for a login storm, far below usual process limits.
            hook_concurrency: 64,
        }
    }
}
