//! All sessions of one shard: who a datagram belongs to, and what happens when it belongs to nobody.
//!
//! ```text
//!  datagram ─▶ (address, client session id) known? ─▶ session
//!                         │ no
//!                         ▼
//!                       gate ─▶ drop │ stateless reply │ new session
//! ```
//!
//! Sessions are found by address *and* session id: a reset that somebody sends from the address of a live session opens
//! another one at best, and disturbs nothing. The contract is that of a session ([`crate::session`]): drain
//! transmits and events after every call.

mod cookie;
mod gate;
mod limiter;

pub use cookie::CookieKey;
pub use gate::{Drop, PerClient, Protections};
pub use limiter::ReplyRate;

use crate::rng::{self, Rng};
use crate::session::{Event, Opening, ServerSession, SessionParams};
use crate::time::{Instant, Now};
use crate::wrap::{Datagram, WrapError, split_wkc};
use core::net::SocketAddr;
use gate::{Admission, Admitted, Gate};
use limiter::Limiter;
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tessera_wire::SessionId;
use tessera_wire::control::Header;

/// Sessions that were opened without a cookie and have not logged in: each costs state for one spoofed packet.
const MAX_NONCOOKIE: usize = 256;

/// Names one session of an endpoint for its whole life; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

impl Handle {
    /// Its number, for names of sessions outside.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Everything that an endpoint is told at its start.
pub struct EndpointConfig {
    /// Numbers of every session.
    pub params: Arc<SessionParams>,
    /// Certificates; see [`Endpoint::set_tls`].
    pub tls: Arc<ServerConfig>,
    /// Control-channel protection.
    pub protections: Protections,
    /// The process's cookie key.
    pub cookies: CookieKey,
    /// Answers to unproven addresses.
    pub reply_rate: ReplyRate,
    /// Sessions that have not logged in; the oldest makes room.
    pub max_half_open: usize,
    /// Hold sessions with tls-crypt-v2 keys until [`ServerSession::client_key_verdict`].
    pub verify_client_keys: bool,
    /// Makes the generators of sessions.
    pub rng: Box<dyn FnMut() -> Box<dyn Rng> + Send>,
}

impl core::fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EndpointConfig").field("params", &self.params).finish_non_exhaustive()
    }
}

/// What became of a datagram.
#[derive(Debug)]
pub enum Handled {
    /// Nothing; counted by reason.
    Dropped(Drop),
    /// Send this back to where it came from, now or never.
    Reply(Vec<u8>),
    /// A session took it.
    Session(Handle),
}

#[derive(Debug)]
struct Entry {
    session: ServerSession,
    remote: SocketAddr,
    client: SessionId,
    by_cookie: bool,
    deadline: Option<Instant>,
    half_open: bool,
}

/// The sessions of one shard.
#[derive(Debug)]
pub struct Endpoint {
    config: EndpointConfig,
    gate: Gate,
    limiter: Limiter,
    next_handle: u64,
    /// In boxes: a session is large, and the tree moves its entries about.
    sessions: BTreeMap<Handle, Box<Entry>>,
    by_address: HashMap<(SocketAddr, SessionId), Handle>,
    deadlines: BTreeSet<(Instant, Handle)>,
    /// Sessions that have not logged in, oldest first.
    half_open: BTreeSet<Handle>,
    /// Sessions with transmits or events that were not drained.
    ready: VecDeque<Handle>,
    /// Sessions that were forgotten, until the owner asked.
    removed: VecDeque<Handle>,
}

impl Endpoint {
    /// An endpoint without sessions.
    pub fn new(mut config: EndpointConfig) -> Self {
        let gate = Gate { cookies: config.cookies.clone(), protections: config.protections.clone() };
        let limiter = Limiter::new(rng::bytes((config.rng)().as_mut()), config.reply_rate);
        Self {
            config,
            gate,
            limiter,
            next_handle: 0,
            sessions: BTreeMap::new(),
            by_address: HashMap::new(),
            deadlines: BTreeSet::new(),
            half_open: BTreeSet::new(),
            ready: VecDeque::new(),
            removed: VecDeque::new(),
        }
    }

    /// Uses `tls` for sessions and renegotiations to come.
    pub fn set_tls(&mut self, tls: Arc<ServerConfig>) {
        for entry in self.sessions.values_mut() {
            entry.session.set_tls(Arc::clone(&tls));
        }
        self.config.tls = tls;
    }

    /// How many sessions there are, and how many of them have not logged in.
    pub fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.half_open.len())
    }

    /// Takes a control datagram in.
    pub fn handle_datagram(&mut self, bytes: &[u8], from: SocketAddr, now: Now) -> Handled {
        let Ok((header, _)) = Header::parse(bytes) else {
            return Handled::Dropped(Drop::BadPacket);
        };
        if let Some(handle) = self.by_address.get(&(from, header.session_id)).copied() {
            // A repeated WKc is stripped and never unwrapped again.
            let packet =
                if header.op.opcode.carries_wkc() { split_wkc(bytes).map(|(p, _)| p) } else { Ok(bytes) };
            let Ok(packet) = packet else {
                return Handled::Dropped(Drop::BadPacket);
            };
            return match self.with(handle, |session| session.handle_datagram(Datagram(packet), now)) {
                Some(Ok(())) => Handled::Session(handle),
                Some(Err(_)) | None => Handled::Dropped(Drop::Session),
            };
        }
        match self.gate.judge(bytes, from, now) {
            Admission::Drop(reason) => Handled::Dropped(reason),
            Admission::Reply(_) if !self.limiter.allow(now.mono, from) => Handled::Dropped(Drop::RateLimited),
            Admission::Reply(reply) => Handled::Reply(reply),
            Admission::Admit(admitted) => self.open(*admitted, from, now),
        }
    }

    /// Acts on every session whose time has come.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, handle)) = self.deadlines.first().copied() {
            if at > now.mono {
                break;
            }
            self.deadlines.pop_first();
            if let Some(entry) = self.sessions.get_mut(&handle) {
                entry.deadline = None;
            }
            self.with(handle, |session| session.handle_timeout(now));
        }
    }

    /// Runs a command on a session; `None` when it is gone.
    pub fn with<R>(&mut self, handle: Handle, command: impl FnOnce(&mut ServerSession) -> R) -> Option<R> {
        let entry = self.sessions.get_mut(&handle)?;
        let result = command(&mut entry.session);
        self.ready.push_back(handle);
        Some(result)
    }

    /// Every live session; commands for all of them go through [`Endpoint::with`].
    pub fn handles(&self) -> Vec<Handle> {
        self.sessions.keys().copied().collect()
    }

    /// Where a session's packets go.
    pub fn remote(&self, handle: Handle) -> Option<SocketAddr> {
        self.sessions.get(&handle).map(|entry| entry.remote)
    }

    /// Moves a session to the address that its data packets come from now.
    pub fn set_remote(&mut self, handle: Handle, remote: SocketAddr) {
        let Some(entry) = self.sessions.get_mut(&handle) else {
            return;
        };
        self.by_address.remove(&(entry.remote, entry.client));
        entry.remote = remote;
        self.by_address.insert((remote, entry.client), handle);
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<(Handle, SocketAddr, Vec<u8>)> {
        for handle in &self.ready {
            if let Some(entry) = self.sessions.get_mut(handle)
                && let Some(bytes) = entry.session.poll_transmit()
            {
                return Some((*handle, entry.remote, bytes));
            }
        }
        None
    }

    /// The next thing to act on. Poll this *before* transmits: a key must be installed before the push that makes the
    /// client use it is sent.
    pub fn poll_event(&mut self) -> Option<(Handle, Event)> {
        for handle in &self.ready {
            if let Some(entry) = self.sessions.get_mut(handle)
                && let Some(event) = entry.session.poll_event()
            {
                return Some((*handle, event));
            }
        }
        None
    }

    /// The next session that [`Endpoint::poll_timeout`] has forgotten: what the owner keeps by its handle can go.
    pub fn poll_removed(&mut self) -> Option<Handle> {
        self.removed.pop_front()
    }

    /// Ends a turn, once transmits and events are drained: closed sessions are forgotten, deadlines renewed. Gives the
    /// next deadline and what it is for.
    pub fn poll_timeout(&mut self) -> Option<(Instant, &'static str)> {
        while let Some(handle) = self.ready.pop_front() {
            self.settle(handle);
        }
        let (at, handle) = self.deadlines.first().copied()?;
        let reason = self.sessions.get(&handle).and_then(|entry| entry.session.poll_timeout());
        Some((at, reason.map_or("session", |(_, reason)| reason)))
    }

    fn settle(&mut self, handle: Handle) {
        let Some(entry) = self.sessions.get_mut(&handle) else {
            return;
        };
        if let Some(old) = entry.deadline.take() {
            self.deadlines.remove(&(old, handle));
        }
        if entry.session.is_closed() {
            let (remote, client) = (entry.remote, entry.client);
            self.sessions.remove(&handle);
            self.half_open.remove(&handle);
            self.removed.push_back(handle);
            // Another session may have taken the place since.
            if self.by_address.get(&(remote, client)) == Some(&handle) {
                self.by_address.remove(&(remote, client));
            }
            return;
        }
        if entry.half_open && entry.session.is_authenticated() {
            entry.half_open = false;
            self.half_open.remove(&handle);
        }
        if let Some((at, _)) = entry.session.poll_timeout() {
            entry.deadline = Some(at);
            self.deadlines.insert((at, handle));
        }
    }

    fn open(&mut self, admitted: Admitted, from: SocketAddr, now: Now) -> Handled {
        let by_cookie = admitted.cookie.is_some();
        if !by_cookie {
            let noncookie = |h: &Handle| self.sessions.get(h).is_some_and(|entry| !entry.by_cookie);
            if self.half_open.iter().filter(|h| noncookie(h)).count() >= MAX_NONCOOKIE {
                return Handled::Dropped(Drop::TooManyHalfOpen);
            }
        }
        if self.half_open.len() >= self.config.max_half_open
            && let Some(oldest) = self.half_open.pop_first()
            && let Some(entry) = self.sessions.get_mut(&oldest)
        {
            let text = "made room for a newer session";
            entry.session.close(crate::session::Close::Silent(text), now);
            self.ready.push_back(oldest);
        }
        let mut rng = (self.config.rng)();
        let hold =
            (self.config.verify_client_keys && admitted.metadata.is_some()).then(|| admitted.packet.clone());
        let held = hold.is_some();
        let opening = Opening {
            local: admitted.cookie.unwrap_or_else(|| SessionId(rng::bytes(rng.as_mut()))),
            remote: admitted.client,
            protection: admitted.protection,
            by_cookie,
            hold,
        };
        let (params, tls) = (Arc::clone(&self.config.params), Arc::clone(&self.config.tls));
        let Ok(mut session) = ServerSession::new(params, tls, rng, opening, now) else {
            return Handled::Dropped(Drop::TlsUnusable);
        };
        let handle = Handle(self.next_handle);
        self.next_handle = self.next_handle.wrapping_add(1);
        if held {
            session.announce_client_key(admitted.metadata);
        } else {
            let _: Result<(), WrapError> = session.handle_datagram(Datagram(&admitted.packet), now);
        }
        let entry = Entry {
            session,
            remote: from,
            client: admitted.client,
            by_cookie,
            deadline: None,
            half_open: true,
        };
        self.sessions.insert(handle, Box::new(entry));
        self.by_address.insert((from, admitted.client), handle);
        self.half_open.insert(handle);
        self.ready.push_back(handle);
        Handled::Session(handle)
    }
}
