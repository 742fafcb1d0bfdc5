//! The decision about a login, on a thread of the pool.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tessera_proto::{Instant, Now, Secret};
use tracing::{info, warn};

use super::challenge::{Challenges, Fingerprint};
use super::file::{User, Users};
use super::hash::Hasher;
use super::ledger::OtpLedger;
use super::lockout::Lockout;
use super::otp::{CodeVerdict, Digits};
use super::prompts::{Presented, dynamic_challenge};
use super::store::Store;

/// Wrong answers to a question within the session. Beyond it the client must begin again with its password.
const TRIES: u8 = 3;

/// A login that is to be decided.
#[derive(Debug)]
pub struct Request {
    /// The user name as the client sent it.
    pub user: String,
    /// The password field as the client sent it.
    pub password: Secret<String>,
    /// The client's proven address.
    pub source: IpAddr,
    /// SHA-256 of the client's certificate. A challenge is answered only with the same.
    pub certificate: Option<[u8; 32]>,
    /// The client can be asked within the session (`IV_SSO=crtext`).
    pub crtext: bool,
    /// When the client asked: its lockout by the monotonic clock, its one-time code by the wall clock.
    pub now: Now,
}

/// What becomes of a login.
#[derive(Debug)]
pub enum Decision {
    /// Password and second factor are right.
    Allow,
    /// Something is wrong. The client is not told what.
    Deny,
    /// Too many wrong attempts. The client is told what [`Self::Deny`] says.
    Locked,
    /// The password is right, a code is missing, and the client must come back with it.
    Challenge {
        /// What follows `AUTH_FAILED,`.
        text: Secret<String>,
    },
    /// The password is right, a code is missing, and the client can be asked now.
    AskInSession {
        /// The question.
        prompt: String,
        /// To be given back with the answer.
        pending: Pending,
    },
    /// There is no decision. Not the client's fault: it should come back, and keeps its token.
    NoAnswer,
}

/// A login that waits for an answer within its session. Belongs to that session alone.
#[derive(Debug)]
pub struct Pending {
    /// The account as it was.
    user: Arc<User>,
    source: IpAddr,
    tries: u8,
    ends: Instant,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Stats {
    /// Logins that were let in.
    pub allowed: AtomicU64,
    /// Logins that were refused, those that were locked not counted.
    pub denied: AtomicU64,
    /// Logins that were refused by a lockout, without a look at the password.
    pub locked: AtomicU64,
    /// Dynamic challenges.
    pub challenged: AtomicU64,
    /// Questions within the session.
    pub asked: AtomicU64,
    /// Logins without an answer.
    pub no_answer: AtomicU64,
    /// Locks that began.
    pub locks: AtomicU64,
    /// Codes that were right and used already.
    pub replayed: AtomicU64,
    /// Password hashes that were computed.
    pub hashes: AtomicU64,
}

/// What all threads share.
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) ledger: Arc<dyn OtpLedger>,
    pub(super) lockout: Lockout,
    pub(super) challenges: Challenges,
    pub(super) prompt: String,
    /// How long a question within the session may be answered.
    pub(super) lifetime: Duration,
    pub(super) stats: Stats,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("store", &self.store)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// One way to read a presented text: as a password, and the code that came with it.
struct Reading<'a> {
    password: &'a [u8],
    code: Code<'a>,
    /// This is the user's password.
    right: bool,
}

#[derive(Clone, Copy)]
enum Code<'a> {
    /// None came with it.
    Missing,
    /// The last digits of the text.
    Appended(Digits, &'a str),
    /// An answer of its own.
    Given(&'a str),
}

impl Inner {
    /// The answer for a user who is locked out; costs no hash.
    pub(super) fn refuse_locked(&self, user: &str, source: IpAddr, now: Now) -> Option<Decision> {
        let left = self.lockout.locked(user, source, now.mono)?;
        count(&self.stats.locked);
        info!(%source, seconds = left.as_secs(), "login refused: locked out after wrong passwords");
        Some(Decision::Locked)
    }

    /// Counts what the pool could not answer.
    pub(super) fn answered(&self, decided: Option<Decision>) -> Decision {
        let decision = decided.unwrap_or(Decision::NoAnswer);
        if matches!(decision, Decision::NoAnswer) {
            count(&self.stats.no_answer);
            warn!("login not decided: too many are waiting, or random numbers are missing");
        }
        decision
    }

    /// Judges a password field.
    pub(super) fn verify(&self, hasher: &mut Hasher, request: &Request) -> Decision {
        // Again: other attempts may have failed while this one waited.
        if let Some(locked) = self.refuse_locked(&request.user, request.source, request.now) {
            return locked;
        }
        let users = self.store.users();
        match &Presented::parse(&request.password) {
            Presented::Malformed => {
                info!(source = %request.source, "login refused: the answer to a challenge cannot be read");
                self.failed(&request.user, request.source, request.now)
            }
            Presented::Dynamic { state, response } => self.redeem(&users, request, state, response.expose()),
            Presented::Static { password, response } => {
                let password = password.expose().as_bytes();
                let code = match response.expose().trim() {
                    "" => Code::Missing,
                    response => Code::Given(response),
                };
                self.judge(hasher, &users, request, vec![Reading { password, code, right: false }])
            }
            Presented::Plain(text) => {
                let text = text.expose().as_str();
                let whole = Reading { password: text.as_bytes(), code: Code::Missing, right: false };
                // Which readings there are depends on the text and on the file, not on this user.
                let shorter = users.digits.iter().filter_map(|digits| split_code(text, *digits));
                self.judge(hasher, &users, request, std::iter::once(whole).chain(shorter).collect())
            }
        }
    }

    /// Computes what must be computed for every user alike, and then decides.
    fn judge(
        &self,
        hasher: &mut Hasher,
        users: &Users,
        request: &Request,
        mut readings: Vec<Reading<'_>>,
    ) -> Decision {
        let user = users.find(&request.user);
        for reading in &mut readings {
            for nobody in &users.nobody {
                let own = user.map(|user| &user.hash).filter(|hash| hash.cost() == nobody.cost());
                reading.right |= hasher.verify(reading.password, own.unwrap_or(nobody));
                count(&self.stats.hashes);
            }
        }
        let Some(user) = user else {
            info!(source = %request.source, "login refused: unknown user");
            return self.failed(&request.user, request.source, request.now);
        };
        let refuse = |why: &str| {
            info!(user = user.name, source = %request.source, "login refused: {why}");
            self.failed(&request.user, request.source, request.now)
        };
        let mut right = readings.iter().filter(|reading| reading.right);
        if user.disabled {
            return refuse("the user is disabled");
        }
        let Some(otp) = &user.otp else {
            // Without a second factor there is no code behind a password; the answer to a client's own question is not
            // looked at.
            return match right.find(|reading| !matches!(reading.code, Code::Appended(..))) {
                Some(_) => self.allow(&user.name, request.source),
                None => refuse("wrong password"),
            };
        };
        let own = |reading: &&Reading<'_>| match reading.code {
            Code::Appended(digits, _) => digits == otp.digits,
            Code::Missing | Code::Given(_) => true,
        };
        match right.find(own).map(|reading| reading.code) {
            None => refuse("wrong password"),
            Some(Code::Missing) => self.ask(user, request),
            Some(Code::Appended(_, code) | Code::Given(code)) => {
                if self.code_is_right(user, code, request.source, request.now) {
                    self.allow(&user.name, request.source)
                } else {
                    self.failed(&request.user, request.source, request.now)
                }
            }
        }
    }

    /// The answer to a dynamic challenge.
    fn redeem(&self, users: &Users, request: &Request, state: &Secret<String>, response: &str) -> Decision {
        let (name, now) = (&request.user, request.now);
        let certificate: Option<&Fingerprint> = request.certificate.as_ref();
        let Some(user) = self.challenges.redeem(name, certificate, state.expose(), now.mono) else {
            // Not a guess at a password, and none at 128 random bits either: nobody is locked out for being slow.
            info!(source = %request.source, "login refused: no such challenge, or it is too old");
            count(&self.stats.denied);
            return Decision::Deny;
        };
        if !is_current(users, &user) {
            info!(user = user.name, source = %request.source, "login refused: the account has changed");
            count(&self.stats.denied);
            return Decision::Deny;
        }
        if self.code_is_right(&user, response, request.source, now) {
            self.allow(name, request.source)
        } else {
            self.failed(name, request.source, now)
        }
    }

    /// The answer to a question within the session.
    pub(super) fn verify_response(&self, pending: Pending, response: &Secret<String>, now: Now) -> Decision {
        let Pending { user, source, tries, ends } = pending;
        if let Some(locked) = self.refuse_locked(&user.name, source, now) {
            return locked;
        }
        if ends <= now.mono || !is_current(&self.store.users(), &user) {
            info!(user = user.name, %source, "login refused: the answer is too late, or the account has changed");
            count(&self.stats.denied);
            return Decision::Deny;
        }
        if self.code_is_right(&user, response.expose(), source, now) {
            return self.allow(&user.name, source);
        }
        let denied = self.failed(&user.name, source, now);
        if tries <= 1 || self.lockout.locked(&user.name, source, now.mono).is_some() {
            return denied;
        }
        count(&self.stats.asked);
        let pending = Pending { user, source, tries: tries - 1, ends };
        Decision::AskInSession { prompt: self.prompt.clone(), pending }
    }

    /// The password is right: asks for the code in the way that the client knows.
    fn ask(&self, user: &Arc<User>, request: &Request) -> Decision {
        if request.crtext {
            count(&self.stats.asked);
            let ends = request.now.mono + self.lifetime;
            let pending = Pending { user: Arc::clone(user), source: request.source, tries: TRIES, ends };
            return Decision::AskInSession { prompt: self.prompt.clone(), pending };
        }
        match self.challenges.issue(user, request.certificate, request.now.mono) {
            Ok(state) => {
                count(&self.stats.challenged);
                let text = dynamic_challenge(state.expose(), &user.name, &self.prompt, true);
                Decision::Challenge { text }
            }
            Err(error) => {
                warn!("no challenge: {error}");
                Decision::NoAnswer
            }
        }
    }

    fn code_is_right(&self, user: &User, code: &str, source: IpAddr, now: Now) -> bool {
        // Challenges are only given to users who have a second factor.
        let Some(otp) = &user.otp else { return false };
        let why = match otp.judge(&user.name, code, now.wall.0, &*self.ledger) {
            CodeVerdict::Right => return true,
            CodeVerdict::Wrong => "wrong one-time code",
            CodeVerdict::Replayed => {
                count(&self.stats.replayed);
                "the one-time code was used already, or is older than one that was"
            }
        };
        info!(user = user.name, %source, "login refused: {why}");
        false
    }

    fn allow(&self, user: &str, source: IpAddr) -> Decision {
        self.lockout.succeeded(user, source);
        count(&self.stats.allowed);
        Decision::Allow
    }

    fn failed(&self, user: &str, source: IpAddr, now: Now) -> Decision {
        count(&self.stats.denied);
        if self.lockout.failed(user, source, now.mono) {
            count(&self.stats.locks);
            warn!(%source, "a user is locked out there after wrong passwords or codes");
        }
        Decision::Deny
    }
}

/// The account is still what it was when its password was right.
fn is_current(users: &Users, user: &User) -> bool {
    !user.disabled && users.find(&user.name).is_some_and(|current| **current == *user)
}

/// A text as password and code, if it ends with so many digits and has more than them.
fn split_code(text: &str, digits: Digits) -> Option<Reading<'_>> {
    let at = text.len().checked_sub(digits.count()).filter(|at| *at > 0)?;
    let (password, code) = (text.get(..at)?, text.get(at..)?);
    let password = password.as_bytes();
    code.bytes().all(|byte| byte.is_ascii_digit()).then_some(Reading {
        password,
        code: Code::Appended(digits, code),
        right: false,
    })
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
