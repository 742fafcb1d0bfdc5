//! The thread that runs hooks, and the queue in front of it.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::connect::Farewell;
use super::deferral::Place;
use super::job;
use super::stats::{HookKind, HookStats, Stage, Stay};
use super::watch::Watcher;
use super::{Answer, AuthAnswer, Deferral, DeferralError, Env, HookDir};

/// Jobs that wait for their turn. A login storm of this size with fast hooks is over in seconds; beyond it clients are
/// told to come back.
pub(super) const QUEUE: usize = 10_000;
/// Logins whose answer is put off: people at their second factor. Each costs up to three files and a look every two seconds,
/// all of them together a few percent of the hooks thread. Beyond it clients are told to come back.
pub(super) const DEFERRALS: usize = 4096;
/// Plugins that wait for files. They are made at once, so this many come together only in a storm.
const REQUESTS: usize = 1024;

/// Bounds of the runner.
#[derive(Debug, Clone, Copy)]
pub struct HookLimits {
    /// How long one hook may run, and how long `client-connect` may put its answer off after that.
    pub timeout: Duration,
    /// How many run at a time.
    pub concurrency: usize,
}

/// A file that a job wants. The runner makes, reads and removes it: sessions never touch the disk.
#[derive(Debug, Default)]
pub(super) struct JobFile {
    /// What its name starts with.
    pub(super) name: &'static str,
    pub(super) content: Zeroizing<Vec<u8>>,
    /// Its path is the last argument.
    pub(super) last_argument: bool,
    /// Its path is in this variable.
    pub(super) variable: Option<&'static str>,
}

/// What to run, and how.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) kind: HookKind,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Env,
    pub(super) file: Option<JobFile>,
    /// What a yes of `client-connect` entails.
    pub(super) farewell: Option<Farewell>,
    /// It keeps books: it is run even if nobody waits for it.
    pub(super) bookkeeping: bool,
}

impl Program {
    pub(super) const fn new(kind: HookKind, argv: Vec<OsString>, env: Env) -> Self {
        let bookkeeping = matches!(kind, HookKind::ClientDisconnect | HookKind::LearnAddress);
        Self { kind, argv, env, file: None, farewell: None, bookkeeping }
    }
}

/// A program that has been run.
#[derive(Debug)]
pub(super) enum Ran {
    /// All kinds but the following.
    Plain(Answer),
    /// `auth-user-pass-verify`.
    Auth(AuthAnswer),
    /// `client-connect`.
    Connect { answer: Answer, written: io::Result<Zeroizing<Vec<u8>>>, farewell: Option<Farewell> },
}

impl Ran {
    /// The answer, as far as it is one of the plain ones.
    pub(super) const fn answer(&self) -> Answer {
        match self {
            Self::Plain(answer) | Self::Connect { answer, .. } => *answer,
            Self::Auth(AuthAnswer::Allow) => Answer::Allow,
            Self::Auth(AuthAnswer::Deny { .. }) => Answer::Deny,
            Self::Auth(AuthAnswer::NoAnswer | AuthAnswer::Deferred(_)) => Answer::NoAnswer,
        }
    }
}

/// A program was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{QUEUE} hooks are waiting already")]
    QueueFull,
    #[error("no hooks are run any more")]
    Stopped,
}

impl Refused {
    /// Says so, and what it means.
    pub(super) fn answer(self, kind: HookKind) -> Answer {
        tracing::warn!(hook = kind.directive(), "hook was not run: {self}");
        Answer::NoAnswer
    }
}

/// A program in the queue.
#[derive(Debug)]
struct Job {
    program: Program,
    reply: oneshot::Sender<Ran>,
    _queued: Stay,
}

impl Job {
    /// Nobody waits for the answer any more, and the hook is only there to answer.
    fn is_moot(&self) -> bool {
        self.reply.is_closed() && !self.program.bookkeeping
    }
}

type DeferralReply = oneshot::Sender<Result<Deferral, DeferralError>>;

/// Hands jobs to the runner from any thread.
#[derive(Debug, Clone)]
pub struct HookHandle {
    queue: mpsc::Sender<Job>,
    requests: mpsc::Sender<DeferralReply>,
    stats: Arc<HookStats>,
    pub(super) dir: Arc<HookDir>,
}

/// The runner. Dropping it ends the hooks that run, with their process groups, forgets those that wait, and returns when
/// all are gone: after little more than two seconds at most, whoever still has a handle.
#[derive(Debug)]
pub struct HookRunner {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl HookRunner {
    /// Starts the thread. Files for hooks are made in `dir`.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(limits: HookLimits, dir: Arc<HookDir>) -> io::Result<(HookHandle, Self)> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (requests, wanted) = mpsc::channel(REQUESTS);
        let (stop, stopped) = watch::channel(false);
        let stats = Arc::new(HookStats::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = Context {
            limit: limits.timeout,
            deferrals: Arc::new(Semaphore::new(DEFERRALS)),
            watcher: Watcher::new(Arc::clone(&dir)),
            stats: Arc::clone(&stats),
            stop: stopped,
        };
        let thread = std::thread::Builder::new()
            .name("hooks".into())
            .spawn(move || runtime.block_on(serve(jobs, wanted, limits.concurrency, context)))?;
        let thread = Some(thread);
        Ok((HookHandle { queue, requests, stats, dir }, Self { stop, thread }))
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

    /// Queues a program, and tells how it went.
    pub(super) async fn run(&self, program: Program) -> Result<Ran, Refused> {
        self.start(program)?.await.map_err(|_| Refused::Stopped)
    }

    /// Queues a program. It is not begun if the receiver is gone by then, unless it keeps books.
    pub(super) fn start(&self, program: Program) -> Result<oneshot::Receiver<Ran>, Refused> {
        let kind = program.kind;
        let (job, answer) = self.job(program);
        self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.stats.rejected(Some(kind));
                Refused::QueueFull
            }
            mpsc::error::TrySendError::Closed(_) => Refused::Stopped,
        })?;
        Ok(answer)
    }

    /// Waits for room in the queue: for programs that must run.
    pub(super) async fn room(&self) -> Result<Room<'_>, Refused> {
        let permit = self.queue.reserve().await.map_err(|_| Refused::Stopped)?;
        Ok(Room { handle: self, permit })
    }

    /// Files for a deferred answer of somebody who is no hook.
    pub(super) async fn deferral(&self) -> Result<Deferral, DeferralError> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DeferralError::Full,
            mpsc::error::TrySendError::Closed(_) => DeferralError::Stopped,
        })?;
        answer.await.map_err(|_| DeferralError::Stopped)?
    }

    fn job(&self, program: Program) -> (Job, oneshot::Receiver<Ran>) {
        let (reply, answer) = oneshot::channel();
        let queued = self.stats.enter(Some(program.kind), Stage::Queued);
        (Job { program, reply, _queued: queued }, answer)
    }
}

/// Room for one job in the queue.
pub(super) struct Room<'a> {
    handle: &'a HookHandle,
    permit: mpsc::Permit<'a, Job>,
}

impl Room<'_> {
    pub(super) async fn run(self, program: Program) -> Result<Ran, Refused> {
        let (job, answer) = self.handle.job(program);
        self.permit.send(job);
        answer.await.map_err(|_| Refused::Stopped)
    }
}

/// What all jobs share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) limit: Duration,
    pub(super) watcher: Arc<Watcher>,
    pub(super) stats: Arc<HookStats>,
    pub(super) stop: watch::Receiver<bool>,
    deferrals: Arc<Semaphore>,
}

impl Context {
    /// A place in the table of deferrals, unless it is full. `None` is a plugin.
    pub(super) fn place(&self, kind: Option<HookKind>) -> Option<Place> {
        let Ok(permit) = Arc::clone(&self.deferrals).try_acquire_owned() else {
            self.stats.rejected(kind);
            let who = kind.map_or("plugin", HookKind::directive);
            tracing::warn!(hook = who, "{DEFERRALS} logins wait for an answer already: this one gets none");
            return None;
        };
        Some(Place { stay: self.stats.enter(kind, Stage::Deferred), _permit: permit })
    }

    fn deferral(&self) -> Result<Deferral, DeferralError> {
        let place = self.place(None).ok_or(DeferralError::Full)?;
        Ok(Deferral::create("plugin", &self.watcher)?.with_place(place))
    }
}

async fn serve(
    mut jobs: mpsc::Receiver<Job>,
    mut requests: mpsc::Receiver<DeferralReply>,
    concurrency: usize,
    context: Context,
) {
    let slots = Arc::new(Semaphore::new(concurrency.max(1)));
    let mut running = JoinSet::new();
    let mut stop = context.stop.clone();
    let driver = tokio::spawn(Arc::clone(&context.watcher).drive());
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((slot, jobs.recv().await?))
        };
        let next = tokio::select! {
            next = next => next,
            Some(reply) = requests.recv() => {
                let _ = reply.send(context.deferral());
                continue;
            }
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some((slot, job)) = next else { break };
        while running.try_join_next().is_some() {}
        if job.is_moot() {
            continue;
        }
        let context = context.clone();
        running.spawn(async move {
            let Job { program, reply, _queued: queued } = job;
            drop(queued);
            let ran = job::run(program, &context, slot).await;
            // A login that was given up does not want to know; what it would have owed is settled by dropping the answer.
            let _ = reply.send(ran);
        });
    }
    jobs.close();
    requests.close();
    while running.join_next().await.is_some() {}
    driver.abort();
}
