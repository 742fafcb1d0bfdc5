//! The loop: begins logins as planned, brings datagrams to sessions and back, counts what comes of them.

use crate::clock;
use crate::plan::{Next, Plan, Schedule, Start};
use crate::report::{Gathered, Report};
use crate::session::{Happened, Session};
use crate::sockets::{SocketPool, Taken};
use crate::timers::Timers;
use ring::rand::SecureRandom;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::peer_info::iv_proto;
use tessera_proto::session::{ClientConfig, Credentials, Protection, SessionParams};
use tessera_proto::wrap::WrapKey;
use tessera_proto::{Instant, Rng, TlsError};

/// Logins that begin before sockets are looked at again: those under way go on meanwhile.
const STARTS_PER_TURN: usize = 8;
/// Datagrams taken from one socket in a row; what is left makes the socket ready again.
const DATAGRAMS_PER_TURN: usize = 8;
/// No control datagram of OpenVPN is larger (`max-packet-size` ends at 2048).
const MAX_DATAGRAM: usize = 2048;
/// The loop looks around this often even when nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// Who is logged in to, and with what.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server's address.
    pub server: SocketAddr,
    /// CA, certificate and key; see [`crate::tls::client_config`].
    pub tls: Arc<rustls::ClientConfig>,
    /// Empty: the certificate alone.
    pub credentials: Credentials,
    /// Time until PUSH_REPLY; later it is a failure.
    pub limit: Duration,
}

/// Why a run had to be broken off. A login that fails is none of these.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No epoll, no socket.
    #[error("sockets: {0}")]
    Io(#[from] io::Error),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A login under way: the plan's part and the protocol's.
#[derive(Debug)]
struct Active {
    start: Start,
    session: Session,
}

/// A run.
#[derive(Debug)]
pub struct Engine {
    client: ClientConfig,
    limit: Duration,
    pool: SocketPool,
    timers: Timers,
    /// By socket.
    active: Vec<Option<Active>>,
    schedule: Schedule,
    started: Instant,
    last_login: Instant,
    /// When nothing more was begun, and how many logins had come through by then.
    steady: Option<(Instant, u64)>,
    /// Sessions that are there, those that say goodbye included.
    sessions: usize,
    gathered: Gathered,
}

impl Target {
    /// How each client connects.
    #[must_use]
    pub fn into_client_config(self) -> ClientConfig {
        let params = SessionParams {
            handshake_window: self.limit,
            renegotiate_after: None,
            ..SessionParams::default()
        };
        ClientConfig {
            params: Arc::new(params),
            tls: self.tls,
            // The verifier does not look at it, and IP addresses make no SNI.
            server_name: rustls::pki_types::ServerName::from(self.server.ip()),
            protection: Protection { key: Arc::new(WrapKey::None), source: None },
            wkc: None,
            credentials: self.credentials,
            // As OpenVPN 2.6 announces it, without what only concerns data.
            iv_proto: iv_proto::DATA_V2
                | iv_proto::REQUEST_PUSH
                | iv_proto::TLS_KEY_EXPORT
                | iv_proto::CC_EXIT_NOTIFY
                | iv_proto::AUTH_FAIL_TEMP
                | iv_proto::DYN_TLS_CRYPT,
            peer_info: String::new(),
        }
    }
}

impl Engine {
    /// Prepares a run.
    ///
    /// # Errors
    /// When there is no epoll.
    pub fn new(target: Target, plan: Plan) -> Result<Self, LoadError> {
        let now = clock::read().mono;
        let (limit, server) = (target.limit, target.server);
        Ok(Self {
            client: target.into_client_config(),
            limit,
            pool: SocketPool::new(server)?,
            timers: Timers::default(),
            active: Vec::new(),
            schedule: Schedule::new(plan, now),
            started: now,
            last_login: now,
            steady: None,
            sessions: 0,
            gathered: Gathered::default(),
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When the system gives no sockets, or TLS cannot be set up.
    pub fn run(mut self) -> Result<Report, LoadError> {
        let (mut ready, mut buf) = (Vec::new(), vec![0; MAX_DATAGRAM]);
        let cpu = clock::cpu();
        loop {
            let wake = self.begin()?;
            if wake.is_none() && self.sessions == 0 {
                break;
            }
            let wake = wake.into_iter().chain(self.timers.next()).min();
            let now = clock::read().mono;
            let timeout = wake.map_or(IDLE, |at| at.saturating_since(now).min(IDLE));
            self.pool.wait(timeout, &mut ready)?;
            for slot in ready.drain(..) {
                self.receive(slot, &mut buf);
            }
            while let Some(slot) = self.timers.expire(clock::read().mono) {
                self.drive(slot, |session| session.timeout(clock::read()));
            }
        }
        let since_start = |at: Instant| at.saturating_since(self.started);
        let elapsed = since_start(self.last_login);
        let steady = self.steady.map_or((elapsed, self.gathered.logins()), |(at, n)| (since_start(at), n));
        Ok(self.gathered.report(elapsed, steady, clock::cpu().saturating_sub(cpu)))
    }

    /// Begins what is due; gives the time of the next turn, `None` when nothing more is begun.
    fn begin(&mut self) -> Result<Option<Instant>, LoadError> {
        for _ in 0..STARTS_PER_TURN {
            let now = clock::read();
            let slot = match self.pool.take(now.mono)? {
                Taken::Socket(slot) => slot,
                Taken::Wait(at) => {
                    self.gathered.port_waits = self.gathered.port_waits.saturating_add(1);
                    return Ok(Some(at.unwrap_or(now.mono + IDLE)));
                }
            };
            let start = match self.schedule.next(now.mono) {
                Next::Begin(start) => start,
                other => {
                    self.pool.untouched(slot);
                    return Ok(match other {
                        Next::At(at) => Some(at),
                        Next::Wait | Next::Begin(_) => Some(now.mono + IDLE),
                        Next::Finished => {
                            let so_far = self.gathered.logins();
                            self.steady.get_or_insert((now.mono, so_far));
                            None
                        }
                    });
                }
            };
            self.gathered.lag.record(start.lag);
            let mut config = self.client.clone();
            if let Some(token) = &start.token {
                config.credentials = token.clone();
            }
            let session = Session::start(config, Box::new(SystemRng::default()), self.limit, now)?;
            if self.active.len() <= slot {
                self.active.resize_with(slot.saturating_add(1), || None);
            }
            if let Some(place) = self.active.get_mut(slot) {
                *place = Some(Active { start, session });
                self.sessions = self.sessions.saturating_add(1);
            }
            self.drive(slot, |_| ());
        }
        // There may be more to begin: only look at the sockets.
        Ok(Some(clock::read().mono))
    }

    fn receive(&mut self, slot: usize, buf: &mut [u8]) {
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.pool.receive(slot, buf) {
                Ok(len) => {
                    let bytes = buf.get(..len).unwrap_or_default();
                    self.drive(slot, |session| session.receive(bytes, clock::read()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier send met ("port unreachable"): the reliable layer goes on.
                Err(_) => {}
            }
        }
    }

    /// Lets a session act, and does what it asks for.
    fn drive(&mut self, slot: usize, act: impl FnOnce(&mut Session)) {
        let Some(place) = self.active.get_mut(slot) else { return };
        // A port without a session: strays.
        let Some(active) = place else { return };
        act(&mut active.session);
        let now = clock::read();
        let mut over = false;
        while let Some(happened) = active.session.poll(now) {
            match happened {
                Happened::Connected { latency, token } => {
                    self.last_login = now.mono;
                    connected(&mut self.gathered, &mut self.schedule, &active.start, latency, token);
                }
                Happened::Failed(why) => {
                    self.last_login = now.mono;
                    self.schedule.failed();
                    let with = if active.start.token.is_some() { "with a token: " } else { "" };
                    self.gathered.fail(&format!("{with}{why}"));
                    over = true;
                }
                Happened::Over(acknowledged) => {
                    let unanswered = &mut self.gathered.goodbyes_unanswered;
                    *unanswered = unanswered.saturating_add(u64::from(!acknowledged));
                    over = true;
                }
            }
        }
        while let Some(packet) = active.session.transmit() {
            if self.pool.send(slot, &packet).is_err() {
                self.gathered.unsent = self.gathered.unsent.saturating_add(1);
            }
        }
        self.timers.set(slot, active.session.deadline());
        if over {
            *place = None;
            self.timers.set(slot, None);
            self.sessions = self.sessions.saturating_sub(1);
            self.pool.give_back(slot, now.mono);
        }
    }
}

/// Counts a login that came through. Without a token it is a failure: the token is what the server was to push. A login
/// with a token may keep the one that it has.
fn connected(
    gathered: &mut Gathered,
    schedule: &mut Schedule,
    start: &Start,
    latency: Duration,
    pushed: Option<Credentials>,
) {
    match (&start.token, pushed) {
        (None, None) => {
            schedule.failed();
            gathered.fail("no auth-token in PUSH_REPLY");
        }
        (None, Some(token)) => {
            schedule.succeeded(start.left, Some(token));
            gathered.password.record(latency);
            gathered.password_logins = gathered.password_logins.saturating_add(1);
        }
        (Some(old), pushed) => {
            schedule.succeeded(start.left, Some(pushed.unwrap_or_else(|| old.clone())));
            gathered.token.record(latency);
            gathered.token_logins = gathered.token_logins.saturating_add(1);
        }
    }
}

/// The operating system's randomness.
#[derive(Debug)]
pub(crate) struct SystemRng(ring::rand::SystemRandom);

impl Default for SystemRng {
    fn default() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        if self.0.fill(out).is_err() {
            // No key would be worth anything.
            std::process::abort();
        }
    }
}
