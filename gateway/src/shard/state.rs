//! The state of a shard and everything that happens in it at once; what takes time is in [`super::login`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use ring::rand::SecureRandom;
use tessera_proto::Rng;
use tessera_proto::endpoint::{Drop as Dropped, Endpoint, EndpointConfig, Handle, Handled};
use tessera_proto::message::AuthFailure;
use tessera_proto::session::{AuthRequest, Close, CloseReason, Event};
use tessera_wire::{PeerId, data};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};

use super::backends::Backends;
use super::client::{Account, Client};
use super::login::LoginLink;
use super::renewal::{OwnTokens, Renewals};
use super::{Command, ShardSetup};
use crate::clock;
use crate::config::Config;
use crate::data::{DataHandle, FromWorker, PeerStats, ToWorker, Via};
use crate::directory::{Directory, MoveVerdict, SessionRef};
use crate::hooks::{Env, Hook};
use crate::net::{LocalAddr, Path, try_send_now};
use crate::pki::{CrlReload, ServerTls, explain};
use crate::tokens::{TokenGenerator, Vault};

/// Packets that wait for a control socket; what does not fit is retransmitted.
pub(super) const SEND_QUEUE: usize = 1024;

/// Tokens that are renewed in one turn.
const RENEWALS: usize = 64;

/// The operating system's randomness.
struct SystemRng(ring::rand::SystemRandom);

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        if self.0.fill(out).is_err() {
            // Without randomness every key would be guessable: there is nothing to go on with.
            std::process::abort();
        }
    }
}

/// A generator for one session.
pub(super) fn system_rng() -> Box<dyn Rng> {
    Box::new(SystemRng(ring::rand::SystemRandom::new()))
}

/// Shared by all tasks of a shard.
pub(super) type Shared = Rc<Shard>;

/// A shard: what never changes, and what does.
pub(super) struct Shard {
    pub(super) index: usize,
    pub(super) config: Arc<Config>,
    pub(super) directory: Arc<Directory>,
    pub(super) vault: Arc<Vault>,
    pub(super) generator: Option<Arc<TokenGenerator>>,
    pub(super) backends: Backends,
    pub(super) hooks: Hook,
    pub(super) base_env: Env,
    pub(super) data: DataHandle,
    pub(super) shards: Vec<mpsc::Sender<Command>>,
    /// Farewells under way.
    pub(super) leaving: std::cell::Cell<usize>,
    /// Wakes the timer when the next deadline is sooner than it was.
    pub(super) deadline_changed: Notify,
    pub(super) state: RefCell<State>,
}

/// How a session's control packets travel.
#[derive(Debug, Clone, Copy)]
struct Link {
    via: Via,
    local: LocalAddr,
    /// Bytes of control packets, for the client's totals.
    stats: PeerStats,
}

/// What changes.
pub(super) struct State {
    pub(super) endpoint: Endpoint,
    pub(super) tls: ServerTls,
    /// For cookie answers: sent from the stack, now or never.
    raw_sockets: Vec<std::net::UdpSocket>,
    /// For everything else over UDP, by listener.
    outgoing: Vec<mpsc::Sender<(Vec<u8>, Path)>>,
    /// Where each session's packets come in.
    links: HashMap<Handle, Link>,
    /// Sessions of TCP connections.
    streams: HashMap<Via, Handle>,
    /// Logged in, by session.
    pub(super) accounts: BTreeMap<Handle, Rc<Account>>,
    /// With addresses and a peer-id.
    pub(super) clients: BTreeMap<Handle, Box<Client>>,
    by_peer: HashMap<PeerId, Handle>,
    /// Sessions whose logins are under way: the login finds out here that its client has left.
    pub(super) logins: BTreeMap<Handle, LoginLink>,
    /// Generated tokens, by session.
    pub(super) renewals: Renewals<Handle>,
    /// Control packets that led to nothing, by reason.
    pub(super) drops: BTreeMap<Dropped, u64>,
    pub(super) next_deadline: Option<tessera_proto::Instant>,
    pub(super) stopping: bool,
}

impl State {
    /// Bytes of a session's control packets.
    pub(super) fn control_stats(&self, handle: Handle) -> PeerStats {
        self.links.get(&handle).map(|link| link.stats).unwrap_or_default()
    }
}

impl Shard {
    pub(super) fn new(
        setup: ShardSetup,
        raw_sockets: Vec<std::net::UdpSocket>,
        outgoing: Vec<mpsc::Sender<(Vec<u8>, Path)>>,
    ) -> Shared {
        let endpoint = Endpoint::new(EndpointConfig {
            params: setup.params,
            tls: setup.tls.server_config(),
            protections: setup.protections,
            cookies: setup.cookies,
            reply_rate: setup.reply_rate,
            max_half_open: setup.config.limits.max_half_open as usize,
            verify_client_keys: setup.config.hooks.tls_crypt_v2_verify.is_some(),
            rng: Box::new(system_rng),
        });
        let state = State {
            endpoint,
            tls: setup.tls,
            raw_sockets,
            outgoing,
            links: HashMap::new(),
            streams: HashMap::new(),
            accounts: BTreeMap::new(),
            clients: BTreeMap::new(),
            by_peer: HashMap::new(),
            logins: BTreeMap::new(),
            renewals: Renewals::default(),
            drops: BTreeMap::new(),
            next_deadline: None,
            stopping: false,
        };
        // Most gateways run nothing of others: then no login gathers what nobody reads.
        let base_env = if setup.config.hooks.is_empty() { Env::unread() } else { setup.base_env };
        Rc::new(Self {
            index: setup.index,
            config: setup.config,
            directory: setup.directory,
            vault: setup.vault,
            generator: setup.generator,
            backends: setup.backends,
            hooks: setup.hooks,
            base_env,
            data: setup.data,
            shards: setup.shards,
            leaving: std::cell::Cell::new(0),
            deadline_changed: Notify::new(),
            state: RefCell::new(state),
        })
    }

    /// This session's name outside the shard.
    pub(super) const fn session_ref(&self, handle: Handle) -> SessionRef {
        SessionRef { shard: self.index, handle }
    }

    /// A datagram from one of the shard's sockets, or one that a worker passed on.
    pub(super) fn on_datagram(self: &Rc<Self>, via: Via, path: Path, bytes: &[u8]) {
        if let (Some(id), Via::Udp(listener)) = (data::peer_id_of(bytes), via) {
            // The kernel did not steer it. The worker it belongs to counts it if there is nobody behind the id.
            let bytes = bytes.to_vec();
            return self.data.tell(id, ToWorker::Datagram { listener, path, bytes });
        }
        self.follow_revocations();
        let mut superseded = None;
        {
            let state = &mut *self.state.borrow_mut();
            if state.stopping && !state.links.values().any(|link| link.via == via) {
                return;
            }
            match state.endpoint.handle_datagram(bytes, path.remote, clock::read()) {
                Handled::Dropped(reason) => *state.drops.entry(reason).or_default() += 1,
                Handled::Reply(reply) => {
                    // A full socket drops it; the client asks again.
                    match via {
                        Via::Udp(listener) => {
                            if let Some(socket) = state.raw_sockets.get(listener).filter(|_| !state.stopping)
                            {
                                let _ = try_send_now(socket.as_fd(), &reply, &path);
                            }
                        }
                        Via::Stream { worker, id } => {
                            self.data.tell_worker(worker, ToWorker::StreamControl(id, reply));
                        }
                    }
                }
                Handled::Session(handle) => {
                    let fresh = Link { via, local: path.local, stats: PeerStats::default() };
                    let link = state.links.entry(handle).or_insert(fresh);
                    // A session over TCP stays with its connection.
                    if let (Via::Udp(_), Via::Udp(_)) = (link.via, via) {
                        (link.via, link.local) = (via, path.local);
                    }
                    link.stats.received += bytes.len() as u64;
                    if let Via::Stream { worker, id } = link.via {
                        match state.streams.insert(link.via, handle) {
                            None => self.data.tell_worker(worker, ToWorker::StreamEstablished(id)),
                            before => superseded = before.filter(|before| *before != handle),
                        }
                    }
                }
            }
        }
        self.settle();
        if let Some(before) = superseded {
            self.close(before, Close::Silent("its connection carries another session"));
        }
    }

    /// A deadline has come.
    pub(super) fn on_timeout(self: &Rc<Self>) {
        self.state.borrow_mut().endpoint.handle_timeout(clock::read());
        self.settle();
    }

    /// Runs a command on a session and acts on what follows from it.
    pub(super) fn with_session<R>(
        self: &Rc<Self>,
        handle: Handle,
        command: impl FnOnce(&mut tessera_proto::session::ServerSession) -> R,
    ) -> Option<R> {
        let result = self.state.borrow_mut().endpoint.with(handle, command);
        self.settle();
        result
    }

    /// Ends a session.
    pub(super) fn close(self: &Rc<Self>, handle: Handle, how: Close) {
        self.with_session(handle, |session| session.close(how, clock::read()));
    }

    /// Events first, then packets: keys are installed before the push that makes a client use them is sent.
    fn settle(self: &Rc<Self>) {
        loop {
            let next = self.state.borrow_mut().endpoint.poll_event();
            let Some((handle, event)) = next else { break };
            self.on_event(handle, event);
        }
        let state = &mut *self.state.borrow_mut();
        while let Some((handle, remote, bytes)) = state.endpoint.poll_transmit() {
            let Some(link) = state.links.get_mut(&handle) else {
                continue;
            };
            link.stats.sent += bytes.len() as u64;
            let path = Path { remote, local: link.local };
            match link.via {
                Via::Udp(listener) => {
                    if let Some(queue) = state.outgoing.get(listener) {
                        // Without room it is lost, as on the wire.
                        let _ = queue.try_send((bytes, path));
                    }
                }
                Via::Stream { worker, id } => {
                    self.data.tell_worker(worker, ToWorker::StreamControl(id, bytes));
                }
            }
        }
        let next = state.endpoint.poll_timeout().map(|(at, _)| at);
        while let Some(handle) = state.endpoint.poll_removed() {
            let Some(link) = state.links.remove(&handle) else { continue };
            if let Via::Stream { worker, id } = link.via
                && state.streams.get(&link.via) == Some(&handle)
            {
                // A connection is for one session; the next one dials again.
                state.streams.remove(&link.via);
                self.data.tell_worker(worker, ToWorker::CloseStream(id));
            }
        }
        // The timer sleeps on when the next deadline is later than the one it knows: it asks again when that has passed.
        let sooner = next.is_some_and(|at| state.next_deadline.is_none_or(|known| at < known));
        state.next_deadline = next;
        if sooner {
            self.deadline_changed.notify_one();
        }
    }

    fn on_event(self: &Rc<Self>, handle: Handle, event: Event) {
        match event {
            Event::ClientKey(metadata) => super::login::verify_client_key(self, handle, metadata),
            Event::AuthRequest(request) => self.on_auth_request(handle, *request),
            Event::InstallKey(key) => self.tell_worker(handle, |id| ToWorker::InstallKey(id, key)),
            Event::PromoteKey(key_id) => self.tell_worker(handle, |id| ToWorker::PromoteKey(id, key_id)),
            Event::RetireKey(key_id) => self.tell_worker(handle, |id| ToWorker::RetireKey(id, key_id)),
            Event::CrResponse(answer) => {
                if let Some(login) = self.state.borrow().logins.get(&handle) {
                    login.answer(answer);
                }
            }
            Event::UnknownMessage(name) => debug!(message = name, "control message that is not known"),
            Event::Closed(reason) => self.on_closed(handle, &reason),
        }
    }

    fn tell_worker(&self, handle: Handle, message: impl FnOnce(PeerId) -> ToWorker) {
        let id = self.state.borrow().clients.get(&handle).map(|client| client.peer.id);
        if let Some(id) = id {
            self.data.tell(id, message(id));
        }
    }

    fn on_auth_request(self: &Rc<Self>, handle: Handle, request: AuthRequest) {
        let Some(path) = self.path(handle) else { return };
        let (link, client) = super::login::link();
        self.state.borrow_mut().logins.insert(handle, link);
        let shard = Rc::clone(self);
        tokio::task::spawn_local(async move {
            super::login::login(&shard, handle, request, path, client).await;
        });
    }

    /// A session that had no user name has one from now on: who ends that user's sessions finds it.
    pub(super) fn adopt_username(&self, handle: Handle, username: &str) {
        let state = &mut *self.state.borrow_mut();
        let client = state.clients.get_mut(&handle).map(|client| &mut client.account);
        for account in state.accounts.get_mut(&handle).into_iter().chain(client) {
            Rc::make_mut(account).adopt_username(username);
        }
    }

    /// Notes which token a session holds, so that it is renewed in time.
    pub(super) fn hold_token(&self, handle: Handle, tokens: OwnTokens) {
        let Some(generator) = &self.generator else { return };
        let state = &mut *self.state.borrow_mut();
        // One that leaves has been forgotten already, and nothing would forget it again.
        if state.clients.get(&handle).is_some_and(|client| client.leaving.is_none()) {
            state.renewals.hold(handle, tokens, generator.renewal(), clock::read().mono);
        }
    }

    /// Gives a session its next token.
    pub(super) fn renew_token(self: &Rc<Self>, handle: Handle, mut tokens: OwnTokens) {
        let Some(generator) = &self.generator else { return };
        let now = clock::read();
        let Some(token) = tokens.mint(generator, &self.vault, now) else {
            // What stays due would be all that is ever looked at.
            return self.state.borrow_mut().renewals.forget(handle);
        };
        self.with_session(handle, |session| session.push_token(&token, now));
        self.hold_token(handle, tokens);
    }

    /// Renews what is due, some at a time: the rest follows within seconds, long before it is over.
    pub(super) fn renew_tokens(self: &Rc<Self>) {
        for _ in 0..RENEWALS {
            let due = self.state.borrow().renewals.next_due(clock::read().mono);
            let Some((handle, tokens)) = due else { return };
            self.renew_token(handle, tokens);
        }
    }

    /// Where a session is.
    pub(super) fn path(&self, handle: Handle) -> Option<Path> {
        let state = self.state.borrow();
        let remote = state.endpoint.remote(handle)?;
        let local = state.links.get(&handle)?.local;
        Some(Path { remote, local })
    }

    /// How a session is reached.
    pub(super) fn via(&self, handle: Handle) -> Option<Via> {
        self.state.borrow().links.get(&handle).map(|link| link.via)
    }

    /// True while clients are being removed.
    pub(super) fn busy(&self) -> bool {
        self.leaving.get() > 0 || !self.state.borrow().clients.is_empty()
    }

    /// A client got its addresses: from now on workers know it.
    pub(super) fn admit(&self, handle: Handle, client: Client) {
        let state = &mut *self.state.borrow_mut();
        state.by_peer.insert(client.peer.id, handle);
        state.clients.insert(handle, Box::new(client));
    }

    fn on_closed(self: &Rc<Self>, handle: Handle, reason: &CloseReason) {
        let path = self.path(handle);
        let remote = path.map(|path| path.remote.to_string()).unwrap_or_default();
        let text = match reason {
            CloseReason::Tls(tessera_proto::TlsError::Protocol(error)) => format!("TLS: {}", explain(error)),
            other => other.to_string(),
        };
        let state = &mut *self.state.borrow_mut();
        let control = state.links.get(&handle).map(|link| link.stats).unwrap_or_default();
        if let Some(login) = state.logins.remove(&handle) {
            login.leave();
        }
        state.renewals.forget(handle);
        state.accounts.remove(&handle);
        let Some(client) = state.clients.get_mut(&handle) else {
            match reason {
                CloseReason::Tls(_) | CloseReason::AuthFailed(_) => warn!(remote, "TLS Auth Error: {text}"),
                _ => info!(remote, "session ended before login: {text}"),
            }
            return;
        };
        if client.leaving.replace(text).is_none() {
            client.control = control;
            let (id, generation) = (client.peer.id, client.peer.generation);
            if let Some(path) = path {
                self.directory.leave(path.remote, self.session_ref(handle));
            }
            // The worker stops at once and reports what the client moved; the rest follows then.
            self.data.remove_peer(id, generation);
        }
    }

    /// Something that a worker reports.
    pub(super) fn on_worker(self: &Rc<Self>, message: FromWorker) {
        let handle_of = |id: PeerId| self.state.borrow().by_peer.get(&id).copied();
        match message {
            FromWorker::Control { via, path, bytes } => self.on_datagram(via, path, &bytes),
            FromWorker::StreamClosed(via, why) => {
                let handle = self.state.borrow_mut().streams.remove(&via);
                if let Some(handle) = handle {
                    debug!("the connection of a session is gone: {why}");
                    self.close(handle, Close::Silent("connection closed"));
                }
            }
            FromWorker::Moved { id, path } => {
                if let Some(handle) = handle_of(id) {
                    self.on_moved(handle, id, path);
                }
            }
            FromWorker::RenegotiationDue(id) => {
                if let Some(handle) = handle_of(id) {
                    self.with_session(handle, |session| session.renegotiate(clock::read()));
                }
            }
            FromWorker::Silent(id) => {
                self.close_peer(handle_of(id), Close::Silent("ping-restart: nothing was heard"));
            }
            FromWorker::Inactive(id) => {
                self.close_peer(handle_of(id), Close::Restart("Inactivity timeout".into()));
            }
            FromWorker::Exit(id) => self.close_peer(handle_of(id), Close::Silent("client exited")),
            FromWorker::Removed { id, generation, stats } => {
                if let Some(handle) = handle_of(id) {
                    self.on_removed(handle, generation, stats);
                }
            }
        }
    }

    fn close_peer(self: &Rc<Self>, handle: Option<Handle>, how: Close) {
        if let Some(handle) = handle {
            self.close(handle, how);
        }
    }

    /// A client's data comes from another address, authenticated and fresh.
    fn on_moved(self: &Rc<Self>, handle: Handle, id: PeerId, path: Path) {
        let Some(old) = self.path(handle) else { return };
        let owner = self.state.borrow().clients.get(&handle).map(|client| client.account.owner.clone());
        let Some(owner) = owner else { return };
        let session = self.session_ref(handle);
        match self.directory.relocate(old.remote, path.remote, session, &owner) {
            MoveVerdict::Refused => {
                return info!(from = %old.remote, to = %path.remote, "float refused: the address is another client's");
            }
            MoveVerdict::Replaces(other) => {
                self.ask_to_leave(other, "its address was taken over by the same user");
            }
            MoveVerdict::Free => {}
        }
        info!(from = %old.remote, to = %path.remote, "client floated");
        let state = &mut *self.state.borrow_mut();
        state.endpoint.set_remote(handle, path.remote);
        if let Some(link) = state.links.get_mut(&handle) {
            link.local = path.local;
        }
        self.data.tell(id, ToWorker::SetPath(id, path));
    }

    /// Asks another session, wherever it lives, to end.
    pub(super) fn ask_to_leave(&self, session: SessionRef, why: &'static str) {
        if let Some(shard) = self.shards.get(session.shard) {
            let shard = shard.clone();
            tokio::task::spawn_local(async move {
                // Closed only when that shard has stopped, and its sessions with it.
                let _ = shard.send(Command::Replace { handle: session.handle, why }).await;
            });
        }
    }

    fn on_removed(self: &Rc<Self>, handle: Handle, generation: u64, stats: PeerStats) {
        let client = {
            let state = &mut *self.state.borrow_mut();
            if state.clients.get(&handle).is_none_or(|client| client.peer.generation != generation) {
                return;
            }
            let Some(client) = state.clients.remove(&handle) else {
                return;
            };
            state.by_peer.remove(&client.peer.id);
            client
        };
        let shard = Rc::clone(self);
        self.leaving.set(self.leaving.get() + 1);
        tokio::task::spawn_local(async move {
            super::farewell::logout(&shard, handle, client, stats).await;
            shard.leaving.set(shard.leaving.get().saturating_sub(1));
        });
    }

    /// Takes a changed revocation list into use: for sessions to come, and for those that are here.
    pub(super) fn follow_revocations(self: &Rc<Self>) {
        let revoked: Vec<Handle> = {
            let state = &mut *self.state.borrow_mut();
            match state.tls.reload_crl(clock::now()) {
                CrlReload::NotDue | CrlReload::Unchanged => return,
                CrlReload::KeptOld(error) => return warn!("the new revocation list is not used: {error}"),
                CrlReload::Reloaded(warnings) => {
                    info!("certificate revocation list reloaded");
                    for warning in warnings {
                        warn!("{warning}");
                    }
                }
            }
            state.endpoint.set_tls(state.tls.server_config());
            let State { tls, clients, .. } = state;
            let is_bad = |client: &Client| {
                let chain = &client.account.chain;
                let verdict = if chain.is_empty() { Ok(()) } else { tls.recheck(chain) };
                verdict
                    .inspect_err(|error| warn!(name = client.name(), "session ends: {}", explain(error)))
                    .is_err()
            };
            clients.iter().filter(|(_, client)| is_bad(client)).map(|(handle, _)| *handle).collect()
        };
        for handle in revoked {
            let failure = AuthFailure::Denied(Some("certificate revoked".into()));
            self.close(handle, Close::AuthFailed(failure));
        }
    }
}
