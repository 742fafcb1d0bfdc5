//! PAM without a plugin: `auth-pam SERVICE`.
//!
//! ```text
//!  login (shard) ──job──▶ pam thread ──socket──▶ helper: one thread, root if we were ──fork──▶ child: one login
//!        ◀─ PamDecision ──────◀─ Answer ─────────────────────────────────────────────────────────┘
//! ```
//!
//! Modules block, sleep after failures, call programs, and crash. So each login has a process of its own, forked from a
//! helper that has only one thread and no keys of ours. The helper is our own program, started before the gateway drops its
//! privileges; who starts it says so with a hidden word, and everything else goes through a socket. The library is opened
//! at run time: hosts without PAM need none.
//!
//! Prompts are answered in their order: the first that hides what is typed gets the password, every other one the next answer.
//! Where modules ask for the password several times, they must be told to use the first (`try_first_pass`).

mod ffi;
mod helper;
mod process;
mod runner;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tessera_proto::Secret;
use tokio::sync::{mpsc, oneshot};

pub use helper::run as run_helper;
pub use runner::PamStats;

use process::Helper;
use runner::Job;
use wire::{MAX_ANSWER, MAX_ANSWERS, MAX_USER};

/// The word on the command line that makes the program a helper.
pub const HELPER_WORD: &str = "--pam-helper";
/// Logins at a time. A failed one sleeps 2 s and more; 32 processes at rest cost little.
pub const MAX_RUNNING: usize = 32;
/// Logins that wait for their turn: at 2 s for each failed one, the last is served after 16 s, well within a client's
/// patience.
const QUEUE: usize = 256;
/// Default time for one login: longer than the pauses of modules, shorter than a client's patience (`hand-window`, 60 s).
const TIMEOUT: Duration = Duration::from_secs(30);

/// How PAM is asked.
#[derive(Debug, Clone)]
pub struct PamOptions {
    /// The service: the name of a file in `/etc/pam.d`.
    pub service: String,
    /// How long one login may take.
    pub timeout: Duration,
    /// For tests: services are in this directory, not in `/etc/pam.d`.
    pub confdir: Option<PathBuf>,
    /// For tests: the program that is run as the helper, not ourselves.
    pub program: Option<PathBuf>,
}

impl PamOptions {
    /// The defaults for a service.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), timeout: TIMEOUT, confdir: None, program: None }
    }
}

/// Why PAM cannot be asked at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PAM: {0}")]
pub struct PamError(String);

/// What PAM says about a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PamDecision {
    /// The user is who they say, and may come in.
    Allow,
    /// No. Why is in the log only.
    Deny,
    /// The answers were not enough: ask this, and come again with all answers and the new one at the end.
    NeedMore {
        /// The question: one line, printable.
        prompt: String,
        /// What is typed may be seen.
        echo: bool,
    },
    /// There is no decision, and why. Not the client's fault.
    NoAnswer(String),
}

/// The way to PAM. Dropping it ends the helper and the logins that run.
#[derive(Debug)]
pub struct Pam {
    jobs: mpsc::Sender<Job>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    stats: Arc<PamStats>,
    thread: Option<JoinHandle<()>>,
}

impl Pam {
    /// Starts the helper, which opens the library and looks for the service. Must be called while the gateway has the
    /// privileges that the service's modules need. Blocks until the helper is ready, five seconds at most.
    ///
    /// # Errors
    /// [`PamError`] when the service does not exist, the library is missing, or the helper cannot be started.
    pub fn start(options: PamOptions) -> Result<Self, PamError> {
        let helper = Helper::start(&options).map_err(PamError)?;
        let system = |error: std::io::Error| PamError(format!("no thread: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let stats = Arc::new(PamStats::default());
        stats.helper.store(helper.pid(), std::sync::atomic::Ordering::Relaxed);
        let counted = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("pam".into())
            .spawn(move || runtime.block_on(runner::serve(queue, stopped, options, helper, counted)))
            .map_err(system)?;
        Ok(Self { jobs, stop: Some(stop), stats, thread: Some(thread) })
    }

    /// Asks PAM about a user: the password is the first answer, what was asked beyond it follows. To drop the future gives
    /// the login up.
    pub async fn verify(&self, user: &str, answers: Vec<Secret<String>>, rhost: IpAddr) -> PamDecision {
        if !can_be_asked(user, &answers) {
            tracing::info!(%rhost, "PAM is not asked: an empty, overlong or unprintable user name or answer");
            return PamDecision::Deny;
        }
        let (reply, decision) = oneshot::channel();
        let job = Job { user: user.to_owned(), answers, rhost, reply };
        if self.jobs.try_send(job).is_err() {
            return self.stats.no_answer(format!("{QUEUE} logins are waiting already"));
        }
        decision.await.unwrap_or_else(|_| self.stats.no_answer("the gateway stops".to_owned()))
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &PamStats {
        &self.stats
    }
}

impl Drop for Pam {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// PAM deals in strings of C, and log files of syslog in lines.
fn can_be_asked(user: &str, answers: &[Secret<String>]) -> bool {
    !user.is_empty()
        && user.len() <= MAX_USER
        && !user.contains(char::is_control)
        && (1..=MAX_ANSWERS).contains(&answers.len())
        && answers.iter().all(|answer| answer.expose().len() <= MAX_ANSWER && !answer.expose().contains('\0'))
}
