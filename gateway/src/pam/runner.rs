//! The thread that talks with the helper, and starts another when it dies.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tessera_proto::Secret;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use super::process::Helper;
use super::wire::{FromHelper, ToHelper, Verdict};
use super::{MAX_RUNNING, PamDecision, PamOptions};
use crate::clock;

/// First pause before a dead helper is replaced; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. A helper that lived longer than this began well.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A login to decide.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) user: String,
    pub(super) answers: Vec<Secret<String>>,
    pub(super) rhost: IpAddr,
    pub(super) reply: oneshot::Sender<PamDecision>,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct PamStats {
    /// Logins that PAM let in.
    pub allowed: AtomicU64,
    /// Logins that PAM refused.
    pub denied: AtomicU64,
    /// Logins for which PAM wanted to know more.
    pub asked: AtomicU64,
    /// Logins without a decision.
    pub no_answer: AtomicU64,
    /// Helpers that died.
    pub restarts: AtomicU64,
}

impl PamStats {
    pub(super) fn no_answer(&self, why: String) -> PamDecision {
        self.no_answer.fetch_add(1, Ordering::Relaxed);
        warn!("PAM gave no answer: {why}");
        PamDecision::NoAnswer(why)
    }
}

/// A helper at work.
struct Up {
    helper: Helper,
    socket: AsyncFd<OwnedFd>,
    since: Instant,
}

struct Runner {
    options: PamOptions,
    stats: Arc<PamStats>,
    /// Whose rights helpers must have: those of the first.
    uid: u32,
    up: Option<Up>,
    /// When the next helper is tried, while there is none.
    retry: Instant,
    pause: Duration,
    next_id: u64,
    running: HashMap<u64, Job>,
    /// When logins run out of time, the first one first.
    deadlines: VecDeque<(Instant, u64)>,
}

/// Serves logins until their queue closes.
pub(super) async fn serve(
    mut jobs: mpsc::Receiver<Job>,
    options: PamOptions,
    helper: Helper,
    stats: Arc<PamStats>,
) {
    let (uid, now) = (helper.uid, clock::now());
    let mut runner = Runner {
        options,
        stats,
        uid,
        up: None,
        retry: now,
        pause: FIRST_PAUSE,
        next_id: 0,
        running: HashMap::new(),
        deadlines: VecDeque::new(),
    };
    runner.begin(Ok(helper));
    loop {
        let room = runner.up.is_none() || runner.running.len() < MAX_RUNNING;
        let deadline = match (&runner.up, runner.deadlines.front()) {
            (None, _) => Some(runner.retry),
            (Some(_), front) => front.map(|(deadline, _)| *deadline),
        };
        tokio::select! {
            job = jobs.recv(), if room => match job {
                Some(job) => runner.take(job),
                None => return,
            },
            () = runner.readable() => runner.read(),
            () = sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => runner.tick(),
        }
    }
}

impl Runner {
    /// Waits until the helper has said something; for ever if there is none.
    async fn readable(&self) {
        let Some(up) = &self.up else { return std::future::pending().await };
        if let Ok(mut ready) = up.socket.readable().await {
            // Whatever is there is read next; what comes later makes it ready again.
            ready.clear_ready();
        }
    }

    fn take(&mut self, job: Job) {
        if job.reply.is_closed() {
            return;
        }
        let Some(up) = &self.up else {
            let _ = job.reply.send(self.stats.no_answer("the PAM helper is not running".to_owned()));
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let answers = job.answers.clone();
        let login = ToHelper::Login { id, user: job.user.clone(), rhost: job.rhost, answers };
        let sent = up.helper.send(&login);
        self.running.insert(id, job);
        self.deadlines.push_back((clock::now() + self.options.timeout, id));
        if let Err(error) = sent {
            self.lost(&format!("takes no requests: {error}"));
        }
    }

    fn read(&mut self) {
        while let Some(up) = &self.up {
            match up.helper.try_receive() {
                Ok(Some(FromHelper::Answer { id, verdict })) => self.answer(id, verdict),
                Ok(Some(_)) => self.lost("said what it should not"),
                Ok(None) => self.lost("ended"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }

    fn answer(&mut self, id: u64, verdict: Verdict) {
        // It may have run out of time just now.
        let Some(job) = self.running.remove(&id) else { return };
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let decision = match verdict {
            Verdict::Allow => {
                count(&self.stats.allowed);
                PamDecision::Allow
            }
            Verdict::Deny { why } => {
                count(&self.stats.denied);
                info!(user = ?job.user, rhost = %job.rhost, "PAM refused the login: {why}");
                PamDecision::Deny
            }
            Verdict::NeedMore { prompt, echo } => {
                count(&self.stats.asked);
                PamDecision::NeedMore { prompt, echo }
            }
            Verdict::NoAnswer { why } => self.stats.no_answer(why),
        };
        let _ = job.reply.send(decision);
    }

    /// Ends what has run out of time or has nobody waiting, and replaces a helper that died.
    fn tick(&mut self) {
        let now = clock::now();
        if self.up.is_none() {
            if now >= self.retry {
                let helper = Helper::start(&self.options);
                self.begin(helper);
            }
            return;
        }
        while let Some((deadline, id)) = self.deadlines.front().copied()
            && deadline <= now
        {
            self.deadlines.pop_front();
            let Some(job) = self.running.remove(&id) else { continue };
            let seconds = self.options.timeout.as_secs_f32();
            let _ = job.reply.send(self.stats.no_answer(format!("PAM did not answer within {seconds} s")));
            if let Some(up) = &self.up
                && let Err(error) = up.helper.send(&ToHelper::Cancel { id })
            {
                self.lost(&format!("takes no requests: {error}"));
                return;
            }
        }
    }

    /// Takes a helper into use.
    fn begin(&mut self, helper: Result<Helper, String>) {
        let helper = helper.and_then(|helper| {
            // After the gateway has dropped its privileges a new helper lacks them: modules would call right passwords
            // wrong, and clients would be refused instead of told to come back.
            if helper.uid != self.uid {
                return Err(format!("it runs as user {} and must be {}: restart the gateway", helper.uid, self.uid));
            }
            let text = |error: io::Error| error.to_string();
            let socket = helper.watched().map_err(text)?;
            let socket = AsyncFd::with_interest(socket, Interest::READABLE).map_err(text)?;
            Ok(Up { helper, socket, since: clock::now() })
        });
        match helper {
            Ok(up) => self.up = Some(up),
            Err(why) => {
                self.retry_later();
                error!("no PAM helper: {why}; next try in {} s", self.pause.as_secs());
            }
        }
    }

    fn lost(&mut self, how: &str) {
        let Some(up) = self.up.take() else { return };
        self.stats.restarts.fetch_add(1, Ordering::Relaxed);
        if clock::now().saturating_duration_since(up.since) > LONGEST_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        self.retry = clock::now() + self.pause;
        error!("the PAM helper {how}; the next one starts in {} s", self.pause.as_secs());
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.deadlines.clear();
        for (_, job) in self.running.drain() {
            let _ = job.reply.send(self.stats.no_answer("the PAM helper ended".to_owned()));
        }
    }

    fn retry_later(&mut self) {
        self.retry = clock::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
