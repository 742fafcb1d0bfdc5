//! The thread that runs hooks, and the queue in front of it.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::process::{self, Outcome};
use super::{Env, HookDir, HookFile};

/// Jobs that wait for their turn. A login storm of this size with fast hooks is over in seconds; beyond it clients are
/// told to come back.
pub(super) const QUEUE: usize = 10_000;

/// Largest file with a deferred answer: one digit and a line end.
const DEFERRED_FILE: usize = 16;
/// How often it is looked at.
const DEFERRED_POLL: Duration = Duration::from_millis(200);

/// Bounds of the runner.
#[derive(Debug, Clone, Copy)]
pub struct HookLimits {
    /// How long one hook may run.
    pub timeout: Duration,
    /// How many run at a time.
    pub concurrency: usize,
}

/// The kinds of hooks, by their directives.
const KINDS: [&str; 6] = [
    "auth-user-pass-verify",
    "client-connect",
    "client-disconnect",
    "learn-address",
    "tls-crypt-v2-verify",
    "tls-verify",
];

/// What happened to the hooks of one kind so far.
#[derive(Debug, Default)]
pub struct KindStats {
    /// Hooks that ended, in whatever way.
    pub runs: AtomicU64,
    /// Those that did not say yes.
    pub failures: AtomicU64,
    /// Those that ran out of time.
    pub timeouts: AtomicU64,
    /// Milliseconds that all of them took.
    pub total_ms: AtomicU64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct HookStats {
    kinds: [KindStats; KINDS.len()],
    /// Jobs that wait or run.
    pub in_queue: AtomicU64,
    /// Jobs that were turned away because the queue was full.
    pub rejected: AtomicU64,
}

impl HookStats {
    /// All kinds, by their directives.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &KindStats)> {
        KINDS.into_iter().zip(&self.kinds)
    }

    fn ended(&self, kind: &str, outcome: Outcome, took: Duration) {
        let Some((_, stats)) = self.kinds().find(|(name, _)| *name == kind) else {
            return;
        };
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        stats.runs.fetch_add(1, Ordering::Relaxed);
        stats.total_ms.fetch_add(millis, Ordering::Relaxed);
        let count = |counter: &AtomicU64, yes: bool| counter.fetch_add(u64::from(yes), Ordering::Relaxed);
        count(&stats.failures, outcome != Outcome::Exit(0));
        count(&stats.timeouts, outcome == Outcome::Timeout);
    }
}

/// A file that a job wants. The runner makes, reads and removes it: sessions never touch the disk.
#[derive(Debug)]
pub(super) struct JobFile {
    pub(super) dir: Arc<HookDir>,
    /// What its name starts with.
    pub(super) name: &'static str,
    pub(super) content: Zeroizing<Vec<u8>>,
    /// Its path is the last argument.
    pub(super) last_argument: bool,
    /// Its path is in this variable.
    pub(super) variable: Option<&'static str>,
    /// So many bytes of it are read back after exit code 0.
    pub(super) read_back: Option<usize>,
    /// The path of a second file is in this variable: the program may put its answer off there.
    pub(super) deferral: Option<&'static str>,
}

/// A program to run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: &'static str,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Env,
    pub(super) file: Option<JobFile>,
    reply: oneshot::Sender<Ran>,
}

impl Job {
    /// Nobody waits for the answer any more, and the hook is only there to answer (and not to keep books).
    fn is_moot(&self) -> bool {
        self.reply.is_closed() && !matches!(self.kind, "client-disconnect" | "learn-address")
    }
}

/// A program that has been run.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    /// What it wrote, if that was asked for and it said yes.
    pub(super) written: Option<io::Result<Zeroizing<Vec<u8>>>>,
}

/// The queue is full: the login should be told to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUEUE} hooks are waiting already")]
pub struct QueueFull;

/// Hands jobs to the runner from any thread.
#[derive(Debug, Clone)]
pub struct HookHandle {
    queue: mpsc::Sender<Job>,
    stats: Arc<HookStats>,
}

/// The runner. Dropping it ends the hooks that run, with their process groups, forgets those that wait, and returns when
/// all are gone: after little more than two seconds at most, whoever still has a handle.
#[derive(Debug)]
pub struct HookRunner {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl HookRunner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(limits: HookLimits) -> io::Result<(HookHandle, Self)> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let stats = Arc::new(HookStats::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let counted = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("hooks".into())
            .spawn(move || runtime.block_on(serve(jobs, limits, counted, stopped)))?;
        let thread = Some(thread);
        Ok((HookHandle { queue, stats }, Self { stop, thread }))
    }
}

impl Drop for HookRunner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl HookHandle {
    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &HookStats {
        &self.stats
    }

    /// Queues a program, and tells how it went. It runs even if the caller goes away, unless its answer is all it is for.
    pub(super) async fn run(
        &self,
        kind: &'static str,
        argv: Vec<OsString>,
        env: Env,
        file: Option<JobFile>,
    ) -> Result<Ran, QueueFull> {
        let (reply, answer) = oneshot::channel();
        let job = Job { kind, argv, env, file, reply };
        self.stats.in_queue.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(job).is_err() {
            self.stats.in_queue.fetch_sub(1, Ordering::Relaxed);
            self.stats.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(QueueFull);
        }
        // The runner answers every job it took, unless it is torn down: then there is no answer, as from a full queue.
        answer.await.map_err(|_| QueueFull)
    }
}

async fn serve(
    mut jobs: mpsc::Receiver<Job>,
    limits: HookLimits,
    stats: Arc<HookStats>,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.concurrency.max(1)));
    let mut running = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((slot, jobs.recv().await?))
        };
        let next = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some((slot, job)) = next else { break };
        while running.try_join_next().is_some() {}
        if job.is_moot() {
            stats.in_queue.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (stats, mut stop) = (Arc::clone(&stats), stop.clone());
        running.spawn(async move {
            let Job { kind, argv, env, file, reply } = job;
            let started = crate::clock::now();
            let ran = run_with_file(kind, argv, env, file, limits.timeout, &mut stop).await;
            let took = crate::clock::now().saturating_duration_since(started);
            drop(slot);
            stats.in_queue.fetch_sub(1, Ordering::Relaxed);
            stats.ended(kind, ran.outcome, took);
            // A login that was given up does not want to know.
            let _ = reply.send(ran);
        });
    }
    jobs.close();
    while running.join_next().await.is_some() {}
}

async fn run_with_file(
    kind: &'static str,
    mut argv: Vec<OsString>,
    mut env: Env,
    wanted: Option<JobFile>,
    limit: Duration,
    stop: &mut watch::Receiver<bool>,
) -> Ran {
    let file = match wanted.as_ref().map(|w| w.dir.file(w.name, &w.content)).transpose() {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(hook = kind, "no file for the hook: {error}");
            return Ran { outcome: Outcome::SpawnFailed(error.kind()), written: None };
        }
    };
    if let (Some(wanted), Some(file)) = (&wanted, &file) {
        if wanted.last_argument {
            argv.push(file.path().into());
        }
        if let Some(variable) = wanted.variable {
            env.set(variable, file.path().display().to_string());
        }
    }
    let deferred = match wanted.as_ref().and_then(|w| Some((w.deferral?, w.dir.file("deferred", b"")))) {
        None => None,
        Some((variable, Ok(file))) => {
            env.set(variable, file.path().display().to_string());
            Some(file)
        }
        Some((_, Err(error))) => {
            tracing::warn!(hook = kind, "no file for the hook: {error}");
            return Ran { outcome: Outcome::SpawnFailed(error.kind()), written: None };
        }
    };
    let mut outcome = process::run(kind, &argv, &env, limit, stop).await;
    if let (Outcome::Exit(0), Some(file)) = (outcome, &deferred) {
        outcome = deferred_answer(file, limit, stop).await;
    }
    let written = match (wanted.and_then(|wanted| wanted.read_back), &file) {
        (Some(limit), Some(file)) if outcome == Outcome::Exit(0) => Some(file.read(limit)),
        _ => None,
    };
    Ran { outcome, written }
}

/// Waits while the file says `2`; an empty one says yes.
async fn deferred_answer(file: &HookFile, limit: Duration, stop: &mut watch::Receiver<bool>) -> Outcome {
    let answer = async {
        loop {
            match file.read(DEFERRED_FILE).unwrap_or_default().first() {
                None | Some(b'1') => return Outcome::Exit(0),
                Some(b'2') => tokio::time::sleep(DEFERRED_POLL).await,
                Some(_) => return Outcome::Exit(1),
            }
        }
    };
    tokio::select! {
        answer = tokio::time::timeout(limit, answer) => answer.unwrap_or(Outcome::Timeout),
        _ = stop.wait_for(|stop| *stop) => Outcome::Cancelled,
    }
}
