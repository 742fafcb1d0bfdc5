//! The thread that runs hooks, and the queue in front of it.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::process::{self, Outcome};
use super::{Env, HookFile};

/// Jobs that wait for their turn. A login storm of this size with fast hooks is over in seconds; beyond it clients are
/// told to come back.
const QUEUE: usize = 10_000;

/// Bounds of the runner.
#[derive(Debug, Clone, Copy)]
pub struct HookLimits {
    /// How long one hook may run.
    pub timeout: Duration,
    /// How many run at a time.
    pub concurrency: usize,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct HookStats {
    /// Hooks that ended, in whatever way.
    pub runs: AtomicU64,
    /// Those that did not say yes.
    pub failures: AtomicU64,
    /// Those that ran out of time.
    pub timeouts: AtomicU64,
    /// Milliseconds that all of them took.
    pub total_ms: AtomicU64,
    /// Jobs that wait or run.
    pub in_queue: AtomicU64,
}

/// A program to run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: &'static str,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Env,
    /// Kept until the program has ended; given back with the outcome.
    pub(super) files: Vec<HookFile>,
    pub(super) reply: oneshot::Sender<(Outcome, Vec<HookFile>)>,
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

/// The runner; dropping it (after all handles) waits until running hooks have ended or were killed.
#[derive(Debug)]
pub struct HookRunner {
    thread: Option<JoinHandle<()>>,
}

impl HookRunner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(limits: HookLimits) -> io::Result<(HookHandle, Self)> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let stats = Arc::new(HookStats::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let counted = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("hooks".into())
            .spawn(move || runtime.block_on(serve(jobs, limits, counted)))?;
        Ok((HookHandle { queue, stats }, Self { thread: Some(thread) }))
    }
}

impl Drop for HookRunner {
    fn drop(&mut self) {
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

    /// Queues a program, and gives its outcome and files when it has ended.
    pub(super) async fn run(
        &self,
        kind: &'static str,
        argv: Vec<OsString>,
        env: Env,
        files: Vec<HookFile>,
    ) -> Result<(Outcome, Vec<HookFile>), QueueFull> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            kind,
            argv,
            env,
            files,
            reply,
        };
        self.stats.in_queue.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(job).is_err() {
            self.stats.in_queue.fetch_sub(1, Ordering::Relaxed);
            return Err(QueueFull);
        }
        // The runner answers every job it took, unless it is torn down: then there is no answer, as from a full queue.
        answer.await.map_err(|_| QueueFull)
    }
}

async fn serve(mut jobs: mpsc::Receiver<Job>, limits: HookLimits, stats: Arc<HookStats>) {
    let slots = Arc::new(Semaphore::new(limits.concurrency.max(1)));
    let mut running = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        let stats = Arc::clone(&stats);
        running.spawn(async move {
            let started = crate::clock::now();
            let outcome = process::run(job.kind, &job.argv, &job.env, limits.timeout).await;
            let took = crate::clock::now().saturating_duration_since(started);
            drop(slot);
            stats.in_queue.fetch_sub(1, Ordering::Relaxed);
            stats.runs.fetch_add(1, Ordering::Relaxed);
            stats
                .total_ms
                .fetch_add(took.as_millis() as u64, Ordering::Relaxed);
            stats
                .failures
                .fetch_add(u64::from(outcome != Outcome::Exit(0)), Ordering::Relaxed);
            stats
                .timeouts
                .fetch_add(u64::from(outcome == Outcome::Timeout), Ordering::Relaxed);
            // A login that was given up does not want to know.
            let _ = job.reply.send((outcome, job.files));
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}
