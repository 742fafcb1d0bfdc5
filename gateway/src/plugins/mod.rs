//! OpenVPN plugins, unmodified, each in processes of its own: a plugin that crashes or blocks harms nobody.
//!
//! ```text
//!  login (shard) ──call──▶ queue of each plugin ──▶ plugins thread ══ control ══▶ supervisor  (root, starts children)
//!                                                        ║                            │ fork
//!                                                        ╚══════════ calls ═════▶ child  (opens the plugin, drops root)
//! ```
//!
//! The host of a plugin is this same program, started again. Its *supervisor* keeps the privileges that the gateway was started
//! with and runs none of the plugin's code. Its *child* opens the plugin, drops to the configured user and group, and makes
//! one call after the other. A child that dies is replaced, later each time; one that does not answer in time is killed. Both
//! end when the gateway does, however it does: they see the end of its sockets. (A signal at the parent's death would not
//! do: a gateway that has dropped root may not send one to a supervisor that has not.)
//!
//! As with OpenVPN, a plugin that wants to know when the device is up is told so before its process drops its privileges; one
//! that is opened again is told again.
//!
//! **An answer is what a plugin returns**: 0 is yes, 1 is no, 2 is later where the interface allows that. All else, a crash, a
//! timeout or a full queue among it, is no answer, and never a yes.
//!
//! Plugins of all three interface versions are called as OpenVPN 2.6 calls them: `argv[0]` is the plugin's file, variables are in
//! `envp` alone and not in the process's own environment. What they cannot have here is a certificate as an object of
//! OpenSSL (`current_cert` is null), and to be opened before the configuration is read.

mod abi;
mod callbacks;
mod child;
mod kind;
mod locate;
mod os;
mod output;
mod runner;
mod spawn;
mod supervisor;
mod wire;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_proto::Secret;

pub use kind::PluginKind;
pub use locate::locate;
pub use runner::{PluginHandle, PluginStats, Plugins, StartError};
pub use supervisor::host;

use crate::hooks::Env;

/// A plugin of the configuration.
#[derive(Debug, Clone)]
pub struct PluginSpec {
    /// The library; an absolute path (see [`locate()`]).
    pub file: PathBuf,
    /// What it gets as `argv[1]` and further when it is opened.
    pub args: Vec<OsString>,
    /// Where the configuration names it, for errors.
    pub place: String,
}

/// What all plugins share.
#[derive(Debug, Clone)]
pub struct PluginOptions {
    /// What they get as `envp` when they are opened. `daemon` is set to 0 in it: a host is never a daemon, and what a plugin
    /// forks must stay in its group, so that it can be ended.
    pub env: Env,
    /// Whom they become once they are open; `None`: stay what the gateway was at its start.
    pub user: Option<String>,
    /// And the group.
    pub group: Option<String>,
    /// How long a plugin may take to open; usually [`PluginOptions::OPEN_TIMEOUT`].
    pub open_timeout: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// How many calls may wait for one plugin.
    pub queue: usize,
    /// The program that hosts plugins: this one, [`PluginOptions::SELF`], except in tests.
    pub host: PathBuf,
}

impl PluginOptions {
    /// The program that runs, even if its file was replaced.
    pub const SELF: &str = "/proc/self/exe";
    /// Some plugins connect to a directory server when they are opened; one that takes longer would not work either.
    pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
}

/// A client, from its first call to [`PluginHandle::forget`]. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(pub u64);

impl ClientKey {
    /// For calls that are about no client: the device, the routes.
    pub const SERVER: Self = Self(u64::MAX);
}

/// What one plugin said.
#[derive(Debug)]
pub struct PluginReply {
    /// Which: the name of its file.
    pub plugin: Arc<str>,
    /// Its place among all plugins, for [`PluginHandle::call_at`].
    pub place: usize,
    /// And what.
    pub outcome: PluginOutcome,
}

/// What a call came to.
#[derive(Debug)]
pub enum PluginOutcome {
    /// Yes.
    Success {
        /// With `client-connect-v2`: entries of name `config`, with directives.
        returned: Vec<Returned>,
    },
    /// The answer comes later, as the type of call has it.
    Deferred,
    /// No.
    Error,
    /// Neither.
    NoAnswer(NoAnswer),
}

/// A value that a plugin returned.
#[derive(Debug, Clone)]
pub struct Returned {
    /// Its name.
    pub name: String,
    /// It may hold a token.
    pub value: Secret<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The plugin died meanwhile.
    #[error("the plugin died")]
    Crashed,
    /// It took too long, and was ended.
    #[error("the plugin did not answer in time")]
    Timeout,
    /// Too many calls wait already.
    #[error("too many calls wait for the plugin")]
    QueueFull,
    /// It died before and is not back yet.
    #[error("the plugin is not open")]
    NotOpen,
    /// It does not want this type of calls, and must answer one.
    #[error("the plugin has no function for this call")]
    NotWanted,
    /// It returned a number that means nothing here.
    #[error("the plugin returned {0}, which means nothing here")]
    Unknown(i32),
    /// The call does not fit into a message.
    #[error("the call is too large, or an argument holds a NUL")]
    CannotBeAsked,
    /// What it returned does not fit into a message, or its host spoke nonsense.
    #[error("what the plugin returned cannot be taken")]
    CannotBeTaken,
    /// The gateway stops.
    #[error("the gateway stops")]
    Stopped,
}

/// What several answers mean together: all must say yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Each said yes; also where there is none.
    Allow,
    /// None said no, and at least one answers later.
    Deferred,
    /// None said no, but at least one said nothing.
    NoAnswer,
    /// At least one said no.
    Deny,
}

impl Verdict {
    /// Of all plugins that were asked. A no is worth most, as it stays one whatever the others would have said.
    #[must_use]
    pub fn of(replies: &[PluginReply]) -> Self {
        let one = |reply: &PluginReply| match reply.outcome {
            PluginOutcome::Success { .. } => Self::Allow,
            PluginOutcome::Deferred => Self::Deferred,
            PluginOutcome::NoAnswer(_) => Self::NoAnswer,
            PluginOutcome::Error => Self::Deny,
        };
        replies.iter().map(one).max_by_key(|verdict| *verdict as u8).unwrap_or(Self::Allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_say_yes() {
        let reply = |outcome| PluginReply { plugin: "p".into(), place: 0, outcome };
        let yes = || reply(PluginOutcome::Success { returned: Vec::new() });
        let later = || reply(PluginOutcome::Deferred);
        let nothing = || reply(PluginOutcome::NoAnswer(NoAnswer::Crashed));
        let no = || reply(PluginOutcome::Error);
        assert_eq!(Verdict::of(&[]), Verdict::Allow);
        assert_eq!(Verdict::of(&[yes(), yes()]), Verdict::Allow);
        assert_eq!(Verdict::of(&[yes(), later(), yes()]), Verdict::Deferred);
        assert_eq!(Verdict::of(&[nothing(), later(), yes()]), Verdict::NoAnswer);
        assert_eq!(Verdict::of(&[nothing(), no(), later()]), Verdict::Deny);
    }
}
