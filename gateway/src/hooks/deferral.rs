//! An answer to a login that comes later, through files.
//!
//! ```text
//!  script or plugin ──writes──▶ control, pending, reason ──inotify──▶ hooks thread ──DeferredEvent──▶ login (shard)
//! ```
//!
//! Each authenticator of each attempt has files of its own: none can answer for another, or for another attempt. The first
//! verdict is the only one.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::warn;

use super::answers::{Control, Pending, read_reason};
use super::stats::Stay;
use super::watch::{Wake, Watched, Watcher};
use super::{Answer, Env, HookFile, PendingAuth};

/// The variables with the paths, in the order of the files.
const VARIABLES: [&str; 3] = ["auth_control_file", "auth_pending_file", "auth_failed_reason_file"];
/// A deferral says at most two things: that the client is asked for more, and the verdict.
const EVENTS: usize = 2;

/// What an authenticator said about a login.
#[derive(Debug)]
pub enum AuthAnswer {
    /// Yes.
    Allow,
    /// No, with words for the client if there are any.
    Deny {
        /// One printable line of at most 900 bytes. It may begin with a keyword of `AUTH_FAILED` (`TEMP`, `SESSION:`, `CRV1:`).
        reason: Option<String>,
    },
    /// Nothing: never a yes, and not the client's fault.
    NoAnswer,
    /// It will say so here.
    Deferred(Deferral),
}

/// What an authenticator returned at once: a script by its exit code, a plugin by its return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// 0.
    Success,
    /// 1, or anything else that is an answer.
    Error,
    /// 2.
    Deferred,
}

/// What a deferred authenticator says.
#[derive(Debug, PartialEq, Eq)]
pub enum DeferredEvent {
    /// The client is to be asked for more. At most once, and before the verdict.
    Pending(PendingAuth),
    /// Yes.
    Allow,
    /// No; also after an answer that was none, which is in the log.
    Deny {
        /// As in [`AuthAnswer::Deny`].
        reason: Option<String>,
    },
    /// There is no verdict and there will be none: the gateway stops, or the verdict was taken before.
    NoAnswer,
}

/// The files of one authenticator for one login, and what it says there. Dropping it removes them; what is written later
/// means nothing.
#[derive(Debug)]
pub struct Deferral {
    paths: [String; 3],
    events: mpsc::Receiver<DeferredEvent>,
    looks: mpsc::Sender<Look>,
    over: bool,
    /// Its place in the table; a script has none before it has deferred.
    place: Option<Place>,
}

/// A place in the table of deferrals, and in the statistics.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) stay: Stay,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A question about the files.
#[derive(Debug)]
struct Look {
    /// The authenticator has returned: what it wrote so far is whole.
    concluded: bool,
    reply: oneshot::Sender<Seen>,
}

/// What the files say at a moment.
#[derive(Debug)]
struct Seen {
    /// A no, or something malformed.
    refused: bool,
    /// A pending file that was begun and not finished.
    incomplete: bool,
    reason: Option<String>,
}

impl Deferral {
    /// Makes the files and watches them. On the hooks thread.
    pub(super) fn create(who: &'static str, watcher: &Arc<Watcher>) -> io::Result<Self> {
        let dir = watcher.dir();
        let files = Files {
            who,
            control: dir.file("auth-control", b"")?,
            pending: dir.file("auth-pending", b"")?,
            reason: dir.file("auth-reason", b"")?,
        };
        let paths =
            [&files.control, &files.pending, &files.reason].map(|file| file.path().display().to_string());
        let watched = watcher.watch([&files.control, &files.pending]);
        let (events, receiver) = mpsc::channel(EVENTS);
        let (looks, requests) = mpsc::channel(1);
        let state = Watching { files, events, asked: false, verdict: None, unfinished: 0 };
        tokio::spawn(state.serve(watched, requests));
        Ok(Self { paths, events: receiver, looks, over: false, place: None })
    }

    pub(super) fn with_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Tells an authenticator where to write: `auth_control_file`, `auth_pending_file`, `auth_failed_reason_file`.
    pub fn export(&self, env: &mut Env) {
        for (name, path) in VARIABLES.into_iter().zip(&self.paths) {
            env.set(name, path.as_str());
        }
    }

    /// What it all means once the authenticator has returned. Signals that contradict each other are a no: success together
    /// with a written refusal, or a deferral with half a pending file.
    pub async fn conclude(self, returned: Returned) -> AuthAnswer {
        let Some(seen) = self.look(true).await else {
            return AuthAnswer::NoAnswer;
        };
        match returned {
            Returned::Error => AuthAnswer::Deny { reason: seen.reason },
            Returned::Success if seen.refused => {
                warn!("an authenticator returned success and wrote a refusal: the login is refused");
                AuthAnswer::Deny { reason: seen.reason }
            }
            Returned::Success => AuthAnswer::Allow,
            Returned::Deferred if seen.incomplete => {
                warn!("auth_pending_file has fewer than three lines: the login is refused");
                AuthAnswer::Deny { reason: seen.reason }
            }
            Returned::Deferred => AuthAnswer::Deferred(self),
        }
    }

    /// Waits for what the authenticator says next; for ever, if need be: the time limit is the login's. Whoever stops waiting
    /// loses nothing.
    pub async fn next(&mut self) -> DeferredEvent {
        if self.over {
            return DeferredEvent::NoAnswer;
        }
        let event = self.events.recv().await.unwrap_or(DeferredEvent::NoAnswer);
        self.over = !matches!(event, DeferredEvent::Pending(_));
        if let (DeferredEvent::Deny { .. }, Some(place)) = (&event, &self.place) {
            place.stay.failed(false);
        }
        event
    }

    /// What is in `auth_failed_reason_file` now: one printable line of at most 900 bytes.
    pub async fn reason(&self) -> Option<String> {
        self.look(false).await?.reason
    }

    /// `None` if the gateway stops.
    async fn look(&self, concluded: bool) -> Option<Seen> {
        let (reply, seen) = oneshot::channel();
        self.looks.send(Look { concluded, reply }).await.ok()?;
        seen.await.ok()
    }
}

/// No deferral could be made: there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeferralError {
    /// The table is full.
    #[error("too many logins wait for an answer already")]
    Full,
    /// No files could be made.
    #[error("no files for a deferred answer: {0}")]
    Files(#[from] io::Error),
    /// The gateway stops.
    #[error("no hooks are run any more")]
    Stopped,
}

impl DeferralError {
    /// What it means for a login.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        Answer::NoAnswer
    }
}

struct Files {
    who: &'static str,
    control: HookFile,
    pending: HookFile,
    reason: HookFile,
}

/// The end of a deferral on the hooks thread.
struct Watching {
    files: Files,
    events: mpsc::Sender<DeferredEvent>,
    /// The client is asked for more already.
    asked: bool,
    /// There is a verdict, and whether it is yes.
    verdict: Option<bool>,
    /// How much was in a pending file at the last re-check whose last line had no end.
    unfinished: u64,
}

impl Watching {
    /// Until the login has what it wants, or is gone. The files go with this.
    async fn serve(mut self, watched: Watched, mut looks: mpsc::Receiver<Look>) {
        loop {
            tokio::select! {
                wake = watched.wake(), if self.verdict.is_none() => {
                    self.check(wake);
                }
                look = looks.recv() => {
                    // The deferral was dropped.
                    let Some(Look { concluded, reply }) = look else { return };
                    let incomplete = concluded && self.is_incomplete();
                    let (refused, reason) = (self.verdict == Some(false), read_reason(&self.files.reason));
                    let _ = reply.send(Seen { refused, incomplete, reason });
                }
            }
        }
    }

    /// Looks at the files.
    fn check(&mut self, wake: Wake) {
        self.check_control();
        if self.verdict.is_some() || self.asked {
            return;
        }
        // Who keeps the file open may still be at the last line: it is taken when it has not grown for a while.
        let whole = wake == Wake::Changed || {
            let length = self.files.pending.length();
            std::mem::replace(&mut self.unfinished, length) == length
        };
        match Pending::read(&self.files.pending, whole) {
            Pending::Empty | Pending::Incomplete => {}
            Pending::Ready(auth) => {
                self.asked = true;
                self.say(DeferredEvent::Pending(auth));
            }
            Pending::Malformed(why) => self.malformed("auth_pending_file", &why),
        }
    }

    fn check_control(&mut self) {
        if self.verdict.is_some() {
            return;
        }
        match Control::read(&self.files.control) {
            Control::Yes => self.decide(DeferredEvent::Allow),
            Control::No => self.decide(DeferredEvent::Deny { reason: read_reason(&self.files.reason) }),
            Control::Later => self.malformed("auth_control_file", "it says 2"),
            Control::Malformed(why) => self.malformed("auth_control_file", &why),
            Control::Unreadable(error) => {
                warn!(hook = self.files.who, "auth_control_file cannot be read now: {error}");
            }
            Control::Empty => {}
        }
    }

    /// The authenticator has returned, and what it wrote of the pending file has fewer than three lines. The last line may
    /// still be at work in the background, so that nothing is taken from it here.
    fn is_incomplete(&mut self) -> bool {
        self.check_control();
        let undecided = self.verdict.is_none() && !self.asked;
        undecided && Pending::read(&self.files.pending, true) == Pending::Incomplete
    }

    fn malformed(&mut self, file: &str, why: &str) {
        warn!(hook = self.files.who, "{file} is malformed ({why}): the login is refused");
        self.decide(DeferredEvent::Deny { reason: None });
    }

    fn decide(&mut self, event: DeferredEvent) {
        self.verdict = Some(event == DeferredEvent::Allow);
        self.say(event);
    }

    fn say(&self, event: DeferredEvent) {
        // There is room for all that is ever said; a login that is gone does not want to know.
        let _ = self.events.try_send(event);
    }
}
