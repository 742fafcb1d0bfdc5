//! The thread that talks with the helper, and starts another when it dies.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tessera_proto::Secret;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use super::process::Helper;
use super::wire::{FromHelper, ToHelper, Verdict};
use super::{MAX_RUNNING, PamDecision, PamOptions, ffi};
use crate::clock;

/// First pause before a dead helper is replaced; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. A helper that lived longer than this began well.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether clients of running logins have left: a stuck module must not hold places for long.
const SWEEP: Duration = Duration::from_secs(1);

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
    pub lost: AtomicU64,
    /// The helper's process id; 0 while there is none.
    pub helper: AtomicU32,
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
    /// Dropped first: the helper ends when the last copy of its socket is closed.
    socket: AsyncFd<OwnedFd>,
    helper: Helper,
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
    /// Logins that the helper has, and when they run out of time.
    running: HashMap<u64, (Job, Instant)>,
}

/// Serves logins until `stop` is dropped.
pub(super) async fn serve(
    mut jobs: mpsc::Receiver<Job>,
    mut stop: oneshot::Receiver<()>,
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
    };
    runner.begin(Ok(helper));
    loop {
        let room = runner.up.is_none() || runner.running.len() < MAX_RUNNING;
        let wake = if runner.up.is_none() {
            Some(runner.retry)
        } else {
            let first = runner.running.values().map(|(_, deadline)| *deadline).min();
            first.map(|deadline| deadline.min(clock::now() + SWEEP))
        };
        tokio::select! {
            _ = &mut stop => return,
            job = jobs.recv(), if room => match job {
                Some(job) => runner.take(job),
                None => return,
            },
            () = runner.readable() => runner.read(),
            () = sleep_until(wake.unwrap_or(now).into()), if wake.is_some() => runner.tick(),
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

    fn take(&mut self, mut job: Job) {
        if job.reply.is_closed() {
            return;
        }
        let Some(up) = &self.up else {
            let _ = job.reply.send(self.stats.no_answer("the PAM helper is not running".to_owned()));
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let answers = std::mem::take(&mut job.answers);
        let login = ToHelper::Login { id, user: job.user.clone(), rhost: job.rhost, answers };
        let sent = up.helper.send(&login);
        self.running.insert(id, (job, clock::now() + self.options.timeout));
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
        let Some((job, _)) = self.running.remove(&id) else { return };
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
        let over = |(job, deadline): &(Job, Instant)| *deadline <= now || job.reply.is_closed();
        let ids: Vec<u64> = self.running.iter().filter(|(_, login)| over(login)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some((job, _)) = self.running.remove(&id) else { continue };
            if !job.reply.is_closed() {
                let seconds = self.options.timeout.as_secs_f32();
                let why = format!("PAM did not answer within {seconds} s");
                let _ = job.reply.send(self.stats.no_answer(why));
            }
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
                return Err(format!(
                    "it runs as user {} and must be {}: restart the gateway",
                    helper.uid, self.uid
                ));
            }
            let text = |error: io::Error| error.to_string();
            let socket = helper.watched().map_err(text)?;
            let socket = ffi::watch(socket).map_err(text)?;
            Ok(Up { socket, helper, since: clock::now() })
        });
        match helper {
            Ok(up) => {
                self.stats.helper.store(up.helper.pid(), Ordering::Relaxed);
                self.up = Some(up);
            }
            Err(why) => {
                error!("no PAM helper: {why}; next try in {} s", self.pause.as_secs());
                self.retry_later();
            }
        }
    }

    fn lost(&mut self, how: &str) {
        let Some(up) = self.up.take() else { return };
        self.stats.lost.fetch_add(1, Ordering::Relaxed);
        if clock::now().saturating_duration_since(up.since) > LONGEST_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        self.stats.helper.store(0, Ordering::Relaxed);
        error!("the PAM helper {how}; the next one starts in {} s", self.pause.as_secs());
        self.retry_later();
        for (_, (job, _)) in self.running.drain() {
            let _ = job.reply.send(self.stats.no_answer("the PAM helper ended".to_owned()));
        }
    }

    fn retry_later(&mut self) {
        self.retry = clock::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
